/* The threads that carry slots to the local copy. */

#ifndef ISW_WRITE_BEHIND_H
#define ISW_WRITE_BEHIND_H

#include <stdint.h>

struct backing;
struct slot_pool;
struct write_behind;

/* Start the writers.  settle is called, from any of them, for pages that
 * could not be written, and returns once it is decided whether they have
 * another copy.  NULL with errno set if a thread cannot be had.
 */
struct write_behind *
write_behind_start (struct slot_pool *pool, struct backing *backing,
                    void (*settle) (void *data, uint64_t first, uint32_t n),
                    void *data);
/* Write what is left, stop the pool, join the threads. */
void write_behind_stop (struct write_behind *w);
/* Stop if need be, and free.  NULL is allowed. */
void write_behind_free (struct write_behind *w);

/* Writes that failed for good so far. */
uint64_t write_behind_errors (const struct write_behind *w);

#endif /* ISW_WRITE_BEHIND_H */
