#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "nbdkit-plugin/monotonic_cond.h"
#include "nbdkit-plugin/slot_pool_parts.h"

int64_t
slot_pool_now_ns (clockid_t clock)
{
  struct timespec now;

  clock_gettime (clock, &now);
  return now.tv_sec * INT64_C (1000000000) + now.tv_nsec;
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

void
slot_queue_append (struct slot_pool *p, struct slot_list *q, uint32_t i)
{
  p->slots[i].state = SLOT_QUEUED;
  slot_list_append (q, i);
  p->queued++;
  if (q == &p->urgent || !is_attended (p) ||
      (p->calls == 0 && drain_is_full (&p->drain, p->queued)))
    call_writer (p);
}

struct slot_list *
slot_queue_of (struct slot_pool *p, const struct slot *s)
{
  return s->waiter ? &p->urgent : &p->normal;
}

void
slot_queue_remove (struct slot_pool *p, uint32_t i)
{
  slot_list_remove (slot_queue_of (p, &p->slots[i]), i);
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

  if (!p)
    return NULL;
  p->memory = memory;
  p->n = n;
  drain_init (&p->drain, n, delay_ns);
  p->owner = owner;
  p->slots = calloc (n, sizeof *p->slots);
  p->free_map = calloc ((n + 63) / 64, sizeof *p->free_map);
  p->links = calloc (n, sizeof *p->links);
  if (slot_index_init (&p->index, n) < 0 || !p->slots || !p->free_map ||
      !p->links) {
    slot_pool_free (p);
    return NULL;
  }
  for (uint32_t i = 0; i < n; i++)
    p->free_map[i / 64] |= UINT64_C (1) << (i % 64);
  slot_list_init (&p->urgent, p->links);
  slot_list_init (&p->normal, p->links);
  pthread_mutex_init (&p->lock, NULL);
  pthread_cond_init (&p->freed, NULL);
  monotonic_cond_init (&p->work);
  pthread_cond_init (&p->drained, NULL);
  return p;
}

void
slot_pool_free (struct slot_pool *p)
{
  if (!p)
    return;
  free (p->slots);
  slot_index_destroy (&p->index);
  free (p->free_map);
  free (p->links);
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

void
slot_free (struct slot_pool *p, uint32_t i)
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
    slot_free (p, slots[i]);
  pthread_mutex_unlock (&p->lock);
}

void
slot_set_failed (struct slot_pool *p, struct slot *s, bool failed)
{
  p->failed += failed - s->failed;
  s->failed = failed;
}

void
slot_leave_epoch (struct slot_pool *p, uint32_t epoch)
{
  if (epochs_leave (&p->epochs, epoch))
    pthread_cond_broadcast (&p->drained);
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
      slot_list_replace (&p->normal, old, new);
      s->state = SLOT_QUEUED;
      s->since_ns = o->since_ns;
      return;
    }
    slot_queue_remove (p, old);
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
  slot_queue_append (p, slot_queue_of (p, s), new);
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
  uint32_t old = slot_index_find (&p->index, page);
  struct slot *o = old == SLOT_NONE ? NULL : &p->slots[old];

  s->page = page;
  s->waiter = w;
  s->owed = owed;
  s->since_ns = p->newest_ns;
  if (o && !is_fixed (o) && o->state != SLOT_FAILED)
    s->epoch = o->epoch;        /* with its place in that epoch's count */
  else
    s->epoch = epochs_enter (&p->epochs);

  if (o)
    slot_index_remove (&p->index, old);
  slot_index_insert (&p->index, page, new);
  if (!o)
    slot_queue_append (p, slot_queue_of (p, s), new);
  else if (is_fixed (o)) {
    s->state = SLOT_BEHIND;
    s->predecessor = old;
    o->successor = new;
  }
  else {
    take_place (p, old, new);
    slot_free (p, old);
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
  p->newest_ns = slot_pool_now_ns (CLOCK_MONOTONIC_COARSE);
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

int
slot_pool_flush (struct slot_pool *p)
{
  uint32_t mine;
  int r;

  pthread_mutex_lock (&p->lock);
  mine = epochs_close (&p->epochs);
  while (p->calls < p->idle && p->queued > 0)
    call_writer (p);
  begin_hurrying (p);
  while (!epochs_are_clear (&p->epochs, mine))
    pthread_cond_wait (&p->drained, &p->lock);
  end_hurrying (p);
  r = p->failed > 0 ? -EIO : 0;
  pthread_mutex_unlock (&p->lock);
  return r;
}

uint32_t
slot_pool_find (struct slot_pool *p, uint64_t first, uint32_t n,
                uint32_t *slots)
{
  uint32_t found = 0;

  pthread_mutex_lock (&p->lock);
  for (uint32_t i = 0; i < n; i++) {
    slots[i] = slot_index_find (&p->index, first + i);
    if (slots[i] == SLOT_NONE)
      continue;
    if (p->slots[slots[i]].dropped)
      slots[i] = SLOT_NONE;
    else {
      p->slots[slots[i]].readers++;
      found++;
    }
  }
  pthread_mutex_unlock (&p->lock);
  return found;
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
      slot_free (p, slots[i]);
  }
  pthread_mutex_unlock (&p->lock);
}

static void
drop_content (struct slot_pool *p, struct slot *s)
{
  s->dropped = true;
  s->owed = false;
  slot_set_failed (p, s, false);
}

static void
drop_one (struct slot_pool *p, uint32_t i)
{
  struct slot *s = &p->slots[i];

  drop_content (p, s);
  if (is_fixed (s))
    return;
  slot_index_remove (&p->index, i);
  if (s->state != SLOT_FAILED)
    slot_leave_epoch (p, s->epoch);
  if (s->state == SLOT_QUEUED)
    slot_queue_remove (p, i);
  else if (s->state == SLOT_BEHIND) {
    /* The predecessor's write is still to be waited for. */
    struct slot *o = &p->slots[s->predecessor];
    o->successor = SLOT_NONE;
    drop_content (p, o);
    slot_index_insert (&p->index, s->page, s->predecessor);
  }
  slot_free (p, i);
}

void
slot_pool_drop (struct slot_pool *p, uint64_t first, uint64_t n)
{
  enum { AT_ONCE = 1024 };      /* pages looked up under one lock */

  while (n > 0) {
    uint64_t some = n < AT_ONCE ? n : AT_ONCE;

    pthread_mutex_lock (&p->lock);
    for (uint64_t i = 0; i < some; i++) {
      uint32_t slot = slot_index_find (&p->index, first + i);
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
  while (i < n && slot_index_find (&p->index, first + i) == SLOT_NONE)
    i++;
  pthread_mutex_unlock (&p->lock);
  return i;
}

static bool
is_stored (struct slot_pool *p, uint64_t page)
{
  uint32_t i = slot_index_find (&p->index, page);

  return i == SLOT_NONE ||
    (p->slots[i].state == SLOT_LANDING && !p->slots[i].error);
}

uint64_t
slot_pool_stored_run (struct slot_pool *p, uint64_t first, uint64_t n,
                      uint64_t (*also) (void *data, uint64_t first,
                                        uint64_t n), void *data)
{
  uint64_t i = 0;

  pthread_mutex_lock (&p->lock);
  while (i < n && is_stored (p, first + i))
    i++;
  if (also && i > 0)
    i = also (data, first, i);
  pthread_mutex_unlock (&p->lock);
  return i;
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
