#include "nbdkit-plugin/write_behind.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/slot_pool.h"

enum {
  THREADS = 4,                  /* writes in flight: a disk needs a few */
  RUN_MAX = 64,                 /* pages in one write */
  TRIES = 3,
  BAD_PAGES_MAX = 8,            /* in a row: then it is the disk as a whole */
  STACK_BYTES = 64 << 10,       /* locked memory, so small */
};

struct write_behind {
  struct slot_pool *pool;
  struct backing *backing;
  unsigned threads;
  pthread_t thread[THREADS];
  _Atomic uint64_t errors;
};

/* Slots are often adjacent in memory: then one element serves several. */
static int
gather (struct slot_pool *pool, const uint32_t *slots, uint32_t n,
        struct iovec *iov)
{
  int used = 0;

  for (uint32_t i = 0; i < n; i++) {
    if (i > 0 && slots[i] == slots[i - 1] + 1)
      iov[used - 1].iov_len += PAGE_SIZE_BYTES;
    else
      iov[used++] = (struct iovec) {
        .iov_base = slot_pool_buffer (pool, slots[i]),
        .iov_len = PAGE_SIZE_BYTES,
      };
  }
  return used;
}

static int
write_run (struct write_behind *w, const uint32_t *slots, uint32_t n,
           uint64_t first)
{
  struct iovec iov[RUN_MAX];

  return backing_write (w->backing, iov, gather (w->pool, slots, n, iov),
                        first * PAGE_SIZE_BYTES);
}

static void
note_written (struct write_behind *w, const uint32_t *slots, uint32_t n,
              int error)
{
  if (error < 0)
    atomic_fetch_add (&w->errors, 1);
  slot_pool_written (w->pool, slots, n, error);
}

/* The run has failed with this error: one bad page must not keep its
 * neighbours off the local copy.
 */
static void
write_pages (struct write_behind *w, const uint32_t *slots, uint32_t n,
             uint64_t first, int error)
{
  uint32_t i, bad = 0;

  for (i = 0; i < n && bad < BAD_PAGES_MAX; i++) {
    int r = write_run (w, slots + i, 1, first + i);

    bad = r < 0 ? bad + 1 : 0;
    note_written (w, slots + i, 1, r);
  }
  if (i < n)
    note_written (w, slots + i, n - i, error);
}

static void *
run_writer (void *data)
{
  struct write_behind *w = data;
  uint32_t slots[RUN_MAX], n;
  uint64_t first;

  while ((n = slot_pool_next (w->pool, RUN_MAX, slots, &first)) > 0) {
    int r = -EIO;

    for (int try = 0; try < TRIES && r < 0; try++)
      r = write_run (w, slots, n, first);
    if (r < 0 && n > 1)
      write_pages (w, slots, n, first, r);
    else
      note_written (w, slots, n, r);
  }
  return NULL;
}

static int
start_thread (struct write_behind *w)
{
  pthread_attr_t attr;
  sigset_t all, old;
  int r;

  /* Signals are nbdkit's main thread's. */
  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  pthread_attr_init (&attr);
  pthread_attr_setstacksize (&attr, STACK_BYTES);
  r = pthread_create (&w->thread[w->threads], &attr, run_writer, w);
  pthread_attr_destroy (&attr);
  pthread_sigmask (SIG_SETMASK, &old, NULL);
  return r;
}

struct write_behind *
write_behind_start (struct slot_pool *pool, struct backing *backing)
{
  struct write_behind *w = calloc (1, sizeof *w);

  if (!w)
    return NULL;
  w->pool = pool;
  w->backing = backing;
  for (; w->threads < THREADS; w->threads++) {
    int r = start_thread (w);
    if (r != 0) {
      write_behind_free (w);
      errno = r;
      return NULL;
    }
  }
  return w;
}

void
write_behind_stop (struct write_behind *w)
{
  slot_pool_stop (w->pool);
  while (w->threads > 0)
    pthread_join (w->thread[--w->threads], NULL);
}

void
write_behind_free (struct write_behind *w)
{
  if (!w)
    return;
  write_behind_stop (w);
  free (w);
}

uint64_t
write_behind_errors (const struct write_behind *w)
{
  return atomic_load (&w->errors);
}
