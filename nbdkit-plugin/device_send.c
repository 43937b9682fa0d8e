#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "nbdkit-plugin/device_parts.h"
#include "nbdkit-plugin/flight.h"
#include "nbdkit-plugin/helper_thread.h"
#include "nbdkit-plugin/monotonic_cond.h"
#include "nbdkit-plugin/session.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"

/* Runs that are on their way to donors at once: more than one stuck donor's
 * queue takes.
 */
enum { SENDINGS = 2 * FABRIC_QUEUE_DEPTH };

/* How long a run that waits for those before it lets the disk wait as well:
 * what one donor may have on its way takes as long at 20 MiB/s.
 */
enum { PATIENCE_NS = 100000000 };

/* How often all that is on its way is looked at while the oldest of it is
 * waited for.
 */
enum { LOOK_NS = 1000000 };

enum { STACK_BYTES = 64 << 10 }; /* locked memory, so small */

/* A run of slots on its way to its slab's donor, over the sender's own lane.
 * Until it has ended only the sender's thread changes it.
 */
struct sending {
  struct flight flight;
  struct fabric_op ops[SPAN_PAGES_MAX];
  uint32_t slots[SPAN_PAGES_MAX];
  uint64_t first;               /* page */
  uint32_t n;                   /* 0: it is free */
  int64_t begin_ns;             /* when it was handed over */
  bool posted;
  struct sending *next;         /* in whichever list it is */
};

struct sending_list {
  struct sending *first, **last; /* oldest first */
};

struct sender {
  struct sending *all;          /* constant, like pages_max */
  uint32_t pages_max;           /* on their way to one donor */
  pthread_t thread;
  bool started;
  struct sending_list sent;     /* the thread's */

  pthread_mutex_t lock;         /* guards all below, and whether one is free */
  pthread_cond_t work;          /* something was handed over */
  pthread_cond_t ended;         /* something is no longer on its way */
  struct sending *free;
  struct sending_list handed;   /* over to the thread, which has not seen it */
  uint32_t pages;               /* in all that are not free */
  bool idle, stopped;
  bool awaited;                 /* by the writer, that something ends */
};

static void
empty (struct sending_list *l)
{
  l->first = NULL;
  l->last = &l->first;
}

static void
append (struct sending_list *l, struct sending *m)
{
  m->next = NULL;
  *l->last = m;
  l->last = &m->next;
}

/* ---- the thread ---- */

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
count_ops (const struct sending *m)
{
  unsigned ops = 0;

  for (uint32_t i = 0; i < m->n; i += adjacent (m->slots + i, m->n - i))
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
  m->posted = true;
}

static struct fabric_queue *
queue_of (const struct sending *m)
{
  return session_queue (m->flight.home.session, m->flight.lane);
}

/* Those whose queue is full stay for later; others' queues may not be. */
static void
post_handed (struct device *d)
{
  for (struct sending *m = d->sender->sent.first; m; m = m->next)
    if (!m->posted &&
        queue_of (m)->outstanding + count_ops (m) <= FABRIC_QUEUE_DEPTH)
      post (d, m);
}

static void
set_free (struct sender *s, struct sending *m)
{
  pthread_mutex_lock (&s->lock);
  s->pages -= m->n;
  m->n = 0;
  m->next = s->free;
  s->free = m;
  if (s->awaited)
    pthread_cond_signal (&s->ended);
  pthread_mutex_unlock (&s->lock);
}

/* The donor has the pages, or its session ends: then they are on their way
 * to the local copy alone.
 */
static void
end_sending (struct device *d, struct sending *m, int64_t deadline_ns)
{
  int r = flight_land (d, &m->flight, deadline_ns);

  if (!m->posted)
    r = -ETIMEDOUT;
  slot_pool_landed (d->slots, m->slots, m->n,
                    r == 0 ? &m->flight.home : NULL);
  slab_table_unpin (d->slabs, m->flight.slab, &m->flight.home);
  device_count (r == 0 ? &d->counters.written_donors
                : &d->counters.written_disk, m->n);
  set_free (d->sender, m);
}

static bool
has_landed (const struct sending *m)
{
  return m->posted && flight_has_landed (&m->flight);
}

/* End those that have landed or are late.  One look at a session's queue
 * tells of all its runs.
 */
static void
end_landed (struct device *d)
{
  struct sending_list *sent = &d->sender->sent;
  const int64_t late_ns = fabric_now_ns () - d->params.deadline_ns;
  const struct session *looked = NULL;
  struct sending *m = sent->first, *next;

  empty (sent);
  for (; m; m = next) {
    next = m->next;
    if (!has_landed (m) && m->flight.home.session != looked) {
      looked = m->flight.home.session;
      fabric_await (queue_of (m), 0);
    }
    if (has_landed (m) || m->begin_ns <= late_ns)
      end_sending (d, m, m->begin_ns + d->params.deadline_ns);
    else
      append (sent, m);
  }
}

/* Take what was handed over; without anything on its way, wait for it.
 * False once the sender is stopped and nothing is left.
 */
static bool
take_handed (struct sender *s)
{
  pthread_mutex_lock (&s->lock);
  while (!s->sent.first && !s->handed.first && !s->stopped) {
    s->idle = true;
    pthread_cond_wait (&s->work, &s->lock);
  }
  s->idle = false;
  if (s->handed.first) {
    *s->sent.last = s->handed.first;
    s->sent.last = s->handed.last;
    empty (&s->handed);
  }
  pthread_mutex_unlock (&s->lock);
  return s->sent.first != NULL;
}

/* What is handed over while the oldest is waited for waits a millisecond at
 * most.
 */
static void *
run_sender (void *data)
{
  struct device *d = data;
  struct sender *s = d->sender;

  while (take_handed (s)) {
    post_handed (d);
    end_landed (d);
    if (s->sent.first)
      fabric_await (queue_of (s->sent.first), fabric_now_ns () + LOOK_NS);
  }
  return NULL;
}

/* ---- the writer's side ---- */

static uint32_t
pages_for (const struct sender *s, const struct session *session)
{
  uint32_t n = 0;

  for (unsigned i = 0; i < SENDINGS; i++)
    if (s->all[i].flight.home.session == session)
      n += s->all[i].n;
  return n;
}

static bool
has_room (const struct sender *s, const struct session *session, uint32_t n)
{
  return s->free && (s->pages + n <= s->pages_max ||
                     pages_for (s, session) + n <= s->pages_max);
}

/* Until when to wait for room: not for a donor that had its time. */
static int64_t
patience_with (const struct sender *s, const struct session *session)
{
  int64_t oldest_ns = INT64_MAX;

  for (unsigned i = 0; i < SENDINGS; i++) {
    const struct sending *m = &s->all[i];

    if (m->n > 0 && m->flight.home.session == session &&
        m->begin_ns < oldest_ns)
      oldest_ns = m->begin_ns;
  }
  return oldest_ns == INT64_MAX ? 0 : oldest_ns + PATIENCE_NS;
}

static bool
await_end (struct sender *s, int64_t until_ns)
{
  bool in_time;

  s->awaited = true;
  in_time = monotonic_cond_wait (&s->ended, &s->lock, until_ns);
  s->awaited = false;
  return in_time;
}

static bool
await_room (struct sender *s, const struct session *session, uint32_t n)
{
  while (!has_room (s, session, n)) {
    const int64_t until_ns = patience_with (s, session);

    if (fabric_now_ns () >= until_ns || !await_end (s, until_ns))
      return has_room (s, session, n);
  }
  return true;
}

static void
hand_over (struct device *d, const struct slab_home *home, uint64_t first,
           const uint32_t *slots, uint32_t n)
{
  struct sender *s = d->sender;
  struct sending *m = s->free;

  s->free = m->next;
  m->flight = (struct flight) {
    .lane = device_sender_lane (d), .ops = m->ops, .home = *home,
    .slab = slab_table_slab_of (d->slabs, first),
  };
  memcpy (m->slots, slots, n * sizeof *slots);
  m->first = first;
  m->n = n;
  m->begin_ns = fabric_now_ns ();
  m->posted = false;
  s->pages += n;
  slot_pool_send (d->slots, slots, n);
  append (&s->handed, m);
  if (s->idle)
    pthread_cond_signal (&s->work);
  s->idle = false;
}

void
device_send (struct device *d, uint64_t first, const uint32_t *slots,
             uint32_t n)
{
  const uint64_t slab = slab_table_slab_of (d->slabs, first);
  struct sender *s = d->sender;
  struct slab_home home;
  bool room;

  if (!slab_table_pin (d->slabs, slab, &home)) {
    device_count (&d->counters.written_disk, n);
    return;
  }
  pthread_mutex_lock (&s->lock);
  room = await_room (s, home.session, n);
  if (room)
    hand_over (d, &home, first, slots, n);
  pthread_mutex_unlock (&s->lock);
  if (room)
    return;
  slab_table_unpin (d->slabs, slab, &home);
  device_count (&d->counters.written_disk, n);
}

static bool
is_sending (const struct sender *s, uint64_t first, uint32_t n)
{
  for (unsigned i = 0; i < SENDINGS; i++) {
    const struct sending *m = &s->all[i];

    if (m->n > 0 && m->first < first + n && first < m->first + m->n)
      return true;
  }
  return false;
}

void
device_settle (struct device *d, uint64_t first, uint32_t n)
{
  struct sender *s = d->sender;

  pthread_mutex_lock (&s->lock);
  while (is_sending (s, first, n))
    await_end (s, INT64_MAX);
  pthread_mutex_unlock (&s->lock);
}

/* ---- beginning and end ---- */

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
  int r;

  d->sender = s;
  if (!s)
    return -ENOMEM;
  pthread_mutex_init (&s->lock, NULL);
  pthread_cond_init (&s->work, NULL);
  monotonic_cond_init (&s->ended);
  empty (&s->sent);
  empty (&s->handed);
  s->pages_max = pages_max (d);
  s->all = calloc (SENDINGS, sizeof *s->all);
  if (!s->all)
    return -ENOMEM;
  for (unsigned i = 0; i < SENDINGS; i++) {
    s->all[i].next = s->free;
    s->free = &s->all[i];
  }
  r = helper_thread_start (&s->thread, STACK_BYTES, run_sender, d);
  s->started = r == 0;
  return r;
}

void
device_stop_sending (struct device *d)
{
  struct sender *s = d->sender;

  if (!s || !s->started)
    return;
  pthread_mutex_lock (&s->lock);
  s->stopped = true;
  pthread_cond_signal (&s->work);
  pthread_mutex_unlock (&s->lock);
  pthread_join (s->thread, NULL);
  s->started = false;
}

void
device_free_sender (struct device *d)
{
  struct sender *s = d->sender;

  if (!s)
    return;
  device_stop_sending (d);
  pthread_cond_destroy (&s->work);
  pthread_cond_destroy (&s->ended);
  pthread_mutex_destroy (&s->lock);
  free (s->all);
  free (s);
  d->sender = NULL;
}
