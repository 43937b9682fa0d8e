/* infiniswapctl status: ask programs what they do, and show it. */

#ifndef ISW_CTL_STATUS_H
#define ISW_CTL_STATUS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct status_options {
  char *const *sockets;         /* ends with NULL; none: those in folder */
  const char *folder;
  int64_t timeout_ns;           /* for each socket */
  bool json;
};

/* Print to out, and what went wrong to err.  The exit status: 0, or 1 if
 * any program did not answer.
 */
int status_run (const struct status_options *o, FILE *out, FILE *err);

#endif /* ISW_CTL_STATUS_H */
