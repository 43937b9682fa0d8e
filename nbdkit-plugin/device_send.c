#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nbdkit-plugin/device_parts.h"
#include "nbdkit-plugin/flight.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"

/* How long who needs a lane waits for one in the air before it tries
 * another: its donor may be dead.
 */
enum { PATIENCE_NS = 25000000 };

/* How long what nobody waits for may stay in the air although it could
 * land.
 */
enum { LOOK_NS = 10000000 };

enum { STACK_BYTES = 64 << 10 }; /* locked memory, so small */

/* A span that is being written to a donor, although the request has been
 * answered: its slots hold it, and readers find it there.  Until it has
 * landed its pages have no other writer.
 */
struct sending {
  struct flight flight;
  struct page_claim claim;
  uint32_t slots[SPAN_PAGES_MAX];
  int64_t deadline_ns;
};

/* One operation for each run of slots adjacent in memory. */
static void
post_writes (struct device *d, struct sending *m)
{
  const uint32_t *slots = m->slots;
  uint32_t n;

  for (uint32_t i = 0; i < m->claim.count; i += n) {
    for (n = 1; i + n < m->claim.count; n++)
      if (slots[i + n] != slots[i] + n)
        break;
    flight_post (d, &m->flight, FABRIC_WRITE,
                 slot_pool_buffer (d->slots, slots[i]), m->claim.first + i,
                 n);
  }
}

/* The donor has the pages, or its session ends: then they are on their way
 * to the local copy alone.
 */
static void
end_sending (struct device *d, struct sending *m)
{
  const uint64_t page = m->claim.first, n = m->claim.count;
  int r = flight_land (d, &m->flight, m->deadline_ns);

  if (r == 0)
    slab_table_set_pages (d->slabs, page, n, PAGE_REMOTE);
  slab_table_unpin (d->slabs, m->flight.slab, &m->flight.home);
  page_order_release (&d->order, &m->claim);
  slot_pool_release (d->slots, m->slots, n);
  device_count (r == 0 ? &d->counters.written_donors
                : &d->counters.written_disk, n);
}

/* Land what the lane is in the air with, if that can be done until until_ns
 * (0: now); else it is in the air again.
 */
static bool
land (struct device *d, struct lane *lane, int64_t until_ns)
{
  struct sending *m = &d->sendings[lane->id];

  if (!flight_has_landed (&m->flight, until_ns) &&
      fabric_now_ns () < m->deadline_ns) {
    lane_pool_launch (&d->lanes, lane, m->claim.first, m->claim.count);
    return false;
  }
  end_sending (d, m);
  return true;
}

static struct lane *
take_lane (struct device *d, int64_t deadline_ns,
           struct lane *take (struct lane_pool *, int64_t))
{
  struct lane *lane;

  while ((lane = take (&d->lanes, deadline_ns)) && lane->in_air) {
    int64_t until_ns = fabric_now_ns () + PATIENCE_NS;

    if (land (d, lane, until_ns < deadline_ns ? until_ns : deadline_ns))
      break;
    if (fabric_now_ns () >= deadline_ns)
      return NULL;
  }
  return lane;
}

struct lane *
device_take_lane (struct device *d, int64_t deadline_ns)
{
  return take_lane (d, deadline_ns, lane_pool_take);
}

void
device_claim (struct device *d, struct page_claim *claim, uint64_t first,
              uint64_t n)
{
  struct lane *lane;

  while ((lane = lane_pool_recall (&d->lanes, first, n)))
    if (land (d, lane, d->sendings[lane->id].deadline_ns))
      lane_pool_put (&d->lanes, lane);
  page_order_claim (&d->order, claim, first, n);
}

bool
device_land_pages (struct device *d, uint64_t first, uint64_t n)
{
  struct lane *lane = lane_pool_recall (&d->lanes, first, n);

  if (!lane || !land (d, lane, 0))
    return false;
  lane_pool_put (&d->lanes, lane);
  return true;
}

void
device_settle_pages (struct device *d, uint64_t first, uint64_t n)
{
  struct page_claim claim;

  device_claim (d, &claim, first, n);
  page_order_release (&d->order, &claim);
}

bool
device_send (struct device *d, struct page_claim *claim,
             const uint32_t *slots, int64_t deadline_ns)
{
  struct flight f = { .slab = slab_table_slab_of (d->slabs, claim->first) };
  const uint64_t page = claim->first, n = claim->count;
  struct sending *m;

  if (!flight_has_time (d, deadline_ns) ||
      !slab_table_pin (d->slabs, f.slab, &f.home))
    return false;
  f.lane = take_lane (d, deadline_ns, lane_pool_take_to_launch);
  if (!f.lane || !flight_has_time (d, deadline_ns)) {
    if (f.lane)
      lane_pool_put (&d->lanes, f.lane);
    slab_table_unpin (d->slabs, f.slab, &f.home);
    return false;
  }
  m = &d->sendings[f.lane->id];
  m->flight = f;
  m->deadline_ns = deadline_ns;
  memcpy (m->slots, slots, n * sizeof *slots);
  page_order_move (&d->order, claim, &m->claim);
  post_writes (d, m);
  slot_pool_hold (d->slots, slots, n);
  slot_pool_commit (d->slots, page, slots, n, NULL);
  lane_pool_launch (&d->lanes, f.lane, page, n);
  return true;
}

static void
land_all_that_can (struct device *d)
{
  struct lane *lane;

  for (unsigned i = 0; i < d->lanes.count; i++) {
    lane = lane_pool_recall (&d->lanes, 0, UINT64_MAX);
    if (!lane)
      return;
    if (land (d, lane, 0))
      lane_pool_put (&d->lanes, lane);
  }
}

/* Requests see to the landing of what they need themselves. */
static void *
run_lander (void *data)
{
  const struct timespec look = { .tv_nsec = LOOK_NS };
  struct device *d = data;

  while (lane_pool_await_launch (&d->lanes)) {
    nanosleep (&look, NULL);
    land_all_that_can (d);
  }
  return NULL;
}

int
device_start_sending (struct device *d)
{
  pthread_attr_t attr;
  sigset_t all, old;
  int r;

  d->sendings = calloc (d->params.lanes, sizeof *d->sendings);
  if (!d->sendings)
    return -ENOMEM;
  /* Signals are nbdkit's main thread's. */
  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  pthread_attr_init (&attr);
  pthread_attr_setstacksize (&attr, STACK_BYTES);
  r = pthread_create (&d->lander, &attr, run_lander, d);
  pthread_attr_destroy (&attr);
  pthread_sigmask (SIG_SETMASK, &old, NULL);
  d->sends = r == 0;
  return -r;
}

void
device_stop_sending (struct device *d)
{
  if (d->sends) {
    device_settle_pages (d, 0, UINT64_MAX);
    lane_pool_stop (&d->lanes);
    pthread_join (d->lander, NULL);
  }
  d->sends = false;
  free (d->sendings);
  d->sendings = NULL;
}
