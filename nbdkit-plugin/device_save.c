#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/device_parts.h"
#include "nbdkit-plugin/flight.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"

enum { BAD_PAGES_MAX = 8 };

static int64_t
half_deadline (const struct device *d)
{
  return fabric_now_ns () + d->params.deadline_ns / 2;
}

/* Write n pages that only the donor has to the local copy, under their
 * claim; no slot of theirs is in flight, since what a slot holds is newer
 * than what the donor alone has.
 */
static int
save_run (struct device *d, uint64_t page, uint32_t n)
{
  struct lane *buffer = lane_pool_take (&d->disk_buffers, INT64_MAX);
  struct span s = span_of_pages (buffer->landing, page, n);
  struct iovec iov = { .iov_base = s.buf, .iov_len = s.len };
  int r = device_read_span (d, &s, half_deadline (d));

  if (r == 0)
    r = backing_write (d->params.backing, &iov, 1, s.offset);
  if (r == 0) {
    slab_table_set_pages (d->slabs, page, n, PAGE_REMOTE);
    device_count (&d->counters.saved, n);
  }
  lane_pool_put (&d->disk_buffers, buffer);
  return r;
}

/* How saving a slab has gone so far. */
struct saving {
  int error;                    /* the first; or 0 */
  unsigned bad;                 /* pages in a row that were not saved */
};

static void
note_saved (struct saving *s, int r)
{
  s->bad = r < 0 ? s->bad + 1 : 0;
  if (s->error == 0)
    s->error = r;
}

/* One bad page does not keep its neighbours from being saved; many in a
 * row mean that the disk as a whole fails.
 */
static void
save_pages (struct device *d, struct saving *s, uint64_t page, uint32_t n)
{
  int r = save_run (d, page, n);

  if (r == 0 || n == 1) {
    note_saved (s, r);
    return;
  }
  for (uint32_t i = 0; i < n && s->bad < BAD_PAGES_MAX; i++)
    note_saved (s, save_run (d, page + i, 1));
}

/* The same for those of n pages that are so still. */
static void
save_claimed (struct device *d, struct saving *s, uint64_t slab,
              uint64_t page, uint64_t n)
{
  const uint64_t end = page + n;
  struct page_claim claim;

  page_order_claim (&d->order, &claim, page, n);
  while (s->bad < BAD_PAGES_MAX && page < end &&
         (n = slab_table_next (d->slabs, slab, PAGE_REMOTE_ONLY, &page,
                               end - page)) > 0 && page < end) {
    if (n > end - page)
      n = end - page;
    save_pages (d, s, page, n);
    page += n;
  }
  page_order_release (&d->order, &claim);
}

int
device_save (struct device *d, uint64_t slab,
             const _Atomic int64_t *until_ns)
{
  uint64_t page = slab_table_first_page (d->slabs, slab), n;
  struct saving s = { .error = 0 };

  while (s.bad < BAD_PAGES_MAX &&
         (n = slab_table_next (d->slabs, slab, PAGE_REMOTE_ONLY, &page,
                               SPAN_PAGES_MAX)) > 0) {
    if (fabric_now_ns () >= atomic_load (until_ns))
      return -ETIMEDOUT;
    save_claimed (d, &s, slab, page, n);
    page += n;
  }
  return s.error;
}

int
device_save_all (struct device *d, int64_t until_ns)
{
  const _Atomic int64_t until = until_ns;
  int r = 0;

  for (uint64_t i = 0; i < slab_table_slabs (d->slabs) &&
         slab_table_remote_only (d->slabs) > 0; i++) {
    int r2 = device_save (d, i, &until);
    if (r == 0)
      r = r2;
  }
  return r;
}

static int
carry (struct device *d, struct lane *lane, enum fabric_type type,
       uint64_t page, uint32_t n, const struct slab_home *home,
       int64_t deadline_ns)
{
  struct flight f = { .lane = lane->id, .ops = lane->ops, .home = *home };

  flight_post (d, &f, type, lane->landing, page, n);
  return flight_land (d, &f, deadline_ns);
}

/* Copy n pages from where the slab lives to `next`. */
static int
copy_run (struct device *d, uint64_t page, uint32_t n,
          const struct slab_home *next)
{
  const int64_t deadline_ns = half_deadline (d);
  const uint64_t slab = slab_table_slab_of (d->slabs, page);
  struct lane *lane = lane_pool_take (&d->lanes, deadline_ns);
  struct slab_home home;
  int r = -ECONNRESET;

  if (!lane)
    return -ETIMEDOUT;
  if (slab_table_pin (d->slabs, slab, &home)) {
    r = carry (d, lane, FABRIC_READ, page, n, &home, deadline_ns);
    slab_table_unpin (d->slabs, slab, &home);
  }
  if (r == 0)
    r = carry (d, lane, FABRIC_WRITE, page, n, next, deadline_ns);
  lane_pool_put (&d->lanes, lane);
  return r;
}

struct move {
  uint64_t slab;
  const struct slab_home *next;
  const _Atomic int64_t *until_ns; /* when to stop copying; may change */
};

/* Copy those pages from `page` to before `end` that are in this state and
 * have not been copied; under their claim.
 */
static int
copy_claimed (struct device *d, const struct move *m, enum page_state state,
              uint64_t page, uint64_t end)
{
  uint64_t n;
  int r = 0;

  while (r == 0 && page < end &&
         (n = slab_table_next_to_copy (d->slabs, m->slab, state, &page,
                                       SPAN_PAGES_MAX)) > 0 && page < end) {
    if (n > end - page)
      n = end - page;
    r = fabric_now_ns () < atomic_load (m->until_ns) ?
      copy_run (d, page, n, m->next) : -ETIMEDOUT;
    if (r == 0)
      slab_table_note_copied (d->slabs, m->slab, page, n);
    page += n;
  }
  return r;
}

/* Copy all pages in this state, claiming a few at a time, so that writers
 * wait for these alone.  Those written later are to be copied again.
 */
static int
copy_along (struct device *d, const struct move *m, enum page_state state)
{
  uint64_t page = slab_table_first_page (d->slabs, m->slab), n;
  struct page_claim claim;
  int r = 0;

  while (r == 0 && (n = slab_table_next_to_copy (d->slabs, m->slab, state,
                                                 &page, SPAN_PAGES_MAX))
         > 0) {
    page_order_claim (&d->order, &claim, page, n);
    r = copy_claimed (d, m, state, page, page + n);
    page_order_release (&d->order, &claim);
    page += n;
  }
  return r;
}

/* Copy what is left, under a claim of the whole slab, and exchange the
 * home.
 */
static int
finish_claimed (struct device *d, const struct move *m, uint64_t first,
                uint64_t end)
{
  /* Writers wait for the claim: this time, and that of the last copy, are a
   * deadline at most.
   */
  const _Atomic int64_t end_ns = half_deadline (d);
  struct move only = *m, also = *m;
  int r;

  only.until_ns = &end_ns;
  if (atomic_load (also.until_ns) > end_ns)
    also.until_ns = &end_ns;
  do {
    r = copy_claimed (d, &only, PAGE_REMOTE_ONLY, first, end);
    if (r < 0)
      return r;
    copy_claimed (d, &also, PAGE_REMOTE, first, end);
    if (atomic_load (m->next->session_ended))
      return -ECONNRESET;
    r = slab_table_move (d->slabs, m->slab, m->next);
  } while (r == -EAGAIN);
  return r;
}

static int
finish (struct device *d, struct move *m)
{
  const uint64_t first = slab_table_first_page (d->slabs, m->slab);
  const uint64_t n = slab_table_slab_pages (d->slabs, m->slab);
  struct page_claim claim;
  int r;

  page_order_claim (&d->order, &claim, first, n);
  r = finish_claimed (d, m, first, first + n);
  page_order_release (&d->order, &claim);
  return r;
}

/* Requests and the sender wait for peers no longer than their deadline, so
 * this is bounded by that.
 */
static void
wait_moved (struct device *d, uint64_t slab)
{
  const struct timespec pause = { .tv_nsec = 200000 };

  while (!slab_table_has_moved (d->slabs, slab))
    nanosleep (&pause, NULL);
}

int
device_move (struct device *d, uint64_t slab, const struct slab_home *next,
             const _Atomic int64_t *until_ns)
{
  const uint64_t n = slab_table_slab_pages (d->slabs, slab);
  struct move m = { .slab = slab, .next = next, .until_ns = until_ns };
  uint64_t *copied = calloc ((n + 63) / 64, sizeof *copied);
  int r;

  if (!copied)
    return -ENOMEM;
  slab_table_begin_move (d->slabs, slab, copied);
  if (copy_along (d, &m, PAGE_REMOTE_ONLY) == 0)
    copy_along (d, &m, PAGE_REMOTE);
  r = finish (d, &m);
  if (r < 0)
    slab_table_abandon_move (d->slabs, slab);
  else
    wait_moved (d, slab);
  free (copied);
  return r;
}
