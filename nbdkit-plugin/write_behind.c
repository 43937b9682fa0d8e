#include "nbdkit-plugin/write_behind.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fabric/fabric.h"
#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/disk_queue.h"
#include "nbdkit-plugin/helper_thread.h"
#include "nbdkit-plugin/lane_pool.h"
#include "nbdkit-plugin/slot_pool.h"

enum {
  DEPTH_MIN = 4, DEPTH_MAX = 64, /* writes in flight */
  RUN_MAX = SPAN_PAGES_MAX,     /* pages in one write */
  TRIES = 3,
  BAD_PAGES_MAX = 8,            /* in a row: then it is the disk as a whole */
  STACK_BYTES = 64 << 10,       /* locked memory, so small */
};

/* A read of the local copy waits for the writes that the disk has already:
 * where they take longer than this, there are few.
 */
enum { SLOW_NS = 10000000 };

/* How long those that have ended together are tried again: a disk that
 * takes long to fail must not hold up all others once for each.
 */
enum { RETRY_NS = 1000000000 };

/* How long new work may stay unseen while someone waits for a write. */
enum { LOOK_NS = 1000000 };

/* A run of slots of adjacent pages that is being written. */
struct run {
  struct disk_write write;
  struct iovec iov[RUN_MAX];
  uint32_t slots[RUN_MAX], n;
  uint64_t first;               /* page */
  int64_t begin_ns;
  struct run *next;             /* among the free, or those just begun */
};

struct write_behind {
  struct write_behind_params params;
  pthread_t thread;
  bool started;
  _Atomic uint64_t errors;
  atomic_int last_error;

  struct disk_queue *queue;     /* the thread's, like all below */
  struct run *runs, *free;
  unsigned in_flight, depth;
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
write_again (struct write_behind *w, const uint32_t *slots, uint32_t n,
             uint64_t first)
{
  struct iovec iov[RUN_MAX];

  return backing_write (w->params.backing, iov,
                        gather (w->params.pool, slots, n, iov),
                        first * PAGE_SIZE_BYTES);
}

static void
note_written (struct write_behind *w, const struct run *run, uint32_t i,
              uint32_t n, int error)
{
  if (error < 0) {
    atomic_fetch_add (&w->errors, 1);
    atomic_store (&w->last_error, error);
    w->params.settle (w->params.data, run->first + i, n);
  }
  slot_pool_written (w->params.pool, run->slots + i, n, error);
}

/* The run has failed with this error: one bad page must not keep its
 * neighbours off the local copy.
 */
static void
write_pages (struct write_behind *w, const struct run *run, int error,
             int64_t until_ns)
{
  uint32_t i, bad = 0;

  for (i = 0; i < run->n && bad < BAD_PAGES_MAX &&
         fabric_now_ns () < until_ns; i++) {
    int r = write_again (w, run->slots + i, 1, run->first + i);

    bad = r < 0 ? bad + 1 : 0;
    note_written (w, run, i, 1, r);
  }
  if (i < run->n)
    note_written (w, run, i, run->n - i, error);
}

/* Errors are rare, so their writes need not be in flight together. */
static void
end_run (struct write_behind *w, struct run *run, int64_t until_ns)
{
  int r = run->write.result;

  for (int try = 1; try < TRIES && r < 0 && fabric_now_ns () < until_ns;
       try++)
    r = write_again (w, run->slots, run->n, run->first);
  if (r < 0 && run->n > 1)
    write_pages (w, run, r, until_ns);
  else
    note_written (w, run, 0, run->n, r);
}

static void
adapt_depth (struct write_behind *w, int64_t took_ns)
{
  if (took_ns > SLOW_NS)
    w->depth = DEPTH_MIN;
  else if (w->depth < DEPTH_MAX)
    w->depth++;
}

/* Those that have ended; if none has, wait for one. */
static void
end_runs (struct write_behind *w, int64_t wait_ns)
{
  struct disk_write *write = disk_queue_reap (w->queue, wait_ns);
  const int64_t now_ns = fabric_now_ns ();

  for (; write; write = disk_queue_reap (w->queue, 0)) {
    struct run *run = (struct run *) write;

    adapt_depth (w, now_ns - run->begin_ns);
    end_run (w, run, now_ns + RETRY_NS);
    run->next = w->free;
    w->free = run;
    w->in_flight--;
  }
}

static uint32_t
next_run (struct write_behind *w, struct run *run)
{
  return (w->in_flight == 0 ? slot_pool_next : slot_pool_next_now)
    (w->params.pool, RUN_MAX, run->slots, &run->first);
}

static void
submit (struct write_behind *w, struct run *begun)
{
  const int64_t now_ns = fabric_now_ns ();

  for (; begun; begun = begun->next)
    begun->begin_ns = now_ns;
  disk_queue_submit (w->queue);
}

/* Begin what is due, up to the depth; with nothing in flight, wait for it.
 * False if there was nothing.
 */
static bool
begin_runs (struct write_behind *w)
{
  struct run *begun = NULL, *run;

  while (w->in_flight < w->depth) {
    run = w->free;
    run->n = next_run (w, run);
    if (run->n == 0)
      break;
    w->params.send (w->params.data, run->first, run->slots, run->n);
    disk_queue_add (w->queue, &run->write, run->iov,
                    gather (w->params.pool, run->slots, run->n, run->iov),
                    run->first * PAGE_SIZE_BYTES);
    w->free = run->next;
    run->next = begun;
    begun = run;
    w->in_flight++;
  }
  if (!begun)
    return false;
  submit (w, begun);
  return true;
}

/* How long the disk may be waited for. */
static int64_t
patience_ns (const struct write_behind *w, bool rested)
{
  return rested ? 0 : w->in_flight >= w->depth ? DISK_QUEUE_EVER : LOOK_NS;
}

/* While anything is in flight and no more work is there, the thread looks for
 * both now and then, or sooner if anyone waits for a write.
 */
static void *
run_writer (void *data)
{
  struct write_behind *w = data;

  while (begin_runs (w) || w->in_flight > 0) {
    bool full = w->in_flight >= w->depth;
    bool rested = !full && slot_pool_rest (w->params.pool);

    end_runs (w, patience_ns (w, rested));
  }
  return NULL;
}

static int
allocate (struct write_behind *w)
{
  w->queue = disk_queue_new (backing_fd (w->params.backing), DEPTH_MAX);
  w->runs = calloc (DEPTH_MAX, sizeof *w->runs);
  if (!w->queue || !w->runs)
    return -ENOMEM;
  w->depth = DEPTH_MIN;
  for (unsigned i = 0; i < DEPTH_MAX; i++) {
    w->runs[i].next = w->free;
    w->free = &w->runs[i];
  }
  return 0;
}

struct write_behind *
write_behind_start (const struct write_behind_params *params)
{
  struct write_behind *w = calloc (1, sizeof *w);
  int r;

  if (!w)
    return NULL;
  w->params = *params;
  r = allocate (w);
  if (r == 0)
    r = helper_thread_start (&w->thread, STACK_BYTES, run_writer, w);
  if (r == 0) {
    w->started = true;
    return w;
  }
  write_behind_free (w);
  errno = -r;
  return NULL;
}

void
write_behind_stop (struct write_behind *w)
{
  slot_pool_stop (w->params.pool);
  if (w->started)
    pthread_join (w->thread, NULL);
  w->started = false;
}

void
write_behind_free (struct write_behind *w)
{
  if (!w)
    return;
  write_behind_stop (w);
  disk_queue_free (w->queue);
  free (w->runs);
  free (w);
}

uint64_t
write_behind_errors (const struct write_behind *w)
{
  return atomic_load (&w->errors);
}

int
write_behind_last_error (const struct write_behind *w)
{
  return atomic_load (&w->last_error);
}
