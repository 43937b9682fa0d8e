#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/device_parts.h"
#include "nbdkit-plugin/read_ahead.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"

enum { ZERO_RUN_PAGES = 4096 };

/* Whole pages are zeroed in the bookkeeping alone.  The page states come
 * first: a reader that no longer finds the slot must not go to the disk.
 */
void
device_zero_pages (struct device *d, uint64_t first, uint64_t end)
{
  while (first < end) {
    uint64_t slab = slab_table_slab_of (d->slabs, first);
    uint64_t slab_end = slab_table_first_page (d->slabs, slab) +
      slab_table_slab_pages (d->slabs, slab);
    uint64_t n = (end < slab_end ? end : slab_end) - first;
    struct page_claim claim;

    page_order_claim (&d->order, &claim, first, n);
    slab_table_set_pages (d->slabs, first, n, PAGE_ZERO);
    slot_pool_drop (d->slots, first, n);
    read_ahead_forget (d->ahead, first, n);
    page_order_release (&d->order, &claim);
    device_count (&d->counters.trimmed, n);
    first += n;
  }
}

/* Zero PAGE_ZERO pages on the local copy, under the claim of a range that
 * holds them.  A page whose dropped slot is still on its way there was
 * zeroed after the flush began, and stays PAGE_ZERO.
 */
static int
settle_range (struct device *d, uint64_t slab, uint64_t page, uint64_t end)
{
  uint64_t n;
  int r = 0;

  while (r == 0 && page < end &&
         (n = slab_table_next (d->slabs, slab, PAGE_ZERO, &page,
                               end - page)) > 0 &&
         page < end) {
    if (n > end - page)
      n = end - page;
    n = slot_pool_stored_run (d->slots, page, n, NULL, NULL);
    if (n > 0) {
      r = backing_zero (d->params.backing, page * PAGE_SIZE_BYTES,
                        n * PAGE_SIZE_BYTES);
      if (r == 0)
        slab_table_set_pages (d->slabs, page, n, PAGE_LOCAL);
    }
    page += n > 0 ? n : 1;
  }
  return r;
}

int
device_settle_zeros (struct device *d)
{
  int r = 0;

  for (uint64_t slab = 0; slab < slab_table_slabs (d->slabs); slab++) {
    uint64_t page = slab_table_first_page (d->slabs, slab), n;

    while (r == 0 && (n = slab_table_next (d->slabs, slab, PAGE_ZERO,
                                           &page, ZERO_RUN_PAGES)) > 0) {
      struct page_claim claim;

      page_order_claim (&d->order, &claim, page, n);
      r = settle_range (d, slab, page, page + n);
      page_order_release (&d->order, &claim);
      page += n;
    }
  }
  return r;
}
