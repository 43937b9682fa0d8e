/* The writers' side of the slot pool. */

#include <errno.h>
#include <time.h>

#include "nbdkit-plugin/monotonic_cond.h"
#include "nbdkit-plugin/slot_pool_parts.h"

/* How long a writer that runs out of work naps, and how long failed slots
 * rest.
 */
enum { NAP_NS = 1000000, RETRY_NS = 1000000000 };

/* The slot of a page if it can be written now, to extend a run. */
static uint32_t
queued_slot (struct slot_pool *p, uint64_t page)
{
  uint32_t i = slot_index_find (&p->index, page);

  return i != SLOT_NONE && p->slots[i].state == SLOT_QUEUED ? i : SLOT_NONE;
}

static void
begin_writing (struct slot_pool *p, uint32_t i)
{
  slot_queue_remove (p, i);
  p->slots[i].state = SLOT_WRITING;
}

static void
set_retry_time (struct slot_pool *p)
{
  p->retry_ns = slot_pool_now_ns (CLOCK_MONOTONIC) + RETRY_NS;
}

static void
requeue_failed (struct slot_pool *p)
{
  set_retry_time (p);
  for (uint32_t i = 0; i < p->n; i++)
    if (p->slots[i].state == SLOT_FAILED) {
      p->slots[i].epoch = epochs_enter (&p->epochs);
      slot_queue_append (p, &p->normal, i);
    }
}

static void
retry_failed (struct slot_pool *p)
{
  if (p->failed > 0 && !p->stopped &&
      slot_pool_now_ns (CLOCK_MONOTONIC) >= p->retry_ns)
    requeue_failed (p);
}

void
slot_pool_retry (struct slot_pool *p)
{
  pthread_mutex_lock (&p->lock);
  if (p->failed > 0 && !p->stopped)
    requeue_failed (p);
  pthread_mutex_unlock (&p->lock);
}

static void
nap (struct slot_pool *p, int64_t duration_ns)
{
  p->napping = true;
  monotonic_cond_wait (&p->work, &p->lock,
                       slot_pool_now_ns (CLOCK_MONOTONIC) + duration_ns);
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
    monotonic_cond_wait (&p->work, &p->lock, p->retry_ns);
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
                    slot_pool_now_ns (CLOCK_MONOTONIC_COARSE)))
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
  drain_begin (&p->drain, n, slot_pool_now_ns (CLOCK_MONOTONIC));
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
 * content, unless that was discarded; a flush that waited for the one waits
 * for the other.
 */
static void
hand_down (struct slot *s, struct slot *successor)
{
  uint32_t epoch = successor->epoch;

  successor->epoch = s->epoch;
  s->epoch = epoch;
  if (successor->dropped)
    return;
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
    slot_index_remove (&p->index, i);
  else {
    struct slot *n = &p->slots[s->successor];

    n->predecessor = SLOT_NONE;
    slot_queue_append (p, slot_queue_of (p, n), s->successor);
  }
  slot_free (p, i);
}

/* Its local write has ended; if that failed, it is known whether a donor has
 * the page.
 */
static void
end_one (struct slot_pool *p, uint32_t i, int error)
{
  struct slot *s = &p->slots[i];
  struct slot *n = s->successor == SLOT_NONE ? NULL : &p->slots[s->successor];
  bool owed = error && s->owed;
  bool kept = error && !n && p->owner.has_other_copy (p->owner.data, s->page);

  if (owed && n)
    hand_down (s, n);
  slot_leave_epoch (p, s->epoch);
  tell_waiter (s, kept ? 0 : error);
  if (owed && !n && !kept) {
    s->state = SLOT_FAILED;
    if (p->failed == 0)
      set_retry_time (p);
    slot_set_failed (p, s, true);
    pthread_cond_broadcast (&p->freed);
    return;
  }
  slot_set_failed (p, s, false);
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
  for (uint32_t i = 0; i < n; i++) {
    struct slot *s = &p->slots[slots[i]];

    if (error && s->sending) {
      s->error = error;
      s->state = SLOT_LANDING;
    }
    else
      end_one (p, slots[i], error);
  }
  if (drain_end (&p->drain, n, error < 0, slot_pool_now_ns (CLOCK_MONOTONIC)))
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

static void
land_one (struct slot_pool *p, uint32_t i)
{
  struct slot *s = &p->slots[i];
  const int error = s->error;

  s->sending = false;
  if (s->state != SLOT_LANDING)
    return;
  s->error = 0;
  if (error)
    end_one (p, i, error);
  else
    leave (p, i);
}

void
slot_pool_landed (struct slot_pool *p, const uint32_t *slots, uint32_t n,
                  const void *donor)
{
  pthread_mutex_lock (&p->lock);
  if (donor)
    tell_landed (p, slots, n, donor);
  for (uint32_t i = 0; i < n; i++)
    land_one (p, slots[i]);
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
