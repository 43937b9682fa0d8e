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

/* Runs that are on their way to donors at once: more than a stuck donor may
 * have of them, but not more than two.
 */
enum { SENDINGS = 2 * FABRIC_QUEUE_DEPTH };

/* How long a donor may take for those before a run that waits for room. */
enum { PATIENCE_NS = 100000000 };

/* How often all that is on its way is looked at while the oldest of it is
 * waited for.
 */
enum { LOOK_NS = 1000000 };

/* The end of a session flushes its operations within a millisecond; when they
 * take this long the device is at fault, and is made to end them.
 */
enum { FLUSH_NS = 1000000000 };

enum { STACK_BYTES = 64 << 10 }; /* locked memory, so small */

/* A run of slots on its way to its slab's donor, over the sender's own lane.
 * Whoever has it may write to it: the writer until it is handed over, then the
 * thread until it is free.
 */
struct sending {
  struct flight flight;
  struct fabric_op ops[SPAN_PAGES_MAX];
  uint32_t slots[SPAN_PAGES_MAX];
  uint64_t first;               /* page */
  uint32_t n;
  unsigned n_ops;
  int64_t begin_ns;             /* when its way began */
  int64_t deadline_ns;
  bool posted, late;
  bool free;                    /* guarded by the lock */
  struct sending *next;         /* in whichever list it is */
};

struct sending_list {
  struct sending *first, **last; /* oldest first */
};

/* What is on its way, to all donors or to one. */
struct load {
  uint32_t pages, ops;
};

struct sender {
  struct sending *all;          /* constant, like pages_max */
  uint32_t pages_max;           /* on their way to one donor */
  pthread_t thread;
  bool started;
  struct sending_list sent;     /* the thread's */

  pthread_mutex_t lock;         /* guards all below, and which are free */
  pthread_cond_t work;          /* something was handed over */
  pthread_cond_t ended;         /* something is no longer on its way */
  struct sending *free;
  struct sending_list handed;   /* over to the thread, which has not seen it */
  struct load load;             /* all that are not free */
  bool stopped;
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

/* ---- the thread ---- */

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

static void
set_free (struct sender *s, struct sending *m)
{
  pthread_mutex_lock (&s->lock);
  s->load.pages -= m->n;
  s->load.ops -= m->n_ops;
  m->free = true;
  m->next = s->free;
  s->free = m;
  pthread_cond_signal (&s->ended);
  pthread_mutex_unlock (&s->lock);
}

/* The donor has the pages, or its session ends: then they are on their way
 * to the local copy alone, as they are if there was no time left to ask it.
 */
static void
end_sending (struct device *d, struct sending *m)
{
  const int r = m->posted ? flight_land (d, &m->flight, m->deadline_ns)
    : -ETIMEDOUT;

  slot_pool_landed (d->slots, m->slots, m->n,
                    r == 0 ? &m->flight.home : NULL);
  slab_table_unpin (d->slabs, m->flight.slab, &m->flight.home);
  device_count (r == 0 ? &d->counters.written_donors
                : &d->counters.written_disk, m->n);
  set_free (d->sender, m);
}

/* Is there nothing left to wait for?  The end of a late one's session ends
 * its operations, which the next looks tell.
 */
static bool
is_over (struct device *d, struct sending *m, int64_t now_ns)
{
  if (!m->posted || flight_has_landed (&m->flight))
    return true;
  if (!m->late && now_ns >= m->deadline_ns) {
    m->late = true;
    device_count (&d->counters.deadlines_missed, 1);
    session_end (m->flight.home.session, -ETIMEDOUT);
  }
  return now_ns >= m->deadline_ns + FLUSH_NS;
}

/* End those that have landed.  One look at a session's queue tells of all its
 * runs.
 */
static void
end_landed (struct device *d)
{
  struct sending_list *sent = &d->sender->sent;
  const int64_t now_ns = fabric_now_ns ();
  const struct session *looked = NULL;
  struct sending *m = sent->first, *next;

  empty (sent);
  for (; m; m = next) {
    next = m->next;
    if (!flight_has_landed (&m->flight) && m->flight.home.session != looked) {
      looked = m->flight.home.session;
      fabric_await (queue_of (m), 0);
    }
    if (is_over (d, m, now_ns))
      end_sending (d, m);
    else
      append (sent, m);
  }
}

/* Wait until something was handed over, if nothing is on its way. */
static void
await_work (struct sender *s)
{
  while (!s->handed.first && !s->stopped)
    pthread_cond_wait (&s->work, &s->lock);
}

/* The first of what was handed over; the rest follows it. */
static struct sending *
take_handed (struct sender *s)
{
  struct sending *first;

  pthread_mutex_lock (&s->lock);
  if (!s->sent.first)
    await_work (s);
  first = s->handed.first;
  if (first) {
    *s->sent.last = first;
    s->sent.last = s->handed.last;
    empty (&s->handed);
  }
  pthread_mutex_unlock (&s->lock);
  return first;
}

/* What is handed over while the oldest is waited for waits a millisecond at
 * most.  The thread ends once it is stopped and nothing is left.
 */
static void *
run_sender (void *data)
{
  struct device *d = data;
  struct sender *s = d->sender;
  struct sending *handed = take_handed (s);

  while (s->sent.first) {
    for (struct sending *m = handed; m; m = m->next)
      if (flight_has_time (d, m->deadline_ns))
        post (d, m);
    end_landed (d);
    if (s->sent.first)
      fabric_await (queue_of (s->sent.first), fabric_now_ns () + LOOK_NS);
    handed = take_handed (s);
  }
  return NULL;
}

/* ---- the writer's side ---- */

static bool
fits (const struct sender *s, struct load load, uint32_t pages, unsigned ops)
{
  return load.pages + pages <= s->pages_max &&
    load.ops + ops <= FABRIC_QUEUE_DEPTH;
}

static struct load
load_of (const struct sender *s, const struct session *session)
{
  struct load load = { 0 };

  for (unsigned i = 0; i < SENDINGS; i++) {
    const struct sending *m = &s->all[i];

    if (!m->free && m->flight.home.session == session) {
      load.pages += m->n;
      load.ops += m->n_ops;
    }
  }
  return load;
}

static bool
has_room (const struct sender *s, const struct session *session,
          uint32_t pages, unsigned ops)
{
  return s->free && (fits (s, s->load, pages, ops) ||
                     fits (s, load_of (s, session), pages, ops));
}

/* Until when to wait for room: not for a donor that had its time. */
static int64_t
patience_with (const struct sender *s, const struct session *session)
{
  int64_t oldest_ns = INT64_MAX - PATIENCE_NS;

  for (unsigned i = 0; i < SENDINGS; i++) {
    const struct sending *m = &s->all[i];

    if (!m->free && (!s->free || m->flight.home.session == session) &&
        m->begin_ns < oldest_ns)
      oldest_ns = m->begin_ns;
  }
  return oldest_ns + PATIENCE_NS;
}

static bool
await_room (struct sender *s, const struct session *session, uint32_t pages,
            unsigned ops, int64_t until_ns)
{
  bool in_time = until_ns > 0, room;

  while (!(room = has_room (s, session, pages, ops)) && in_time) {
    const int64_t patient_ns = patience_with (s, session);

    in_time = monotonic_cond_wait (&s->ended, &s->lock, patient_ns < until_ns
                                   ? patient_ns : until_ns);
  }
  return room;
}

/* One for a run to this home, NULL if there is no room. */
static struct sending *
claim (struct sender *s, const struct slab_home *home, uint32_t pages,
       unsigned ops, int64_t until_ns)
{
  const int64_t begin_ns = fabric_now_ns ();
  struct sending *m = NULL;

  pthread_mutex_lock (&s->lock);
  if (await_room (s, home->session, pages, ops, until_ns)) {
    m = s->free;
    s->free = m->next;
    m->free = false;
    m->flight = (struct flight) { .home = *home, .ops = m->ops };
    m->n = pages;
    m->n_ops = ops;
    m->begin_ns = begin_ns;
    s->load.pages += pages;
    s->load.ops += ops;
  }
  pthread_mutex_unlock (&s->lock);
  return m;
}

static void
hand_over (struct sender *s, struct sending *m)
{
  pthread_mutex_lock (&s->lock);
  append (&s->handed, m);
  pthread_cond_signal (&s->work);
  pthread_mutex_unlock (&s->lock);
}

bool
device_send (void *data, uint64_t first, const uint32_t *slots, uint32_t n,
             int64_t until_ns)
{
  struct device *d = data;
  const uint64_t slab = slab_table_slab_of (d->slabs, first);
  struct slab_home home;
  const bool pinned = slab_table_pin (d->slabs, slab, &home);
  struct sending *m = NULL;

  if (pinned)
    m = claim (d->sender, &home, n, count_ops (slots, n), until_ns);
  if (m) {
    m->flight.lane = device_sender_lane (d);
    m->flight.slab = slab;
    memcpy (m->slots, slots, n * sizeof *slots);
    m->first = first;
    m->posted = m->late = false;
    m->deadline_ns = m->begin_ns + d->params.deadline_ns;
    slot_pool_send (d->slots, slots, n);
    hand_over (d->sender, m);
    return true;
  }
  if (pinned)
    slab_table_unpin (d->slabs, slab, &home);
  if (pinned && until_ns == 0)
    return false;
  device_count (&d->counters.written_disk, n);
  return true;
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
    s->all[i].free = true;
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
