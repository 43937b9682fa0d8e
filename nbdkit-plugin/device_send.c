#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nbdkit-plugin/device_parts.h"
#include "nbdkit-plugin/flight.h"
#include "nbdkit-plugin/session.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"

/* Runs that are on their way to donors at once: more than one stuck donor's
 * queue takes.
 */
enum { SENDINGS = 2 * FABRIC_QUEUE_DEPTH };

/* How long a run waits for those before it: their donor may be stuck. */
enum { PATIENCE_NS = 25000000 };

/* A run of slots that is being written to its slab's donor, over the
 * writer's own lane.
 */
struct sending {
  struct flight flight;
  struct fabric_op ops[SPAN_PAGES_MAX];
  uint32_t slots[SPAN_PAGES_MAX];
  uint64_t first;               /* page */
  uint32_t n;
  int64_t deadline_ns;
  struct sending *next;
};

/* The writer's alone. */
struct sender {
  struct sending *all, *free;
  struct sending *sent, **last; /* oldest first */
  /* A run waited for this one in vain, which has landed nothing since. */
  const struct session *stuck;
};

int
device_start_sending (struct device *d)
{
  struct sender *s = calloc (1, sizeof *s);

  d->sender = s;
  if (!s)
    return -ENOMEM;
  s->last = &s->sent;
  s->all = calloc (SENDINGS, sizeof *s->all);
  if (!s->all)
    return -ENOMEM;
  for (unsigned i = 0; i < SENDINGS; i++) {
    s->all[i].next = s->free;
    s->free = &s->all[i];
  }
  return 0;
}

void
device_stop_sending (struct device *d)
{
  if (d->sender)
    free (d->sender->all);
  free (d->sender);
  d->sender = NULL;
}

/* One operation for each run of slots adjacent in memory. */
static uint32_t
adjacent (const uint32_t *slots, uint32_t n)
{
  uint32_t i = 1;

  while (i < n && slots[i] == slots[0] + i)
    i++;
  return i;
}

static unsigned
count_ops (const uint32_t *slots, uint32_t n)
{
  unsigned ops = 0;

  for (uint32_t i = 0; i < n; i += adjacent (slots + i, n - i))
    ops++;
  return ops;
}

static void
post (struct device *d, struct sending *m)
{
  uint32_t n;

  for (uint32_t i = 0; i < m->n; i += n) {
    n = adjacent (m->slots + i, m->n - i);
    flight_post (d, &m->flight, FABRIC_WRITE,
                 slot_pool_buffer (d->slots, m->slots[i]), m->first + i, n);
  }
}

/* The donor has the pages, or its session ends: then they are on their way
 * to the local copy alone.
 */
static void
end_sending (struct device *d, struct sending **at)
{
  struct sender *s = d->sender;
  struct sending *m = *at;
  int r = flight_land (d, &m->flight, m->deadline_ns);

  slot_pool_landed (d->slots, m->slots, m->n,
                    r == 0 ? &m->flight.home : NULL);
  slab_table_unpin (d->slabs, m->flight.slab, &m->flight.home);
  device_count (r == 0 ? &d->counters.written_donors
                : &d->counters.written_disk, m->n);
  if (s->stuck == m->flight.home.session)
    s->stuck = NULL;
  *at = m->next;
  if (!*at)
    s->last = at;
  m->next = s->free;
  s->free = m;
}

static struct fabric_queue *
queue_of (const struct device *d, const struct slab_home *home)
{
  return session_queue (home->session, device_writer_lane (d));
}

/* End those that have landed or are late.  One look at a session's queue
 * tells of all its runs.
 */
static void
end_landed (struct device *d)
{
  const int64_t now_ns = fabric_now_ns ();
  const struct session *looked = NULL;
  struct sending **at = &d->sender->sent, *m;

  while ((m = *at)) {
    if (!flight_has_landed (&m->flight) && m->flight.home.session != looked) {
      looked = m->flight.home.session;
      fabric_await (queue_of (d, &m->flight.home), 0);
    }
    if (flight_has_landed (&m->flight) || now_ns >= m->deadline_ns)
      end_sending (d, at);
    else
      at = &m->next;
  }
}

bool
device_land (struct device *d, int64_t wait_ns)
{
  struct sender *s = d->sender;

  if (s->sent && wait_ns > 0)
    fabric_await (queue_of (d, &s->sent->flight.home),
                  fabric_now_ns () + wait_ns);
  end_landed (d);
  return s->sent != NULL;
}

static bool
has_room (const struct device *d, const struct slab_home *home, unsigned ops)
{
  return d->sender->free &&
    queue_of (d, home)->outstanding + ops <= FABRIC_QUEUE_DEPTH;
}

static bool
await_room (struct device *d, const struct slab_home *home, unsigned ops)
{
  struct sender *s = d->sender;
  const int64_t until_ns = fabric_now_ns () + PATIENCE_NS;

  end_landed (d);
  while (!has_room (d, home, ops)) {
    int64_t left_ns = s->stuck == home->session ? 0
      : until_ns - fabric_now_ns ();

    if (left_ns <= 0) {
      s->stuck = home->session;
      return false;
    }
    device_land (d, left_ns);
  }
  return true;
}

static void
begin_sending (struct device *d, const struct slab_home *home,
               uint64_t first, const uint32_t *slots, uint32_t n)
{
  struct sender *s = d->sender;
  struct sending *m = s->free;

  s->free = m->next;
  m->flight = (struct flight) {
    .lane = device_writer_lane (d), .ops = m->ops, .home = *home,
    .slab = slab_table_slab_of (d->slabs, first),
  };
  m->first = first;
  m->n = n;
  memcpy (m->slots, slots, n * sizeof *slots);
  m->deadline_ns = fabric_now_ns () + d->params.deadline_ns;
  m->next = NULL;
  *s->last = m;
  s->last = &m->next;
  slot_pool_send (d->slots, slots, n);
  post (d, m);
}

void
device_send (struct device *d, uint64_t first, const uint32_t *slots,
             uint32_t n)
{
  const uint64_t slab = slab_table_slab_of (d->slabs, first);
  const unsigned ops = count_ops (slots, n);
  struct slab_home home;

  if (slab_table_pin (d->slabs, slab, &home)) {
    if (has_room (d, &home, ops) || await_room (d, &home, ops)) {
      begin_sending (d, &home, first, slots, n);
      return;
    }
    slab_table_unpin (d->slabs, slab, &home);
  }
  device_count (&d->counters.written_disk, n);
}

void
device_settle (struct device *d, uint64_t first, uint32_t n)
{
  struct sending **at = &d->sender->sent, *m;

  while ((m = *at))
    if (m->first < first + n && first < m->first + m->n)
      end_sending (d, at);
    else
      at = &m->next;
}
