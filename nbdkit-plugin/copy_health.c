#include "nbdkit-plugin/copy_health.h"

#include <inttypes.h>
#include <string.h>

#include "conf/log.h"
#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/device.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"
#include "nbdkit-plugin/write_behind.h"

void
copy_health_check (struct copy_health *h, const struct device *d)
{
  const char *name = backing_name (d->params.backing);
  const uint64_t with_donors = slab_table_remote_only (d->slabs);
  struct slot_pool_stats slots;

  slot_pool_stats (d->slots, &slots);
  if (h->told == (with_donors + slots.failed > 0))
    return;
  h->told = !h->told;
  if (h->told)
    log_error ("local copy %s: writes fail: %s; %" PRIu32 " pages are in "
               "memory alone, %" PRIu64 " with donors alone; they are tried "
               "again every second", name,
               strerror (-write_behind_last_error (d->writers)),
               slots.failed, with_donors);
  else
    log_notice ("local copy %s: has every page again", name);
}
