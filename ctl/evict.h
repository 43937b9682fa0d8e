/* infiniswapctl evict: make a donor take slabs back. */

#ifndef ISW_CTL_EVICT_H
#define ISW_CTL_EVICT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct evict_options {
  const char *socket;
  const char *count;            /* a number above 0, or "all" */
  int64_t timeout_ns;           /* until they are back */
};

/* Is it a count as above? */
bool evict_check_count (const char *count);

/* Wait until the slabs are back, print to out how many, and what went
 * wrong to err.  The exit status: 0, or 1 if the program did not answer,
 * is no donor, or slabs are still missing.
 */
int evict_run (const struct evict_options *o, FILE *out, FILE *err);

#endif /* ISW_CTL_EVICT_H */
