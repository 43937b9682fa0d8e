/* infiniswapctl detach: have a device's supervisor give it up. */

#ifndef ISW_CTL_DETACH_H
#define ISW_CTL_DETACH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct detach_options {
  const char *name;
  const char *folder;           /* of the runtime files */
  int64_t timeout_ns;           /* for all of it; 0: none */
  bool force;                   /* do not ask whether there is room */
  bool wait;                    /* where there is none, until there is */
  bool terminal;                /* out is one: rewrite the line */
};

/* Wait until nothing of it is left; show what is still swapped out.  What
 * is not attached is as good as detached.  The exit status: 0, or 1 after
 * a message to err; then the device is served as before.
 */
int detach_run (const struct detach_options *o, FILE *out, FILE *err);

#endif /* ISW_CTL_DETACH_H */
