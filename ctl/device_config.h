/* What infiniswapctl attach is told about a device: its key file, and
 * KEY=VALUE of the command line, which win over the file.
 *
 * Keys of attach itself are checked here; all others are the plugin's
 * (nbdkit-infiniswap-plugin(1)) and are passed on to it as they are.
 */

#ifndef ISW_CTL_DEVICE_CONFIG_H
#define ISW_CTL_DEVICE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

/* Protections that the user allows to be missing. */
enum {
  ALLOW_LOCK = 1 << 0,          /* memory locked, PR_SET_IO_FLUSHER */
  ALLOW_OOM = 1 << 1,           /* never chosen by the OOM killer */
  ALLOW_CGROUP = 1 << 2,        /* no memory limit of a cgroup */
  ALLOW_DONORS = 1 << 3,        /* at least one donor answers */
};

struct device_config {
  char *name;
  int index;                    /* of /dev/nbdN; -1: the first free one */
  uint64_t connections;
  uint64_t threads;             /* of the server, for each connection */
  uint64_t dead_timeout_s;
  bool swap;
  uint64_t priority;
  bool discard;
  unsigned allow;               /* ALLOW_*, or-ed */

  char **plugin_keys;           /* "KEY=VALUE", sorted; ends with NULL */
  char **strings;               /* the same of all keys that were given */
};

/* Whether it can name a device, and the files of one. */
bool device_config_check_name (const char *name);

/* path NULL: no file.  overrides are "KEY=VALUE", end with NULL, may be
 * NULL.  NULL with a newly allocated line in *error that names the key,
 * the value, what is allowed, and where it is written.
 */
struct device_config *device_config_read (const char *name, const char *path,
                                          const char *const *overrides,
                                          char **error);
void device_config_free (struct device_config *c);

#endif /* ISW_CTL_DEVICE_CONFIG_H */
