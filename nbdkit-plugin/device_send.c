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

/* How long runs wait for those before them: their donor may be stuck. */
enum { PATIENCE_NS = 25000000 };

/* How often all that is on its way is looked at while one of it is waited
 * for; and from when on it is the writer that was held up (by the disk), and
 * not a donor.
 */
enum { LOOK_NS = 1000000, HELD_UP_NS = 10 * LOOK_NS };

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
  uint32_t pages;               /* in all that are sent */
  uint32_t pages_max;           /* in those of one session */
  int64_t looked_ns;            /* when those sent were last looked at */
  int64_t patience_ns;          /* left until the next device_land */
};

/* What one donor may hold up: as much as its lanes carry, and a part of the
 * pool.
 */
static uint32_t
pages_max (const struct device *d)
{
  const uint32_t lanes = device_queues (d) * SPAN_PAGES_MAX;
  const uint32_t part = d->params.write_behind_bytes / PAGE_SIZE_BYTES / 4;

  return lanes < part ? lanes : part;
}

int
device_start_sending (struct device *d)
{
  struct sender *s = calloc (1, sizeof *s);

  d->sender = s;
  if (!s)
    return -ENOMEM;
  s->last = &s->sent;
  s->pages_max = pages_max (d);
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
  s->pages -= m->n;
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

/* No time runs for donors while nobody looks: what is left to be sent over
 * tcp is sent by that.
 */
static void
note_look (struct sender *s, int64_t now_ns)
{
  const int64_t gap_ns = now_ns - s->looked_ns;

  s->looked_ns = now_ns;
  if (gap_ns > HELD_UP_NS)
    for (struct sending *m = s->sent; m; m = m->next)
      m->deadline_ns += gap_ns;
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

  note_look (d->sender, now_ns);
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

/* Wait for what goes this way, but look after all others as well. */
static void
look (struct device *d, const struct slab_home *home, int64_t wait_ns)
{
  if (!d->sender->free)         /* there may be nothing on this way */
    home = &d->sender->sent->flight.home;
  if (wait_ns > 0)
    fabric_await (queue_of (d, home), fabric_now_ns () +
                  (wait_ns < LOOK_NS ? wait_ns : LOOK_NS));
  end_landed (d);
}

bool
device_land (struct device *d, int64_t wait_ns)
{
  struct sender *s = d->sender;

  s->patience_ns = PATIENCE_NS;
  if (s->sent)
    look (d, &s->sent->flight.home, wait_ns);
  return s->sent != NULL;
}

/* The oldest run for this session. */
static const struct sending *
oldest_for (const struct sender *s, const struct session *session)
{
  const struct sending *m = s->sent;

  while (m && m->flight.home.session != session)
    m = m->next;
  return m;
}

static uint32_t
pages_for (const struct sender *s, const struct session *session)
{
  uint32_t n = 0;

  for (const struct sending *m = s->sent; m; m = m->next)
    if (m->flight.home.session == session)
      n += m->n;
  return n;
}

static bool
has_room (const struct device *d, const struct slab_home *home, unsigned ops,
          uint32_t n)
{
  const struct sender *s = d->sender;

  return s->free &&
    queue_of (d, home)->outstanding + ops <= FABRIC_QUEUE_DEPTH &&
    (s->pages + n <= s->pages_max ||
     pages_for (s, home->session) + n <= s->pages_max);
}

/* How long to wait for room: not for a donor that had its time. */
static int64_t
patience_with (const struct device *d, const struct session *session)
{
  const struct sender *s = d->sender;
  const struct sending *m = oldest_for (s, session);
  const int64_t begin_ns = m ? m->deadline_ns - d->params.deadline_ns : 0;
  const int64_t left_ns = begin_ns + PATIENCE_NS - fabric_now_ns ();

  return left_ns < s->patience_ns ? left_ns : s->patience_ns;
}

static bool
await_room (struct device *d, const struct slab_home *home, unsigned ops,
            uint32_t n)
{
  struct sender *s = d->sender;
  int64_t begin_ns = fabric_now_ns ();

  end_landed (d);
  while (!has_room (d, home, ops, n)) {
    int64_t left_ns = patience_with (d, home->session);

    if (left_ns <= 0)
      return false;
    look (d, home, left_ns);
    s->patience_ns -= fabric_now_ns () - begin_ns;
    begin_ns = fabric_now_ns ();
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
  s->pages += n;
  memcpy (m->slots, slots, n * sizeof *slots);
  m->deadline_ns = fabric_now_ns () + d->params.deadline_ns;
  m->next = NULL;
  if (!s->sent)
    s->looked_ns = fabric_now_ns ();
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
    if (has_room (d, &home, ops, n) || await_room (d, &home, ops, n)) {
      begin_sending (d, &home, first, slots, n);
      return;
    }
    slab_table_unpin (d->slabs, slab, &home);
  }
  device_count (&d->counters.written_disk, n);
}

/* The oldest run that has any of these pages. */
static const struct sending *
find_sending (const struct sender *s, uint64_t first, uint32_t n)
{
  const struct sending *m = s->sent;

  while (m && (m->first >= first + n || first >= m->first + m->n))
    m = m->next;
  return m;
}

void
device_settle (struct device *d, uint64_t first, uint32_t n)
{
  const struct sending *m;

  end_landed (d);
  while ((m = find_sending (d->sender, first, n)))
    look (d, &m->flight.home, LOOK_NS);
}
