/* The memory of one slab: mapped afresh (so the kernel has zeroed it),
 * in huge pages where it can be, faulted in, locked.
 */

#ifndef ISW_SLAB_H
#define ISW_SLAB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct slab {
  void *memory;
  size_t bytes;
  int lock_error;               /* 0 or -errno of locking this slab */
  struct slab *next;            /* for the list it is on */
};

/* Map `bytes` (a multiple of the page size).  Takes long, but notices
 * *cancel within some 10 ms and then returns -ECANCELED.  A piece counts
 * in *resident_bytes from before it becomes resident until the kernel has
 * it back, by slab_unmap or when this fails.  With `lock` it also tries
 * to lock the slab and says in lock_error how that went.  -ENOMEM;
 * -EAGAIN: locked memory limit.
 */
int slab_map (size_t bytes, bool lock, const atomic_bool *cancel,
              _Atomic uint64_t *resident_bytes, struct slab **ret);

/* Give the memory back to the kernel and free the slab. */
void slab_unmap (struct slab *slab, _Atomic uint64_t *resident_bytes);

#endif /* ISW_SLAB_H */
