/* The donor's options, from the command line and a key file. */

#ifndef ISW_DONOR_CONFIG_H
#define ISW_DONOR_CONFIG_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "conf/memory_lock.h"

enum donor_fabric { DONOR_FABRIC_AUTO, DONOR_FABRIC_VERBS, DONOR_FABRIC_TCP };

enum { DONOR_OPTIONS_MAX = 16 };

struct donor_config {
  struct sockaddr_storage listen; /* port 0: any free one */
  socklen_t listen_len;
  enum donor_fabric fabric;
  uint64_t memory_bytes;        /* UINT64_MAX: no limit */
  uint64_t headroom_bytes;
  uint64_t ready;               /* slabs */
  uint64_t slab_size_bytes;
  uint64_t max_borrowers;
  uint64_t max_per_borrower_bytes; /* UINT64_MAX: no limit */
  double smoothing;             /* beta */
  uint64_t evict_extra;         /* E' in slabs; UINT64_MAX: as many as E */
  int64_t deadline_ns;
  enum memory_lock_mode lock;
  const char *state_path;       /* NULL: none */
  const char *metrics;          /* ADDR:PORT; NULL: none */

  /* No options: tests put their own here. */
  const char *meminfo_path;
  const char *cgroup_path;
  const char *mountinfo_path;
  const char *pressure_path;

  /* What was given, or the default, for each option by its number. */
  char *values[DONOR_OPTIONS_MAX];
};

/* argv as main has it.  0: *ret is to be freed.  1: --help, --version or
 * --check-config, whose text is in *text (g_free).  -EINVAL: one line in *text.
 */
int donor_config_parse (char *const *argv, struct donor_config **ret,
                        char **text);
void donor_config_free (struct donor_config *config);

/* The name of option i (from 0; no dashes) and its value in force; NULL
 * behind the last.
 */
const char *donor_config_option (const struct donor_config *config,
                                 size_t i, const char **value);

#endif /* ISW_DONOR_CONFIG_H */
