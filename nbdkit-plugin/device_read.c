#include <errno.h>
#include <string.h>
#include <time.h>

#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/device_parts.h"
#include "nbdkit-plugin/flight.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"

enum { READ_TRIES = 3, READ_PAUSE_NS = 200000000 };

/* Each reader takes the pages in `todo` (bit i: page i of the span) that
 * its source has, and clears their bits.  A page's newest content is in
 * its slot if it has one; only then does the slab table tell the truth.
 */
static void
read_from_slots (struct device *d, const struct span *s, uint32_t *todo)
{
  uint32_t slots[SPAN_PAGES_MAX], n = span_pages (s);

  slot_pool_find (d->slots, span_first_page (s), n, slots);
  for (uint32_t i = 0; i < n; i++)
    if (slots[i] != SLOT_NONE && (*todo & pages_mask (i, 1))) {
      span_fill (s, span_first_page (s) + i, 1,
                 slot_pool_buffer (d->slots, slots[i]));
      *todo &= ~pages_mask (i, 1);
      device_count (&d->counters.read_slots, 1);
    }
  slot_pool_release (d->slots, slots, n);
}

/* Post reads for every page in todo that a donor has; returns them. */
static uint32_t
post_reads (struct device *d, const struct span *s, uint32_t todo,
            struct flight *f)
{
  uint32_t posted = 0, n;

  for (uint32_t i = 0; i < span_pages (s); i += n) {
    n = pages_run (todo, i);
    if (n == 0) {
      n = 1;
      continue;
    }

    struct slab_home home;
    uint64_t page = span_first_page (s) + i;
    if (slab_table_route (d->slabs, page, n, true, &n, &home)
        != SOURCE_DONOR)
      continue;
    if (posted) {               /* one pin is enough */
      slab_table_unpin (d->slabs, f->slab, &home);
      if (home.session != f->home.session || home.grant != f->home.grant)
        break;                  /* it has moved: the rest goes there */
    }
    f->home = home;
    posted |= pages_mask (i, n);
    flight_post (d, f, FABRIC_READ, f->lane->landing + i * PAGE_SIZE_BYTES,
                 page, n);
  }
  return posted;
}

static void
land_reads (struct device *d, const struct span *s, struct flight *f,
            uint32_t *todo)
{
  for (unsigned j = 0; j < f->ops; j++) {
    const struct fabric_op *op = &f->lane->ops[j];
    uint32_t i = ((char *) op->local - f->lane->landing) / PAGE_SIZE_BYTES;
    uint32_t n = op->length / PAGE_SIZE_BYTES;

    if (op->status != 0)
      continue;
    span_fill (s, span_first_page (s) + i, n, op->local);
    *todo &= ~pages_mask (i, n);
    device_count (&d->counters.read_donors, n);
  }
}

/* Is any page in todo with a donor?  Spares the others a lane. */
static bool
wants_donor (struct device *d, const struct span *s, uint32_t todo)
{
  struct slab_home home;
  uint32_t n;

  for (uint32_t i = 0; i < span_pages (s); i += n) {
    n = pages_run (todo, i);
    if (n == 0)
      n = 1;
    else if (slab_table_route (d->slabs, span_first_page (s) + i, n, true, &n,
                               &home) == SOURCE_DONOR) {
      slab_table_unpin (d->slabs,
                        slab_table_slab_of (d->slabs, span_first_page (s)),
                        &home);
      return true;
    }
  }
  return false;
}

/* False if there was no lane in time. */
static bool
read_from_donor (struct device *d, const struct span *s, uint32_t *todo,
                 int64_t deadline_ns)
{
  struct flight f = {
    .slab = slab_table_slab_of (d->slabs, span_first_page (s)),
  };

  if (*todo == 0 || !wants_donor (d, s, *todo))
    return true;
  f.lane = lane_pool_take (&d->lanes, deadline_ns);
  if (!f.lane)
    return false;
  if (post_reads (d, s, *todo, &f)) {
    flight_land (d, &f, deadline_ns);
    slab_table_unpin (d->slabs, f.slab, &f.home);
    land_reads (d, s, &f, todo);
  }
  lane_pool_put (&d->lanes, f.lane);
  return true;
}

/* Is the local copy the newest of n pages, and their slab mapped?  If so,
 * hold a weak claim on them, under which that stays true or it is broken.
 */
static bool
begin_promotion (struct device *d, struct page_claim *claim, uint64_t page,
                 uint32_t n)
{
  struct slab_home home;
  uint64_t slab = slab_table_slab_of (d->slabs, page);
  uint32_t on_disk;

  if (!slab_table_pin (d->slabs, slab, &home))
    return false;
  slab_table_unpin (d->slabs, slab, &home);
  if (!page_order_claim_weakly (&d->order, claim, page, n))
    return false;
  if (slab_table_route (d->slabs, page, n, false, &on_disk, &home)
      == SOURCE_DISK && on_disk == n &&
      slot_pool_clear_run (d->slots, page, n) == n)
    return true;
  page_order_release (&d->order, claim);
  return false;
}

/* A promotion is worth no wait: without a free lane there is none. */
static void
write_promoted (struct device *d, uint64_t page, uint32_t n,
                const char *content, int64_t deadline_ns)
{
  struct flight f = { .slab = slab_table_slab_of (d->slabs, page) };

  f.lane = lane_pool_take (&d->lanes, 0);
  if (!f.lane)
    return;
  if (slab_table_pin (d->slabs, f.slab, &f.home)) {
    memcpy (f.lane->landing, content, (size_t) n * PAGE_SIZE_BYTES);
    flight_post (d, &f, FABRIC_WRITE, f.lane->landing, page, n);
    if (flight_land (d, &f, deadline_ns) == 0) {
      slab_table_set_pages (d->slabs, page, n, PAGE_REMOTE);
      device_count (&d->counters.promoted, n);
    }
    slab_table_unpin (d->slabs, f.slab, &f.home);
  }
  lane_pool_put (&d->lanes, f.lane);
}

/* An error kills who reads, so it is the last resort. */
static int
read_patiently (struct device *d, void *buf, uint64_t page, uint32_t n)
{
  const struct timespec pause = { .tv_nsec = READ_PAUSE_NS };
  int r;

  for (int try = 1; ; try++) {
    r = backing_read (d->params.backing, buf, (size_t) n * PAGE_SIZE_BYTES,
                      page * PAGE_SIZE_BYTES);
    if (r == 0 || try == READ_TRIES)
      return r;
    nanosleep (&pause, NULL);
  }
}

/* Pages that are wanted from the disk although their slab has a donor are
 * written there as well, unless a writer has come meanwhile.
 */
static int
read_from_disk (struct device *d, const struct span *s, uint64_t page,
                uint32_t n, int64_t deadline_ns)
{
  struct page_claim claim;
  bool promote = begin_promotion (d, &claim, page, n);
  struct lane *buffer = lane_pool_take (&d->disk_buffers, INT64_MAX);
  int r = read_patiently (d, buffer->landing, page, n);

  if (r == 0) {
    span_fill (s, page, n, buffer->landing);
    device_count (&d->counters.read_disk, n);
    if (promote && fabric_now_ns () < deadline_ns &&
        page_order_strengthen (&d->order, &claim))
      write_promoted (d, page, n, buffer->landing, deadline_ns);
  }
  lane_pool_put (&d->disk_buffers, buffer);
  if (promote)
    page_order_release (&d->order, &claim);
  return r;
}

/* Take what is not with a donor (any more).  A page that got a slot since
 * the slots were looked at is left for the next look: the disk may be
 * older than what the page had then.
 */
static int
read_from_here (struct device *d, const struct span *s, uint32_t *todo,
                bool use_donor, int64_t deadline_ns)
{
  struct slab_home home;
  uint32_t n;
  int r = 0;

  for (uint32_t i = 0; i < span_pages (s) && r == 0; i += n) {
    uint64_t page = span_first_page (s) + i;

    n = pages_run (*todo, i);
    if (n == 0) {
      n = 1;
      continue;
    }
    switch (slab_table_route (d->slabs, page, n, use_donor, &n, &home)) {
    case SOURCE_DONOR:
      slab_table_unpin (d->slabs, slab_table_slab_of (d->slabs, page),
                        &home);
      continue;
    case SOURCE_DISK:
      n = slot_pool_clear_run (d->slots, page, n);
      if (n == 0) {
        n = 1;
        continue;
      }
      r = read_from_disk (d, s, page, n, deadline_ns);
      break;
    case SOURCE_ZERO:
      span_fill (s, page, n, NULL);
      device_count (&d->counters.read_zero, n);
      break;
    case SOURCE_LOST:
      r = -EIO;
      break;
    }
    *todo &= ~pages_mask (i, n);
  }
  return r;
}

int
device_read_span (struct device *d, const struct span *s, int64_t deadline_ns)
{
  uint32_t todo = pages_mask (0, span_pages (s));
  bool use_donor = true;
  int r = 0;

  /* Again while a session ended under us, or a slab was mapped. */
  while (todo && r == 0) {
    read_from_slots (d, s, &todo);
    if (use_donor)
      use_donor = read_from_donor (d, s, &todo, deadline_ns) &&
        fabric_now_ns () < deadline_ns;
    r = read_from_here (d, s, &todo, use_donor, deadline_ns);
  }
  return r;
}
