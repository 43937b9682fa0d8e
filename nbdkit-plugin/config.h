/* The plugin's key=value configuration. */

#ifndef ISW_PLUGIN_CONFIG_H
#define ISW_PLUGIN_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "conf/donor_list.h"
#include "conf/memory_lock.h"
#include "nbdkit-plugin/donor_pool.h"

struct config {
  uint64_t size_bytes;          /* 0: as large as backing */
  struct donor_list *donors;
  char *donors_file;
  int64_t resolve_interval_ns;
  enum fabric_choice fabric;
  uint64_t slab_size_bytes;
  char *backing;
  bool backing_unsafe;
  double hot_slab, cold_slab, smoothing;
  uint64_t probes, max_slabs_per_donor, lanes;
  uint64_t write_behind_bytes;
  int64_t write_delay_ns;
  uint64_t read_ahead_bytes;
  int64_t deadline_ns;
  enum memory_lock_mode lock;
  char *state, *metrics;
  bool check_only, outlive_parent;
};

/* For nbdkit's --help. */
extern const char config_help[];

void config_init (struct config *c);
void config_clear (struct config *c);

/* Set one key.  0, or -1 after nbdkit_error. */
int config_set (struct config *c, const char *key, const char *value);

/* After all keys: what goes together.  0, or -1 after nbdkit_error. */
int config_check (struct config *c);

/* Every key with its value in force: key, value, ..., NULL.  g_strfreev. */
char **config_strings (const struct config *c);

#endif /* ISW_PLUGIN_CONFIG_H */
