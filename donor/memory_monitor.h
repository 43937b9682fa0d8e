/* What the node uses: U of the paper's section 4.4, the memory that
 * everything but this donor uses, sampled, and averaged once a second.
 *
 * U is total - available - held.  Where a cgroup of this process has less
 * left than the node, that is what is available.
 */

#ifndef ISW_MEMORY_MONITOR_H
#define ISW_MEMORY_MONITOR_H

#include <stdbool.h>
#include <stdint.h>

#include "conf/cgroup.h"
#include "placement/headroom.h"

struct memory_monitor {
  const char *path;             /* /proc/meminfo, or a test's own */
  const struct cgroup *cgroup;  /* NULL: none */
  double smoothing;             /* beta */
  bool sampled;

  uint64_t total_bytes;         /* of the last sample */
  uint64_t available_bytes;
  uint64_t used_bytes;          /* U of the last sample */
  uint64_t recent_bytes[HEADROOM_SAMPLES]; /* it and earlier ones */
  double used_average_bytes;    /* U averaged; the first sample as it is */
};

/* path and cgroup outlive the monitor. */
void memory_monitor_init (struct memory_monitor *m, const char *path,
                          const struct cgroup *cgroup, double smoothing);

/* Take a sample, always after the same time; the first one is also the
 * average.  held_bytes is what the donor itself holds now.  Reads MemTotal
 * and MemAvailable by name.  On failure all values stay as they were:
 * -errno of opening or reading a file, -ENOENT for a missing field,
 * -EBADMSG for a malformed one.
 */
int memory_monitor_sample (struct memory_monitor *m, uint64_t held_bytes);

/* A second has passed: the last sample goes into the average. */
void memory_monitor_step (struct memory_monitor *m);

/* The worse of the average and what the last samples let foresee. */
uint64_t memory_monitor_worse_bytes (const struct memory_monitor *m);

#endif /* ISW_MEMORY_MONITOR_H */
