/* Slots: registered, page-aligned buffers that hold writes on their way
 * to the local copy, and the index of the newest slot of each page.
 *
 * The life of a slot: FREE, TAKEN by a worker that fills it, then committed:
 * it enters the index and waits for the writer (QUEUED, or BEHIND an earlier
 * write of its page), WRITING to the local copy and maybe to a donor,
 * LANDING if the latter takes longer, and FREE again, once nobody reads it
 * either.  So a slot is released only when both its remote and its local
 * write have ended, and at most one of each is in flight for a page.  A
 * committed slot that is superseded before its write began is never
 * written; its successor takes its place in the queue and its obligation
 * towards flushes.
 *
 * One mutex inside guards everything; no function holds it across I/O.
 */

#ifndef ISW_SLOT_POOL_H
#define ISW_SLOT_POOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nbdkit-plugin/slot_index.h"

enum { PAGE_SIZE_BYTES = 4096 };

/* Someone who waits until given slots are on the local copy. */
struct slot_waiter {
  unsigned pending;
  int error;                    /* the first failure, -errno */
  pthread_cond_t done;
};

/* All are called with the pool locked, so that what a page's slot says
 * and what its owner says change together.
 */
struct slot_pool_owner {
  /* Slots are being committed as the content of n pages from `first` on.
   * True if the local copy of any is older than
   * what was acknowledged before.
   */
  bool (*committed) (void *data, uint64_t first, uint32_t n);
  /* The newest slot of a page, whose local write failed for good: true if
   * the page has another good copy, which is its only one now; then the slot
   * may go.
   */
  bool (*has_other_copy) (void *data, uint64_t page);
  /* The donor, as slot_pool_landed was told, has the newest content of n
   * pages from `first` on.
   */
  void (*landed) (void *data, uint64_t first, uint32_t n, const void *donor);
  void *data;
};

struct slot_pool;

/* A pool of n slots over n pages of memory, which stays the caller's.  A
 * slot that nobody waits for may wait for others as long as delay_ns before
 * it is to be written (drain.h).  NULL if memory is short.
 */
struct slot_pool *slot_pool_new (void *memory, uint32_t n, int64_t delay_ns,
                                 struct slot_pool_owner owner);
void slot_pool_free (struct slot_pool *p);

void *slot_pool_buffer (const struct slot_pool *p, uint32_t slot);

/* Take n slots (n at most half the pool), waiting for writes to free some if
 * need be.  0; -EIO if the pool is full of slots that the
 * local copy does not accept.
 */
int slot_pool_take (struct slot_pool *p, uint32_t n, uint32_t *slots);

/* Return slots that were taken and not committed. */
void slot_pool_put_back (struct slot_pool *p, const uint32_t *slots,
                         uint32_t n);

/* Make taken slots the newest content of n pages from `first` on.  With a
 * waiter, slot_pool_wait waits for these very slots; they go to the local
 * copy before others.
 */
void slot_pool_commit (struct slot_pool *p, uint64_t first,
                       const uint32_t *slots, uint32_t n,
                       struct slot_waiter *w);

/* Wait until the slots committed with w are on the local copy: 0 or the
 * error.
 */
int slot_pool_wait (struct slot_pool *p, struct slot_waiter *w);

/* The newest slots of n pages from `first` on, SLOT_NONE where there is
 * none.  Those found cannot be reused until slot_pool_release.  How many
 * there are: with 0 there is nothing to release.
 */
uint32_t slot_pool_find (struct slot_pool *p, uint64_t first, uint32_t n,
                         uint32_t *slots);
void slot_pool_release (struct slot_pool *p, const uint32_t *slots,
                        uint32_t n);

/* Forget the content of n pages (it was discarded).  Writes in flight go on,
 * and a later commit waits behind them.
 */
void slot_pool_drop (struct slot_pool *p, uint64_t first, uint64_t n);

/* How many of n pages from `first` on, in a row, have nothing in the pool,
 * not even a dropped write in flight.
 */
uint64_t slot_pool_clear_run (struct slot_pool *p, uint64_t first,
                              uint64_t n);

/* The same, of pages that have no write to the local copy before them or in
 * flight, nor one that failed: what they have there is their newest
 * content, unless they were discarded.  If `also` is given it is asked
 * about them with the pool locked, and tells how many it is.
 */
uint64_t slot_pool_stored_run (struct slot_pool *p, uint64_t first,
                               uint64_t n,
                               uint64_t (*also) (void *data, uint64_t first,
                                                 uint64_t n), void *data);

/* Have slots that could not be written tried again now, not only when a
 * second has passed.
 */
void slot_pool_retry (struct slot_pool *p);

/* Wait until everything committed or dropped before the call has left the
 * pool for the local copy (a superseded slot: its successor).  -EIO if
 * some of it could not be written.
 */
int slot_pool_flush (struct slot_pool *p);

/* For the writers: a run of slots of adjacent pages that is due;
 * blocks until there is one.  Returns how many, 0 once the pool is
 * stopped and empty of work.  *first is the page of slots[0].
 */
uint32_t slot_pool_next (struct slot_pool *p, uint32_t max,
                         uint32_t *slots, uint64_t *first);
/* The same without waiting: 0 if nothing is due. */
uint32_t slot_pool_next_now (struct slot_pool *p, uint32_t max,
                             uint32_t *slots, uint64_t *first);
/* For a writer whose writes are in flight: let more work come together for
 * a moment.  False at once if there is work, or if anyone waits for what
 * is in flight.
 */
bool slot_pool_rest (struct slot_pool *p);
/* A donor gets this run as well, before slot_pool_written. */
void slot_pool_send (struct slot_pool *p, const uint32_t *slots, uint32_t n);
/* The donor has it, or, with NULL, will not. */
void slot_pool_landed (struct slot_pool *p, const uint32_t *slots,
                       uint32_t n, const void *donor);
/* Its write to the local copy ended, with 0 or -errno.  What follows from an
 * error depends on whether a donor has the page, so that waits for it.
 */
void slot_pool_written (struct slot_pool *p, const uint32_t *slots,
                        uint32_t n, int error);
/* Make slot_pool_next return 0 when nothing is left to write. */
void slot_pool_stop (struct slot_pool *p);

struct slot_pool_stats {
  uint32_t slots, in_use, limit;
  uint32_t failed;              /* pages that the local copy refused */
};
void slot_pool_stats (struct slot_pool *p, struct slot_pool_stats *ret);

#endif /* ISW_SLOT_POOL_H */
