#include "nbdkit-plugin/copy_health.h"

#include <inttypes.h>
#include <string.h>

#include "conf/log.h"
#include "fabric/fabric.h"
#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/device.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"
#include "nbdkit-plugin/write_behind.h"

/* What was refused and is written again waits for write-delay, for its donor,
 * and for the disk, which may refuse it again.
 */
static int64_t
quiet_ns (const struct device *d)
{
  return d->params.write_delay_ns + 2 * d->params.deadline_ns +
    INT64_C (5000000000);
}

void
copy_health_check (struct copy_health *h, const struct device *d)
{
  const char *name = backing_name (d->params.backing);
  const uint64_t errors = write_behind_errors (d->writers);
  const int64_t now_ns = fabric_now_ns ();
  struct slot_pool_stats slots;
  uint64_t remote;
  bool refuses;

  /* In this order: a page that a donor takes over is counted twice then,
   * rather than not at all.
   */
  slot_pool_stats (d->slots, &slots);
  remote = slab_table_remote_only (d->slabs);
  refuses = slots.failed > 0 || remote > 0 || errors != h->errors;
  h->errors = errors;
  if (refuses)
    h->refused_ns = now_ns;
  if (refuses && !h->told) {
    h->told = true;
    log_error ("local copy %s: writes fail: %s; %" PRIu32 " pages are in "
               "memory alone, %" PRIu64 " with donors alone or lost", name,
               strerror (-write_behind_last_error (d->writers)),
               slots.failed, remote);
  }
  else if (h->told && now_ns - h->refused_ns > quiet_ns (d)) {
    h->told = false;
    log_notice ("local copy %s: has every page again", name);
  }
}
