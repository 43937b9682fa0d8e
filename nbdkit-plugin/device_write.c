#include <errno.h>
#include <string.h>

#include "nbdkit-plugin/device_parts.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"

/* Copy the span into slots, completing partial pages with what they hold;
 * under the claim of the pages.
 */
static int
fill_slots (struct device *d, const struct span *s, const uint32_t *slots,
            int64_t deadline_ns)
{
  for (uint32_t i = 0; i < span_pages (s); i++) {
    uint64_t page = span_first_page (s) + i;
    char *slot = slot_pool_buffer (d->slots, slots[i]);
    uint32_t in_page, len;
    const char *from = span_overlap (s, page, &in_page, &len);

    if (len < PAGE_SIZE_BYTES) {
      struct span whole = span_of_pages (slot, page, 1);
      int r = device_read_span (d, &whole, deadline_ns);
      if (r < 0)
        return r;
    }
    memcpy (slot + in_page, from, len);
  }
  return 0;
}

/* Make the slots the content of the pages.  A slab's donor and the local
 * copy get them later, one without a donor has them when the local copy has.
 */
static int
commit (struct device *d, const struct span *s, const uint32_t *slots,
        struct page_claim *claim)
{
  const uint64_t page = span_first_page (s);
  const bool behind =
    slab_table_is_reachable (d->slabs, slab_table_slab_of (d->slabs, page));
  struct slot_waiter waiter;

  slot_pool_commit (d->slots, page, slots, span_pages (s),
                    behind ? NULL : &waiter);
  page_order_release (&d->order, claim);
  return behind ? 0 : slot_pool_wait (d->slots, &waiter);
}

int
device_write_span (struct device *d, const struct span *s,
                   int64_t deadline_ns)
{
  uint32_t slots[SPAN_PAGES_MAX], n = span_pages (s);
  struct page_claim claim;
  int r;

  r = slot_pool_take (d->slots, n, slots);
  if (r < 0)
    return r;
  page_order_claim (&d->order, &claim, span_first_page (s), n);
  r = fill_slots (d, s, slots, deadline_ns);
  if (r < 0) {
    page_order_release (&d->order, &claim);
    slot_pool_put_back (d->slots, slots, n);
    return r;
  }
  device_count (&d->counters.written, n);
  return commit (d, s, slots, &claim);
}
