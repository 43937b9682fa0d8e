#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "donor/slab.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  /* Linux 5.14 */
#endif

enum {
  HUGE_PAGE_BYTES = 2 << 20,
  CHUNK_BYTES = 16 << 20,       /* some 5 ms of faulting in */
};

/* Reserve address space, aligned for huge pages if it is large enough
 * to have any.  PROT_NONE keeps mlockall's MCL_FUTURE from faulting it
 * in with small pages before it is known what it is for.
 */
static int
reserve (size_t bytes, char **ret)
{
  const size_t align = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 0;
  size_t head, tail;
  char *memory;

  memory = mmap (NULL, bytes + align, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return -errno;
  if (align) {
    head = -(uintptr_t) memory & (align - 1);
    tail = align - head;
    if (head > 0)
      munmap (memory, head);
    munmap (memory + head + bytes, tail);
    memory += head;
  }
  *ret = memory;
  return 0;
}

static void
touch (volatile char *memory, size_t bytes)
{
  const size_t page = sysconf (_SC_PAGESIZE);
  size_t i;

  for (i = 0; i < bytes; i += page)
    memory[i] = 0;
}

static int
fault_in (char *memory, size_t bytes)
{
  int r;

  if (mprotect (memory, bytes, PROT_READ | PROT_WRITE) == -1)
    return -errno;
  do
    r = madvise (memory, bytes, MADV_POPULATE_WRITE);
  while (r == -1 && (errno == EAGAIN || errno == EINTR));
  if (r == -1 && errno != EINVAL)
    return -errno;
  if (r == -1)
    touch (memory, bytes);
  return 0;
}

static size_t
chunk_at (size_t done, size_t bytes)
{
  return bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES;
}

/* In steps, each counted until it is gone, so that what the donor holds
 * is never far from what the node misses.  `counted` bytes are, from the
 * start.
 */
static void
unmap (char *memory, size_t bytes, size_t counted,
       _Atomic uint64_t *resident_bytes)
{
  size_t done, chunk;

  for (done = 0; done < counted; done += chunk) {
    chunk = chunk_at (done, counted);
    munmap (memory + done, chunk);
    atomic_fetch_sub (resident_bytes, chunk);
  }
  if (counted < bytes)
    munmap (memory + counted, bytes - counted);
}

/* All of it, in steps short enough to stop in between.  Unmaps it when
 * that fails.
 */
static int
fault_in_all (char *memory, size_t bytes, const atomic_bool *cancel,
              _Atomic uint64_t *resident_bytes)
{
  size_t done, chunk;
  int r = 0;

  for (done = 0; r == 0 && done < bytes; done += chunk) {
    chunk = atomic_load (cancel) ? 0 : chunk_at (done, bytes);
    atomic_fetch_add (resident_bytes, chunk);
    r = chunk == 0 ? -ECANCELED : fault_in (memory + done, chunk);
  }
  if (r < 0)
    unmap (memory, bytes, done, resident_bytes);
  return r;
}

int
slab_map (size_t bytes, bool lock, const atomic_bool *cancel,
          _Atomic uint64_t *resident_bytes, struct slab **ret)
{
  struct slab *slab = calloc (1, sizeof *slab);
  char *memory = NULL;
  int r;

  if (slab == NULL)
    return -ENOMEM;
  r = reserve (bytes, &memory);
  if (r < 0)
    goto err;

  /* All three are best effort: a kernel without huge pages lends small
   * ones, and what a borrower keeps here has no place in a core dump.
   */
  madvise (memory, bytes, MADV_HUGEPAGE);
  madvise (memory, bytes, MADV_DONTDUMP);
  madvise (memory, bytes, MADV_DONTFORK);

  r = fault_in_all (memory, bytes, cancel, resident_bytes);
  if (r < 0)
    goto err;
  if (lock && mlock (memory, bytes) == -1)
    slab->lock_error = -errno;
  slab->memory = memory;
  slab->bytes = bytes;
  *ret = slab;
  return 0;

 err:
  free (slab);
  return r;
}

void
slab_unmap (struct slab *slab, _Atomic uint64_t *resident_bytes)
{
  unmap (slab->memory, slab->bytes, slab->bytes, resident_bytes);
  free (slab);
}
