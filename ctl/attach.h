/* infiniswapctl attach: a device's life, from its key file to its end. */

#ifndef ISW_CTL_ATTACH_H
#define ISW_CTL_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

struct attach_options {
  const char *name;
  const char *config;           /* its key file; NULL: where it is looked for */
  const char *plugin;           /* a name, or a path */
  const char *const *overrides; /* "KEY=VALUE", end with NULL */
  bool foreground;              /* stay, and supervise here */
};

/* Attach and stay, or leave a supervisor in the background.  What is
 * attached already with the same configuration is as good as attached.
 * Messages go to stdout and stderr.  The exit status.
 */
int attach_run (const struct attach_options *o);

/* Check the configuration, the plugin's part too; start nothing. */
int attach_check_config (const struct attach_options *o);

/* Have a new supervisor in the background take over the device whose
 * supervisor was killed.  The exit status.
 */
int attach_take_over (const char *name);

#endif /* ISW_CTL_ATTACH_H */
