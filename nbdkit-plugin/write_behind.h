/* The thread that carries slots to the local copy, and has them sent to
 * donors.
 */

#ifndef ISW_WRITE_BEHIND_H
#define ISW_WRITE_BEHIND_H

#include <stdbool.h>
#include <stdint.h>

struct backing;
struct slot_pool;
struct write_behind;

struct write_behind_params {
  struct slot_pool *pool;
  struct backing *backing;
  /* Called from the thread.  A run of slots is about to be written: have it
   * sent to its donor as well (slot_pool_send), if it has one.  May wait for
   * that until_ns at the latest, and then leave it to the local copy; with
   * until_ns 0 it returns false instead.
   */
  bool (*send) (void *data, uint64_t first, const uint32_t *slots,
                uint32_t n, int64_t until_ns);
  void *data;
};

/* Start the thread.  NULL with errno set if it cannot be had. */
struct write_behind *
write_behind_start (const struct write_behind_params *params);
/* Write what is left, stop the pool, join the thread. */
void write_behind_stop (struct write_behind *w);
/* Stop if need be, and free.  NULL is allowed. */
void write_behind_free (struct write_behind *w);

/* Writes that failed for good so far, and why the last of them did: -errno,
 * or 0.
 */
uint64_t write_behind_errors (const struct write_behind *w);
int write_behind_last_error (const struct write_behind *w);

#endif /* ISW_WRITE_BEHIND_H */
