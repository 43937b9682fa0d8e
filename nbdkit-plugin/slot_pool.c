#include "nbdkit-plugin/slot_pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "nbdkit-plugin/drain.h"

enum slot_state {
  SLOT_FREE,
  SLOT_TAKEN,
  SLOT_QUEUED,                  /* in one of the queues */
  SLOT_BEHIND,                  /* waits for its predecessor's write */
  SLOT_WRITING,
  SLOT_LANDING,                 /* written; on its way to a donor yet */
  SLOT_FAILED,                  /* not writable; the page's only copy */
  SLOT_ENDED,                   /* done, but still held */
};

struct slot {
  uint64_t page;
  struct slot_waiter *waiter;
  enum slot_state state;
  uint32_t readers;
  uint32_t epoch;
  int64_t since_ns;             /* when its place in the queue was taken */
  uint32_t hash_next;           /* next in the index's bucket */
  uint32_t prev, next;          /* neighbours in its queue */
  uint32_t predecessor, successor; /* of the same page, older and newer */
  bool sending;                 /* to a donor; while it is written or landing,
                                   its writer's */
  bool dropped;                 /* in the index for order, not for content */
  bool owed;                    /* acknowledged content of the page is not on
                                   the local copy: stays if its write fails */
  bool failed;                  /* counted: the local copy refused the page */
};

struct queue {
  uint32_t head, tail;
};

/* Flushes outstanding at once that are told apart; further ones share. */
enum { EPOCHS = 64 };

/* Waking a writer costs more than all else that a write does here, so one
 * that runs out of work looks again after a nap before it sleeps.  While
 * one naps, others are woken only for who waits or when many slots are
 * queued.
 */
enum { NS_PER_S = 1000000000, NAP_NS = 1000000, RETRY_NS = NS_PER_S };

struct slot_pool {
  char *memory;                 /* constant, like n and owner */
  uint32_t n;
  struct slot_pool_owner owner;

  pthread_mutex_t lock;         /* guards all below */
  pthread_cond_t freed;         /* a slot became free */
  pthread_cond_t work;          /* a queue is no longer empty */
  pthread_cond_t drained;       /* an epoch became empty */
  struct slot *slots;
  uint32_t *buckets;            /* index: page -> newest slot */
  uint32_t bucket_mask;
  uint64_t *free_map;           /* a set bit is a free slot */
  uint32_t cursor;              /* word of free_map where to look next */
  uint32_t in_use, failed;
  int64_t retry_ns;             /* when failed slots are tried again */
  struct queue urgent, normal;  /* urgent: someone waits */
  uint32_t queued;              /* slots in both */
  int64_t newest_ns;            /* when the last slot was committed */
  uint32_t idle, calls;         /* writers that wait; those told to get up */
  bool napping;                 /* one of the idle gets up by itself */
  uint32_t waiting;             /* threads that wait for writes to end, */
  uint32_t hurrying;            /* and those of them that wait for any */
  uint32_t epoch;
  uint32_t pending[EPOCHS];     /* committed and not written, by epoch */
  bool stopped;
  struct drain drain;
};

static int64_t
now_ns (clockid_t clock)
{
  struct timespec now;

  clock_gettime (clock, &now);
  return now.tv_sec * (int64_t) NS_PER_S + now.tv_nsec;
}

static uint64_t
hash (uint64_t page)
{
  return (page * UINT64_C (0x9e3779b97f4a7c15)) >> 32;
}

static uint32_t *
bucket_of (struct slot_pool *p, uint64_t page)
{
  return &p->buckets[hash (page) & p->bucket_mask];
}

static uint32_t
index_find (struct slot_pool *p, uint64_t page)
{
  uint32_t i = *bucket_of (p, page);

  while (i != SLOT_NONE && p->slots[i].page != page)
    i = p->slots[i].hash_next;
  return i;
}

static void
index_insert (struct slot_pool *p, uint32_t i)
{
  uint32_t *b = bucket_of (p, p->slots[i].page);

  p->slots[i].hash_next = *b;
  *b = i;
}

static void
index_remove (struct slot_pool *p, uint32_t i)
{
  uint32_t *b = bucket_of (p, p->slots[i].page);

  while (*b != i)
    b = &p->slots[*b].hash_next;
  *b = p->slots[i].hash_next;
}

static void
call_writer (struct slot_pool *p)
{
  if (p->calls < p->idle) {
    p->calls++;
    pthread_cond_signal (&p->work);
  }
}

/* Will a writer look at the queues soon without being called?  One that
 * is writing may be held up by the disk.
 */
static bool
is_attended (const struct slot_pool *p)
{
  return p->napping || p->calls > 0;
}

static void
queue_append (struct slot_pool *p, struct queue *q, uint32_t i)
{
  struct slot *s = &p->slots[i];

  s->state = SLOT_QUEUED;
  s->prev = q->tail;
  s->next = SLOT_NONE;
  if (q->tail == SLOT_NONE)
    q->head = i;
  else
    p->slots[q->tail].next = i;
  q->tail = i;
  p->queued++;
  if (q == &p->urgent || !is_attended (p) ||
      (p->calls == 0 && drain_is_full (&p->drain, p->queued)))
    call_writer (p);
}

static struct queue *
queue_of (struct slot_pool *p, const struct slot *s)
{
  return s->waiter ? &p->urgent : &p->normal;
}

static void
queue_remove (struct slot_pool *p, uint32_t i)
{
  struct slot *s = &p->slots[i];
  struct queue *q = queue_of (p, s);

  if (s->prev == SLOT_NONE)
    q->head = s->next;
  else
    p->slots[s->prev].next = s->next;
  if (s->next == SLOT_NONE)
    q->tail = s->prev;
  else
    p->slots[s->next].prev = s->prev;
  p->queued--;
}

/* For who begins to wait until writes have ended: no writer rests then. */
static void
begin_waiting (struct slot_pool *p)
{
  p->waiting++;
  if (p->napping)
    call_writer (p);
}

/* ... and slots are due at once. */
static void
begin_hurrying (struct slot_pool *p)
{
  p->hurrying++;
  begin_waiting (p);
}

static void
end_hurrying (struct slot_pool *p)
{
  p->waiting--;
  p->hurrying--;
}

struct slot_pool *
slot_pool_new (void *memory, uint32_t n, int64_t delay_ns,
               struct slot_pool_owner owner)
{
  struct slot_pool *p = calloc (1, sizeof *p);
  uint32_t buckets = 64;
  pthread_condattr_t attr;

  if (!p)
    return NULL;
  while (buckets < 2 * n)
    buckets *= 2;
  p->memory = memory;
  p->n = n;
  drain_init (&p->drain, n, delay_ns);
  p->owner = owner;
  p->slots = calloc (n, sizeof *p->slots);
  p->buckets = malloc (buckets * sizeof *p->buckets);
  p->free_map = calloc ((n + 63) / 64, sizeof *p->free_map);
  if (!p->slots || !p->buckets || !p->free_map) {
    slot_pool_free (p);
    return NULL;
  }
  p->bucket_mask = buckets - 1;
  for (uint32_t i = 0; i < buckets; i++)
    p->buckets[i] = SLOT_NONE;
  for (uint32_t i = 0; i < n; i++)
    p->free_map[i / 64] |= UINT64_C (1) << (i % 64);
  p->urgent = p->normal = (struct queue) { SLOT_NONE, SLOT_NONE };
  pthread_mutex_init (&p->lock, NULL);
  pthread_cond_init (&p->freed, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&p->work, &attr);
  pthread_condattr_destroy (&attr);
  pthread_cond_init (&p->drained, NULL);
  return p;
}

void
slot_pool_free (struct slot_pool *p)
{
  if (!p)
    return;
  free (p->slots);
  free (p->buckets);
  free (p->free_map);
  free (p);
}

void *
slot_pool_buffer (const struct slot_pool *p, uint32_t slot)
{
  return p->memory + (size_t) slot * PAGE_SIZE_BYTES;
}

/* Slots come and go roughly in turn, so the next free ones after the last
 * taken are mostly adjacent, and a request's slots one piece of memory.
 */
static uint32_t
pick_free (struct slot_pool *p)
{
  uint32_t words = (p->n + 63) / 64;

  while (p->free_map[p->cursor] == 0)
    p->cursor = (p->cursor + 1) % words;

  uint32_t bit = __builtin_ctzll (p->free_map[p->cursor]);
  p->free_map[p->cursor] &= ~(UINT64_C (1) << bit);
  return p->cursor * 64 + bit;
}

int
slot_pool_take (struct slot_pool *p, uint32_t n, uint32_t *slots)
{
  int r = 0;

  assert (n <= p->n / 2);
  pthread_mutex_lock (&p->lock);
  while (p->in_use + n > p->drain.limit) {
    if (p->failed + n > p->drain.limit) {
      r = -EIO;
      goto out;
    }
    begin_hurrying (p);
    pthread_cond_wait (&p->freed, &p->lock);
    end_hurrying (p);
  }
  p->in_use += n;
  for (uint32_t i = 0; i < n; i++) {
    slots[i] = pick_free (p);
    p->slots[slots[i]] = (struct slot) {
      .state = SLOT_TAKEN, .predecessor = SLOT_NONE, .successor = SLOT_NONE,
    };
  }
 out:
  pthread_mutex_unlock (&p->lock);
  return r;
}

static void
free_slot (struct slot_pool *p, uint32_t i)
{
  struct slot *s = &p->slots[i];

  if (s->readers > 0) {
    s->state = SLOT_ENDED;      /* the last holder frees it */
    return;
  }
  s->state = SLOT_FREE;
  p->free_map[i / 64] |= UINT64_C (1) << (i % 64);
  p->in_use--;
  pthread_cond_broadcast (&p->freed);
}

void
slot_pool_put_back (struct slot_pool *p, const uint32_t *slots, uint32_t n)
{
  pthread_mutex_lock (&p->lock);
  for (uint32_t i = 0; i < n; i++)
    free_slot (p, slots[i]);
  pthread_mutex_unlock (&p->lock);
}

static void
set_failed (struct slot_pool *p, struct slot *s, bool failed)
{
  p->failed += failed - s->failed;
  s->failed = failed;
}

static void
leave_epoch (struct slot_pool *p, uint32_t epoch)
{
  if (--p->pending[epoch % EPOCHS] == 0)
    pthread_cond_broadcast (&p->drained);
}

static void
queue_replace (struct slot_pool *p, struct queue *q, uint32_t old,
               uint32_t new)
{
  struct slot *o = &p->slots[old], *s = &p->slots[new];

  s->state = SLOT_QUEUED;
  s->since_ns = o->since_ns;
  s->prev = o->prev;
  s->next = o->next;
  if (s->prev == SLOT_NONE)
    q->head = new;
  else
    p->slots[s->prev].next = new;
  if (s->next == SLOT_NONE)
    q->tail = new;
  else
    p->slots[s->next].prev = new;
}

/* The new slot replaces one that will never be written.  It takes over
 * the place in the queue (a page that is rewritten all the time must not
 * keep a flush waiting for ever) or behind the predecessor, and what is
 * owed to the page.
 */
static void
take_place (struct slot_pool *p, uint32_t old, uint32_t new)
{
  struct slot *o = &p->slots[old], *s = &p->slots[new];

  s->owed = true;
  s->failed = o->failed;
  switch (o->state) {
  case SLOT_QUEUED:
    if (!s->waiter) {
      queue_replace (p, &p->normal, old, new);
      return;
    }
    queue_remove (p, old);
    break;
  case SLOT_BEHIND:
    s->state = SLOT_BEHIND;
    s->predecessor = o->predecessor;
    p->slots[s->predecessor].successor = new;
    return;
  case SLOT_FAILED:
    break;
  default:
    assert (0);
  }
  queue_append (p, queue_of (p, s), new);
}

/* A slot that is being written, or that somebody waits for, is written in
 * any case.
 */
static bool
is_fixed (const struct slot *s)
{
  return s->state == SLOT_WRITING || s->state == SLOT_LANDING ||
    s->waiter != NULL;
}

static void
commit_one (struct slot_pool *p, uint64_t page, uint32_t new,
            struct slot_waiter *w, bool owed)
{
  struct slot *s = &p->slots[new];
  uint32_t old = index_find (p, page);
  struct slot *o = old == SLOT_NONE ? NULL : &p->slots[old];

  s->page = page;
  s->waiter = w;
  s->owed = owed;
  s->epoch = p->epoch;
  s->since_ns = p->newest_ns;
  if (o && !is_fixed (o) && o->state != SLOT_FAILED)
    s->epoch = o->epoch;        /* with its place in that epoch's count */
  else
    p->pending[s->epoch % EPOCHS]++;

  if (o)
    index_remove (p, old);
  index_insert (p, new);
  if (!o)
    queue_append (p, queue_of (p, s), new);
  else if (is_fixed (o)) {
    s->state = SLOT_BEHIND;
    s->predecessor = old;
    o->successor = new;
  }
  else {
    take_place (p, old, new);
    free_slot (p, old);
  }
}

void
slot_pool_commit (struct slot_pool *p, uint64_t first,
                  const uint32_t *slots, uint32_t n, struct slot_waiter *w)
{
  bool owed;

  if (w) {
    w->pending = n;
    w->error = 0;
    pthread_cond_init (&w->done, NULL);
  }
  pthread_mutex_lock (&p->lock);
  p->newest_ns = now_ns (CLOCK_MONOTONIC_COARSE);
  owed = p->owner.committed (p->owner.data, first, n) || !w;
  for (uint32_t i = 0; i < n; i++)
    commit_one (p, first + i, slots[i], w, owed);
  pthread_mutex_unlock (&p->lock);
}

int
slot_pool_wait (struct slot_pool *p, struct slot_waiter *w)
{
  pthread_mutex_lock (&p->lock);
  begin_waiting (p);
  while (w->pending > 0)
    pthread_cond_wait (&w->done, &p->lock);
  p->waiting--;
  pthread_mutex_unlock (&p->lock);
  pthread_cond_destroy (&w->done);
  return w->error;
}

void
slot_pool_find (struct slot_pool *p, uint64_t first, uint32_t n,
                uint32_t *slots)
{
  pthread_mutex_lock (&p->lock);
  for (uint32_t i = 0; i < n; i++) {
    slots[i] = index_find (p, first + i);
    if (slots[i] == SLOT_NONE)
      continue;
    if (p->slots[slots[i]].dropped)
      slots[i] = SLOT_NONE;
    else
      p->slots[slots[i]].readers++;
  }
  pthread_mutex_unlock (&p->lock);
}

void
slot_pool_release (struct slot_pool *p, const uint32_t *slots, uint32_t n)
{
  pthread_mutex_lock (&p->lock);
  for (uint32_t i = 0; i < n; i++) {
    if (slots[i] == SLOT_NONE)
      continue;

    struct slot *s = &p->slots[slots[i]];
    if (--s->readers == 0 && s->state == SLOT_ENDED)
      free_slot (p, slots[i]);
  }
  pthread_mutex_unlock (&p->lock);
}

static void
drop_content (struct slot_pool *p, struct slot *s)
{
  s->dropped = true;
  s->owed = false;
  set_failed (p, s, false);
}

static void
drop_one (struct slot_pool *p, uint32_t i)
{
  struct slot *s = &p->slots[i];

  drop_content (p, s);
  if (is_fixed (s))
    return;
  index_remove (p, i);
  if (s->state != SLOT_FAILED)
    leave_epoch (p, s->epoch);
  if (s->state == SLOT_QUEUED)
    queue_remove (p, i);
  else if (s->state == SLOT_BEHIND) {
    /* The predecessor's write is still to be waited for. */
    struct slot *o = &p->slots[s->predecessor];
    o->successor = SLOT_NONE;
    drop_content (p, o);
    index_insert (p, s->predecessor);
  }
  free_slot (p, i);
}

void
slot_pool_drop (struct slot_pool *p, uint64_t first, uint64_t n)
{
  enum { AT_ONCE = 1024 };      /* pages looked up under one lock */

  while (n > 0) {
    uint64_t some = n < AT_ONCE ? n : AT_ONCE;

    pthread_mutex_lock (&p->lock);
    for (uint64_t i = 0; i < some; i++) {
      uint32_t slot = index_find (p, first + i);
      if (slot != SLOT_NONE)
        drop_one (p, slot);
    }
    pthread_mutex_unlock (&p->lock);
    first += some;
    n -= some;
  }
}

uint64_t
slot_pool_clear_run (struct slot_pool *p, uint64_t first, uint64_t n)
{
  uint64_t i = 0;

  pthread_mutex_lock (&p->lock);
  while (i < n && index_find (p, first + i) == SLOT_NONE)
    i++;
  pthread_mutex_unlock (&p->lock);
  return i;
}

static bool
is_stored (struct slot_pool *p, uint64_t page)
{
  uint32_t i = index_find (p, page);

  return i == SLOT_NONE || p->slots[i].state == SLOT_LANDING;
}

uint64_t
slot_pool_stored_run (struct slot_pool *p, uint64_t first, uint64_t n)
{
  uint64_t i = 0;

  pthread_mutex_lock (&p->lock);
  while (i < n && is_stored (p, first + i))
    i++;
  pthread_mutex_unlock (&p->lock);
  return i;
}

/* The oldest epoch with something pending, or the current one. */
static uint32_t
oldest_epoch (const struct slot_pool *p)
{
  for (uint32_t age = EPOCHS - 1; age > 0; age--)
    if (p->pending[(p->epoch - age) % EPOCHS] > 0)
      return p->epoch - age;
  return p->epoch;
}

/* The slot of a page if it can be written now, to extend a run. */
static uint32_t
queued_slot (struct slot_pool *p, uint64_t page)
{
  uint32_t i = index_find (p, page);

  return i != SLOT_NONE && p->slots[i].state == SLOT_QUEUED ? i : SLOT_NONE;
}

static void
begin_writing (struct slot_pool *p, uint32_t i)
{
  queue_remove (p, i);
  p->slots[i].state = SLOT_WRITING;
}

static void
set_retry_time (struct slot_pool *p)
{
  p->retry_ns = now_ns (CLOCK_MONOTONIC) + RETRY_NS;
}

static void
requeue_failed (struct slot_pool *p)
{
  set_retry_time (p);
  for (uint32_t i = 0; i < p->n; i++)
    if (p->slots[i].state == SLOT_FAILED) {
      p->slots[i].epoch = p->epoch;
      p->pending[p->epoch % EPOCHS]++;
      queue_append (p, &p->normal, i);
    }
}

static void
retry_failed (struct slot_pool *p)
{
  if (p->failed > 0 && !p->stopped &&
      now_ns (CLOCK_MONOTONIC) >= p->retry_ns)
    requeue_failed (p);
}

int
slot_pool_flush (struct slot_pool *p)
{
  uint32_t mine;
  int r;

  pthread_mutex_lock (&p->lock);
  mine = p->epoch;
  /* The ring has room for a new epoch unless the oldest is EPOCHS - 1
   * behind; then this flush waits for later writes as well.
   */
  if (p->epoch - oldest_epoch (p) < EPOCHS - 1)
    p->epoch++;
  while (p->calls < p->idle && p->queued > 0)
    call_writer (p);
  begin_hurrying (p);
  while ((int32_t) (oldest_epoch (p) - mine) <= 0 &&
         (oldest_epoch (p) != p->epoch || p->pending[p->epoch % EPOCHS] > 0))
    pthread_cond_wait (&p->drained, &p->lock);
  end_hurrying (p);
  r = p->failed > 0 ? -EIO : 0;
  pthread_mutex_unlock (&p->lock);
  return r;
}

void
slot_pool_retry (struct slot_pool *p)
{
  pthread_mutex_lock (&p->lock);
  if (p->failed > 0 && !p->stopped)
    requeue_failed (p);
  pthread_mutex_unlock (&p->lock);
}

/* Until there is work, or until then. */
static void
sleep_until (struct slot_pool *p, int64_t until_ns)
{
  const struct timespec until = {
    .tv_sec = until_ns / NS_PER_S, .tv_nsec = until_ns % NS_PER_S,
  };

  pthread_cond_timedwait (&p->work, &p->lock, &until);
}

static void
nap (struct slot_pool *p, int64_t duration_ns)
{
  p->napping = true;
  sleep_until (p, now_ns (CLOCK_MONOTONIC) + duration_ns);
  p->napping = false;
}

/* A writer that has just had work, or will have some when it is due, naps,
 * if no other does.
 */
static void
wait_for_work (struct slot_pool *p, bool had_work)
{
  p->idle++;
  if (had_work && !p->napping)
    nap (p, NAP_NS);
  else if (p->queued > 0 && !p->napping)
    nap (p, drain_quiet_ns (&p->drain));
  else if (p->failed > 0)
    sleep_until (p, p->retry_ns);
  else
    pthread_cond_wait (&p->work, &p->lock);
  p->idle--;
  if (p->calls > 0)
    p->calls--;
}

/* The queued slot whose turn it is, SLOT_NONE if none is due. */
static uint32_t
due_slot (struct slot_pool *p)
{
  uint32_t i = p->normal.head;

  if (p->urgent.head != SLOT_NONE)
    return p->urgent.head;
  if (i == SLOT_NONE || p->stopped || p->hurrying > 0 ||
      drain_is_due (&p->drain, p->queued, p->slots[i].since_ns, p->newest_ns,
                    now_ns (CLOCK_MONOTONIC_COARSE)))
    return i;
  return SLOT_NONE;
}

/* Pages of different blocks are never in one run: they may be of different
 * slabs.
 */
enum { BLOCK_PAGES = 256 };

/* The slot of a page if it can be in a run with its neighbour. */
static uint32_t
neighbour_slot (struct slot_pool *p, uint64_t page, uint64_t of)
{
  return page / BLOCK_PAGES == of / BLOCK_PAGES ? queued_slot (p, page)
    : SLOT_NONE;
}

/* The run that is next, 0 if none is: the slot whose turn it is among its
 * neighbours.
 */
static uint32_t
take_run (struct slot_pool *p, uint32_t max, uint32_t *slots,
          uint64_t *first)
{
  uint32_t n = 0, i = due_slot (p), before;

  if (i == SLOT_NONE)
    return 0;
  *first = p->slots[i].page;
  for (uint32_t back = 1; back < max && *first > 0; back++) {
    before = neighbour_slot (p, *first - 1, *first);
    if (before == SLOT_NONE)
      break;
    i = before;
    --*first;
  }
  for (; n < max && i != SLOT_NONE;
       i = neighbour_slot (p, *first + n, *first)) {
    begin_writing (p, i);
    slots[n++] = i;
  }
  drain_begin (&p->drain, n, now_ns (CLOCK_MONOTONIC));
  return n;
}

uint32_t
slot_pool_next_now (struct slot_pool *p, uint32_t max, uint32_t *slots,
                    uint64_t *first)
{
  uint32_t n;

  pthread_mutex_lock (&p->lock);
  retry_failed (p);
  n = take_run (p, max, slots, first);
  pthread_mutex_unlock (&p->lock);
  return n;
}

uint32_t
slot_pool_next (struct slot_pool *p, uint32_t max, uint32_t *slots,
                uint64_t *first)
{
  bool had_work = true;
  uint32_t n;

  pthread_mutex_lock (&p->lock);
  retry_failed (p);
  while ((n = take_run (p, max, slots, first)) == 0 && !p->stopped) {
    wait_for_work (p, had_work);
    retry_failed (p);
    had_work = false;
  }
  pthread_mutex_unlock (&p->lock);
  return n;
}

bool
slot_pool_rest (struct slot_pool *p)
{
  bool rest;

  pthread_mutex_lock (&p->lock);
  rest = due_slot (p) == SLOT_NONE && p->waiting == 0 && !p->napping;
  if (rest)
    wait_for_work (p, true);
  pthread_mutex_unlock (&p->lock);
  return rest;
}

static void
tell_waiter (struct slot *s, int error)
{
  struct slot_waiter *w = s->waiter;

  if (!w)
    return;
  s->waiter = NULL;
  if (error && !w->error)
    w->error = error;
  if (--w->pending == 0)
    pthread_cond_signal (&w->done);
}

/* After a failed write: what was owed to the page is owed by the newer
 * content; a flush that waited for the one waits for the other.
 */
static void
hand_down (struct slot *s, struct slot *successor)
{
  uint32_t epoch = successor->epoch;

  successor->epoch = s->epoch;
  s->epoch = epoch;
  successor->owed = true;
  successor->failed = s->failed;
  s->failed = false;
}

/* Both its writes have ended. */
static void
leave (struct slot_pool *p, uint32_t i)
{
  struct slot *s = &p->slots[i];

  if (s->successor == SLOT_NONE)
    index_remove (p, i);
  else {
    struct slot *n = &p->slots[s->successor];

    n->predecessor = SLOT_NONE;
    queue_append (p, queue_of (p, n), s->successor);
  }
  free_slot (p, i);
}

static void
end_one (struct slot_pool *p, uint32_t i, int error)
{
  struct slot *s = &p->slots[i];
  struct slot *n = s->successor == SLOT_NONE ? NULL : &p->slots[s->successor];
  bool owed = error && s->owed;

  assert (!error || !s->sending);

  if (owed && n)
    hand_down (s, n);
  leave_epoch (p, s->epoch);
  tell_waiter (s, error);
  if (error && !n && !p->owner.has_other_copy (p->owner.data, s->page) &&
      owed) {
    s->state = SLOT_FAILED;
    if (p->failed == 0)
      set_retry_time (p);
    set_failed (p, s, true);
    pthread_cond_broadcast (&p->freed);
    return;
  }
  set_failed (p, s, false);
  if (s->sending)
    s->state = SLOT_LANDING;
  else
    leave (p, i);
}

void
slot_pool_written (struct slot_pool *p, const uint32_t *slots, uint32_t n,
                   int error)
{
  pthread_mutex_lock (&p->lock);
  for (uint32_t i = 0; i < n; i++)
    end_one (p, slots[i], error);
  if (drain_end (&p->drain, n, error < 0, now_ns (CLOCK_MONOTONIC)))
    pthread_cond_broadcast (&p->freed);
  pthread_mutex_unlock (&p->lock);
}

void
slot_pool_send (struct slot_pool *p, const uint32_t *slots, uint32_t n)
{
  /* They are the writer's own. */
  for (uint32_t i = 0; i < n; i++)
    p->slots[slots[i]].sending = true;
}

/* How many slots of the run, in a row, are the newest of their pages. */
static uint32_t
newest_run (const struct slot_pool *p, const uint32_t *slots, uint32_t n)
{
  uint32_t i = 0;

  while (i < n && p->slots[slots[i]].successor == SLOT_NONE &&
         !p->slots[slots[i]].dropped)
    i++;
  return i;
}

/* So readers who no longer find the slots know of the donor. */
static void
tell_landed (struct slot_pool *p, const uint32_t *slots, uint32_t n,
             const void *donor)
{
  for (uint32_t i = 0, run; i < n; i += run > 0 ? run : 1) {
    run = newest_run (p, slots + i, n - i);
    if (run > 0)
      p->owner.landed (p->owner.data, p->slots[slots[i]].page, run, donor);
  }
}

void
slot_pool_landed (struct slot_pool *p, const uint32_t *slots, uint32_t n,
                  const void *donor)
{
  pthread_mutex_lock (&p->lock);
  if (donor)
    tell_landed (p, slots, n, donor);
  for (uint32_t i = 0; i < n; i++) {
    p->slots[slots[i]].sending = false;
    if (p->slots[slots[i]].state == SLOT_LANDING)
      leave (p, slots[i]);
  }
  pthread_mutex_unlock (&p->lock);
}

void
slot_pool_stop (struct slot_pool *p)
{
  pthread_mutex_lock (&p->lock);
  p->stopped = true;
  pthread_cond_broadcast (&p->work);
  pthread_mutex_unlock (&p->lock);
}

void
slot_pool_stats (struct slot_pool *p, struct slot_pool_stats *ret)
{
  pthread_mutex_lock (&p->lock);
  *ret = (struct slot_pool_stats) {
    .slots = p->n, .in_use = p->in_use, .limit = p->drain.limit,
    .failed = p->failed,
  };
  pthread_mutex_unlock (&p->lock);
}
