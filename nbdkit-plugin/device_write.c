#include <errno.h>
#include <string.h>

#include "nbdkit-plugin/device_parts.h"
#include "nbdkit-plugin/flight.h"
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

/* One operation for each run of slots adjacent in memory. */
static void
post_writes (struct device *d, const struct span *s, const uint32_t *slots,
             struct flight *f)
{
  uint32_t n;

  for (uint32_t i = 0; i < span_pages (s); i += n) {
    for (n = 1; i + n < span_pages (s); n++)
      if (slots[i + n] != slots[i] + n)
        break;
    flight_post (d, f, FABRIC_WRITE, slot_pool_buffer (d->slots, slots[i]),
                 span_first_page (s) + i, n);
  }
}

/* True if the donor has the pages now; then the slab is left pinned at
 * this home, so that it cannot leave there before that is recorded.
 */
static bool
write_to_donor (struct device *d, const struct span *s,
                const uint32_t *slots, int64_t deadline_ns,
                struct slab_home *home)
{
  struct flight f = {
    .slab = slab_table_slab_of (d->slabs, span_first_page (s)),
  };
  int r = -ETIMEDOUT;

  if (!flight_has_time (d, deadline_ns) ||
      !slab_table_pin (d->slabs, f.slab, &f.home))
    return false;
  f.lane = lane_pool_take (&d->lanes, deadline_ns);
  if (f.lane) {
    if (flight_has_time (d, deadline_ns)) {
      post_writes (d, s, slots, &f);
      r = flight_land (d, &f, deadline_ns);
    }
    lane_pool_put (&d->lanes, f.lane);
  }
  if (r < 0)
    slab_table_unpin (d->slabs, f.slab, &f.home);
  *home = f.home;
  return r == 0;
}

/* Make filled slots the content of the span's pages (see `committed`),
 * which the pinned home has as well, if not NULL; releases the claim.
 */
static int
commit_span (struct device *d, const struct span *s, const uint32_t *slots,
             struct page_claim *claim, const struct slab_home *remote)
{
  uint64_t page = span_first_page (s);
  uint32_t n = span_pages (s);
  struct slot_waiter waiter;

  slot_pool_commit (d->slots, page, slots, n, remote ? NULL : &waiter);
  if (remote)
    slab_table_unpin (d->slabs, slab_table_slab_of (d->slabs, page), remote);
  page_order_release (&d->order, claim);

  device_count (&d->counters.written, n);
  device_count (remote ? &d->counters.written_donors
                : &d->counters.written_disk, n);
  return remote ? 0 : slot_pool_wait (d->slots, &waiter);
}

int
device_write_span (struct device *d, const struct span *s,
                   int64_t deadline_ns)
{
  uint32_t slots[SPAN_PAGES_MAX];
  struct page_claim claim;
  struct slab_home home;
  bool remote;
  int r;

  r = slot_pool_take (d->slots, span_pages (s), slots);
  if (r < 0)
    return r;
  page_order_claim (&d->order, &claim, span_first_page (s), span_pages (s));
  r = fill_slots (d, s, slots, deadline_ns);
  if (r < 0) {
    page_order_release (&d->order, &claim);
    slot_pool_put_back (d->slots, slots, span_pages (s));
    return r;
  }
  remote = write_to_donor (d, s, slots, deadline_ns, &home);
  return commit_span (d, s, slots, &claim, remote ? &home : NULL);
}
