/* The slabs this donor holds: prepared ahead by a thread of its own,
 * taken to be lent, given back and mapped afresh before anyone gets
 * them again.
 *
 * All functions are for one thread (the main loop); none of them waits
 * for memory to be prepared or released except slab_pool_free.
 */

#ifndef ISW_SLAB_POOL_H
#define ISW_SLAB_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "conf/memory_lock.h"
#include "donor/slab.h"

struct slab_pool;

struct slab_pool_state {
  uint64_t ready;               /* slabs prepared and not lent */
  uint64_t reserved;            /* prepared as well, but kept for somebody */
  uint64_t lent;                /* slabs taken */
  uint64_t releasing;           /* on their way back, not unmapped yet */
  uint64_t resident_bytes;      /* memory held now */
  bool busy;                    /* the thread has something to do */
  int error;                    /* 0 or -errno why no more is prepared now */
  int lock_error;               /* 0 or -errno of the last slab's mlock */
};

/* Starts the thread, which prepares nothing until there is a limit.
 * Under MEMORY_LOCK_REQUIRE a slab that cannot be locked is an error
 * and not lent.
 */
int slab_pool_new (uint64_t slab_bytes, uint64_t ready,
                   enum memory_lock_mode lock, struct slab_pool **ret);

/* Every slab taken must have been given back. */
void slab_pool_free (struct slab_pool *pool);

/* An event descriptor: readable when the state has changed since
 * slab_pool_acknowledge.
 */
int slab_pool_fd (const struct slab_pool *pool);
void slab_pool_acknowledge (struct slab_pool *pool);

/* When what the pool holds is above hold_bytes, it lets go at once of
 * what nobody has: preparing stops within some 10 ms, also in the middle
 * of a slab, and ready slabs are not ready any more but on their way
 * back.  Reserved and lent ones stay.  No slab is prepared that would take
 * what the pool holds (whatever state it is in) above prepare_bytes or
 * hold_bytes.
 * Call it at least once a second: it also lets preparation that failed
 * be tried again (after 1 s, 2 s, ... 32 s).
 */
void slab_pool_set_limits (struct slab_pool *pool, uint64_t hold_bytes,
                           uint64_t prepare_bytes);

/* Prepare this many slabs beyond those kept ready (some of them reserved):
 * somebody waits.
 */
void slab_pool_set_demand (struct slab_pool *pool, uint64_t slabs);

/* A ready slab, or NULL. */
struct slab *slab_pool_take (struct slab_pool *pool);

/* A ready slab that is kept for somebody but not lent yet: only where
 * another one stays ready, else NULL.
 */
struct slab *slab_pool_reserve (struct slab_pool *pool);
/* A reserved slab counts as taken from now on. */
void slab_pool_take_reserved (struct slab_pool *pool);

/* Give a slab that was taken back.  The memory is unmapped by the thread,
 * so that nobody sees what was in it; `untouched` says that nobody but
 * this process could reach it since slab_pool_take, and makes it ready
 * again.
 */
void slab_pool_give_back (struct slab_pool *pool, struct slab *slab,
                          bool untouched);

void slab_pool_get_state (struct slab_pool *pool,
                          struct slab_pool_state *ret);

#endif /* ISW_SLAB_POOL_H */
