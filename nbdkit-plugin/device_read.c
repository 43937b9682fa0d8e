#include <errno.h>
#include <string.h>
#include <time.h>

#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/device_parts.h"
#include "nbdkit-plugin/flight.h"
#include "nbdkit-plugin/read_ahead.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"

enum { READ_TRIES = 3, READ_PAUSE_NS = 200000000, LATE_MAX_NS = 500000000 };

static void
note_pages (struct device *d, _Atomic uint64_t *counter,
            enum device_latency source, int64_t begin_ns, uint32_t n)
{
  device_count (counter, n);
  device_note (d, source, begin_ns, n);
}

/* Each reader takes the pages in `todo` (bit i: page i of the span) that
 * its source has, and clears their bits.  A page's newest content is in
 * its slot if it has one; only then does the slab table tell the truth.
 */
static void
read_from_slots (struct device *d, const struct span *s, uint32_t *todo,
                 int64_t begin_ns)
{
  uint32_t slots[SPAN_PAGES_MAX], n = span_pages (s), found = 0;

  if (slot_pool_find (d->slots, span_first_page (s), n, slots) == 0)
    return;
  for (uint32_t i = 0; i < n; i++)
    if (slots[i] != SLOT_NONE && (*todo & pages_mask (i, 1))) {
      span_fill (s, span_first_page (s) + i, 1,
                 slot_pool_buffer (d->slots, slots[i]));
      *todo &= ~pages_mask (i, 1);
      found++;
    }
  slot_pool_release (d->slots, slots, n);
  if (found > 0)
    note_pages (d, &d->counters.read_slots, LATENCY_READ_SLOTS, begin_ns,
                found);
}

static void
read_from_windows (struct device *d, const struct span *s, uint32_t *todo,
                   int64_t begin_ns, int64_t deadline_ns)
{
  const char *content;
  struct window *window;
  uint32_t n, got, found = 0;

  for (uint32_t i = 0; i < span_pages (s); i += n) {
    uint64_t page = span_first_page (s) + i;

    n = pages_run (*todo, i);
    if (n == 0) {
      n = 1;
      continue;
    }
    got = read_ahead_find (d->ahead, &page, n, deadline_ns, &content,
                           &window);
    if (got == 0)
      continue;
    span_fill (s, page, got, content);
    read_ahead_release (d->ahead, window, page, got);
    i = page - span_first_page (s);
    n = got;
    *todo &= ~pages_mask (i, n);
    found += n;
  }
  if (found > 0) {
    device_count (&d->counters.read_ahead, found);
    note_pages (d, &d->counters.read_donors, LATENCY_READ_DONORS, begin_ns,
                found);
  }
}

/* The next pages in todo, from *i on, that a donor has, which pins their
 * slab at *home: how many from *i; 0 if there are none.
 */
static uint32_t
next_with_donor (struct device *d, const struct span *s, uint32_t todo,
                 uint32_t *i, struct slab_home *home)
{
  uint32_t n;

  for (; *i < span_pages (s); *i += n) {
    n = pages_run (todo, *i);
    if (n == 0)
      n = 1;
    else if (slab_table_route (d->slabs, span_first_page (s) + *i, n, true,
                               &n, home) == SOURCE_DONOR)
      return n;
  }
  return 0;
}

/* Post reads for n pages from i on, which are at the pinned f->home, and
 * for all others in todo that it has.
 */
static void
post_reads (struct device *d, const struct span *s, uint32_t todo,
            uint32_t i, uint32_t n, char *landing, struct flight *f)
{
  struct slab_home home;

  do {
    flight_post (d, f, FABRIC_READ, landing + i * PAGE_SIZE_BYTES,
                 span_first_page (s) + i, n);
    i += n;
    n = next_with_donor (d, s, todo, &i, &home);
    if (n > 0)                  /* one pin is enough */
      slab_table_unpin (d->slabs, f->slab, &home);
    /* If it has moved, the rest goes there. */
  } while (n > 0 && home.session == f->home.session &&
           home.grant == f->home.grant);
}

static void
land_reads (const struct span *s, const struct flight *f,
            const char *landing, uint32_t *todo)
{
  for (unsigned j = 0; j < f->n; j++) {
    const struct fabric_op *op = &f->ops[j];
    uint32_t i = ((char *) op->local - landing) / PAGE_SIZE_BYTES;
    uint32_t n = op->length / PAGE_SIZE_BYTES;

    if (op->status != 0)
      continue;
    span_fill (s, span_first_page (s) + i, n, op->local);
    *todo &= ~pages_mask (i, n);
  }
}

/* False if there was no lane in time. */
static bool
take_from_donor (struct device *d, const struct span *s, uint32_t *todo,
                 int64_t deadline_ns)
{
  struct flight f = { 0 };
  uint32_t i = 0, n = next_with_donor (d, s, *todo, &i, &f.home);
  struct lane *lane;
  bool in_time;

  if (n == 0)
    return true;
  f.slab = slab_table_slab_of (d->slabs, span_first_page (s));
  lane = lane_pool_take (&d->lanes, deadline_ns);
  in_time = lane && flight_has_time (d, deadline_ns);
  if (in_time) {
    f.lane = lane->id;
    f.ops = lane->ops;
    post_reads (d, s, *todo, i, n, lane->landing, &f);
    flight_land (d, &f, deadline_ns);
  }
  slab_table_unpin (d->slabs, f.slab, &f.home);
  if (in_time)
    land_reads (s, &f, lane->landing, todo);
  if (lane)
    lane_pool_put (&d->lanes, lane);
  return in_time;
}

static bool
read_from_donor (struct device *d, const struct span *s, uint32_t *todo,
                 int64_t begin_ns, int64_t deadline_ns)
{
  const uint32_t before = *todo;
  const bool in_time = take_from_donor (d, s, todo, deadline_ns);

  if (*todo != before)
    note_pages (d, &d->counters.read_donors, LATENCY_READ_DONORS, begin_ns,
                __builtin_popcount (before & ~*todo));
  return in_time;
}

uint32_t
device_count_fetchable (void *data, uint64_t first, uint32_t n)
{
  struct device *d = data;
  struct slab_home home;

  if (slab_table_route (d->slabs, first, n, true, &n, &home) == SOURCE_DONOR) {
    slab_table_unpin (d->slabs, slab_table_slab_of (d->slabs, first), &home);
    return n;
  }
  return 0;
}

uint32_t
device_fetch (void *data, uint64_t first, uint32_t n, char *buf)
{
  struct device *d = data;
  const struct span s = span_of_pages (buf, first, n);
  uint32_t todo = pages_mask (0, n), got;

  take_from_donor (d, &s, &todo, fabric_now_ns () + d->params.deadline_ns);
  got = pages_run (pages_mask (0, n) & ~todo, 0);
  device_count (&d->counters.fetched_ahead, got);
  return got;
}

/* Is the local copy the newest of n pages, and their slab mapped?  If so,
 * hold a weak claim on them, under which that stays true or it is broken.
 */
static bool
begin_promotion (struct device *d, struct page_claim *claim, uint64_t page,
                 uint32_t n)
{
  struct slab_home home;
  uint32_t on_disk;

  if (!slab_table_is_reachable (d->slabs,
                                slab_table_slab_of (d->slabs, page)))
    return false;
  if (!page_order_claim_weakly (&d->order, claim, page, n))
    return false;
  /* Slots first: without one, and under the claim, where the pages are does
   * not change any more.
   */
  if (slot_pool_clear_run (d->slots, page, n) == n &&
      slab_table_route (d->slabs, page, n, false, &on_disk, &home)
      == SOURCE_DISK && on_disk == n)
    return true;
  page_order_release (&d->order, claim);
  return false;
}

/* A promotion is worth no wait: without a free lane there is none. */
static void
write_promoted (struct device *d, uint64_t page, uint32_t n,
                const char *content, int64_t deadline_ns)
{
  struct lane *lane = lane_pool_take (&d->lanes, 0);
  struct flight f = { .slab = slab_table_slab_of (d->slabs, page) };

  if (!lane)
    return;
  f.lane = lane->id;
  f.ops = lane->ops;
  if (slab_table_pin (d->slabs, f.slab, &f.home)) {
    memcpy (lane->landing, content, (size_t) n * PAGE_SIZE_BYTES);
    flight_post (d, &f, FABRIC_WRITE, lane->landing, page, n);
    if (flight_land (d, &f, deadline_ns) == 0) {
      slab_table_set_pages (d->slabs, page, n, PAGE_REMOTE);
      device_count (&d->counters.promoted, n);
    }
    slab_table_unpin (d->slabs, f.slab, &f.home);
  }
  lane_pool_put (&d->lanes, lane);
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
  const int64_t begin_ns = fabric_now_ns ();
  struct page_claim claim;
  bool promote = begin_promotion (d, &claim, page, n);
  struct lane *buffer = lane_pool_take (&d->disk_buffers, INT64_MAX);
  int r = read_patiently (d, buffer->landing, page, n);

  if (r == 0) {
    span_fill (s, page, n, buffer->landing);
    note_pages (d, &d->counters.read_disk, LATENCY_READ_DISK, begin_ns, n);
    if (promote && flight_has_time (d, deadline_ns) &&
        page_order_strengthen (&d->order, &claim))
      write_promoted (d, page, n, buffer->landing, deadline_ns);
  }
  lane_pool_put (&d->disk_buffers, buffer);
  if (promote)
    page_order_release (&d->order, &claim);
  return r;
}

struct disk_query {
  struct device *device;
  bool use_donor;
};

static uint64_t
count_routed_to_disk (void *data, uint64_t page, uint64_t n)
{
  const struct disk_query *q = data;
  struct slab_home home;
  uint32_t on_disk;
  enum page_source source = slab_table_route (q->device->slabs, page, n,
                                              q->use_donor, &on_disk, &home);

  if (source == SOURCE_DONOR)
    slab_table_unpin (q->device->slabs,
                      slab_table_slab_of (q->device->slabs, page), &home);
  return source == SOURCE_DISK ? on_disk : 0;
}

/* How many of n pages that were said to be on the local copy are there for
 * certain, and nowhere else: since then they may have got a slot, and even
 * have left it again for a donor alone.  Both is asked at once: a page that
 * is discarded and written between the two would look as if it were there.
 */
static uint32_t
count_on_disk (struct device *d, uint64_t page, uint32_t n, bool use_donor)
{
  struct disk_query q = { d, use_donor };

  return slot_pool_stored_run (d->slots, page, n, count_routed_to_disk, &q);
}

static void
read_zeros (struct device *d, const struct span *s, uint64_t page,
            uint32_t n)
{
  const int64_t begin_ns = fabric_now_ns ();

  span_fill (s, page, n, NULL);
  note_pages (d, &d->counters.read_zero, LATENCY_READ_ZERO, begin_ns, n);
}

/* How late a read may be that would fail otherwise; guarantee 4 leaves a
 * second.
 */
static int64_t
late_ns (const struct device *d)
{
  const int64_t quarter = d->params.deadline_ns / 4;

  return quarter < LATE_MAX_NS ? quarter : LATE_MAX_NS;
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
      n = count_on_disk (d, page, n, use_donor);
      if (n == 0) {
        n = 1;
        continue;
      }
      r = read_from_disk (d, s, page, n, deadline_ns);
      break;
    case SOURCE_ZERO:
      read_zeros (d, s, page, n);
      break;
    case SOURCE_LOST:
      r = -EIO;
      break;
    }
    if (r == 0)
      *todo &= ~pages_mask (i, n);
  }
  return r;
}

int
device_read_span (struct device *d, const struct span *s, int64_t deadline_ns)
{
  uint32_t todo = pages_mask (0, span_pages (s));
  bool use_donor = true, last_resort = false;
  int r = 0;

  /* Again while a session ended under us, or a slab was mapped. */
  while (todo && r == 0) {
    const int64_t begin_ns = fabric_now_ns ();

    read_from_slots (d, s, &todo, begin_ns);
    read_from_windows (d, s, &todo, begin_ns, deadline_ns);
    if (use_donor)
      use_donor = read_from_donor (d, s, &todo, begin_ns, deadline_ns) &&
        (!todo || fabric_now_ns () < deadline_ns);
    r = read_from_here (d, s, &todo, use_donor, deadline_ns);
    if (r < 0 && !use_donor && !last_resort) {
      /* A donor may have it yet: an error is worse than to be late. */
      last_resort = use_donor = true;
      deadline_ns = fabric_now_ns () + late_ns (d);
      r = 0;
    }
  }
  return r;
}
