/* infiniswapctl top: what devices and donors do, again and again. */

#ifndef ISW_CTL_TOP_H
#define ISW_CTL_TOP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct top_options {
  char *const *sockets;         /* ends with NULL; none: those in folder */
  const char *folder;           /* looked into each time */
  int64_t interval_ns;
  int64_t timeout_ns;           /* until a program counts as gone */
  uint64_t count;               /* pages; 0: until it is ended */
  bool plain;                   /* one page below the other */
};

/* In the terminal, or plain to out.  Ends at q, SIGINT, SIGTERM and
 * SIGHUP.  The exit status: 0, or 1 after a message, and with a count also
 * if any program did not answer.  Runs the default main context.
 */
int top_run (const struct top_options *o, FILE *out, FILE *err);

#endif /* ISW_CTL_TOP_H */
