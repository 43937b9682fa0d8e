/* Pages of sequential reads, fetched ahead of them: while one read is on its
 * way to who asked, a thread has the pages after it sent by their donor.
 *
 * What is fetched lies in windows of SPAN_PAGES_MAX pages at most.  A window
 * is its pages' content as long as nobody has changed them since it was asked
 * for: who does, says so (read_ahead_forget) once no fetch that begins takes
 * the former content, and before the change is acknowledged.
 *
 * All functions but start and stop are for many threads at once.  They take
 * one lock, for short; forget may be called with the slot pool locked.
 */

#ifndef ISW_READ_AHEAD_H
#define ISW_READ_AHEAD_H

#include <stdint.h>

#include "nbdkit-plugin/lane_pool.h"
#include "nbdkit-plugin/slot_pool.h"

enum { WINDOW_BYTES = SPAN_PAGES_MAX * PAGE_SIZE_BYTES };

struct read_ahead;
struct window;

struct read_ahead_params {
  char *memory;                 /* the caller's, WINDOW_BYTES for each */
  unsigned windows;             /* 0: nothing is ever fetched */
  uint64_t pages, slab_pages;   /* of the device */
  /* How many of n pages from `first` on, of one slab, a donor has now, from
   * the first one on.  Called under the lock.
   */
  uint32_t (*fetchable) (void *data, uint64_t first, uint32_t n);
  /* In the thread: put n pages from `first` on, of one slab, into buf; how
   * many of them, from the first one on, are there now.  May block.
   */
  uint32_t (*fetch) (void *data, uint64_t first, uint32_t n, char *buf);
  void *data;
};

/* NULL with errno set. */
struct read_ahead *read_ahead_start (const struct read_ahead_params *params);
/* Waits for a fetch that is under way. */
void read_ahead_stop (struct read_ahead *a);
/* Stops it as well; NULL is allowed. */
void read_ahead_free (struct read_ahead *a);

/* A read of n pages from `first` on begins.  From the third on that continues
 * the one before, the pages after it are fetched, no more ahead than were
 * read.
 */
void read_ahead_note (struct read_ahead *a, uint64_t first, uint32_t n);

/* Which of n pages from *page on are in one window: from *page, changed, on as
 * many as is returned.  They are at *content until *window is released.  If
 * they are being fetched, waits for that, until deadline_ns at most.  0 if
 * there are none.  The caller has looked for slots of the pages before.
 */
uint32_t read_ahead_find (struct read_ahead *a, uint64_t *page, uint32_t n,
                          int64_t deadline_ns, const char **content,
                          struct window **window);
/* n pages from `page` on have been read of it. */
void read_ahead_release (struct read_ahead *a, struct window *window,
                         uint64_t page, uint32_t n);

/* The content of n pages from `first` on changes. */
void read_ahead_forget (struct read_ahead *a, uint64_t first, uint64_t n);

#endif /* ISW_READ_AHEAD_H */
