/* infiniswapctl check: what on this machine is missing or risky for
 * swapping, each with its remedy.
 */

#ifndef ISW_CTL_CHECK_H
#define ISW_CTL_CHECK_H

#include <stdio.h>

struct check_options {
  const char *name;             /* of a device; NULL: the machine alone */
  const char *config;           /* its key file */
  const char *plugin;           /* nbdkit's, by name or path */
};

/* One line for each finding to out, with the remedy below it.  The exit
 * status: 0, or 1 if something is missing (warnings are not).
 */
int check_run (const struct check_options *o, FILE *out);

#endif /* ISW_CTL_CHECK_H */
