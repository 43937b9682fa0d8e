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

/* How long a run that failed is tried again: a disk that takes long to fail
 * must not keep those who wait for it once for each page.
 */
enum { RETRY_NS = 1000000000 };

/* How long a batch of runs may wait for room with their donors: 64 of 128 KiB
 * go to one in that time at 16 MiB/s.
 */
enum { PATIENCE_NS = 500000000 };

/* How long new work may stay unseen while someone waits for a write. */
enum { LOOK_NS = 1000000 };

/* A run of slots of adjacent pages that is being written. */
struct run {
  struct disk_write write;
  struct iovec iov[RUN_MAX];
  uint32_t slots[RUN_MAX], n;
  uint64_t first;               /* page */
  int64_t begin_ns;
  unsigned tries;
  int error;                    /* with which it failed: it is tried */
  int64_t until_ns;             /* until then, */
  uint32_t page;                /* at last page by page: this one now, */
  uint32_t bad;                 /* after so many bad ones in a row */
  struct run *next;             /* among the free, or those not sent yet */
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
  int64_t held_up_ns;           /* by donors, in all */
};

/* The time without that: a write that ended meanwhile was not seen. */
static int64_t
disk_now_ns (const struct write_behind *w)
{
  return fabric_now_ns () - w->held_up_ns;
}

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

/* Write n pages of the run, from the i-th on. */
static void
add (struct write_behind *w, struct run *run, uint32_t i, uint32_t n)
{
  disk_queue_add (w->queue, &run->write, run->iov,
                  gather (w->params.pool, run->slots + i, n, run->iov),
                  (run->first + i) * PAGE_SIZE_BYTES);
}

static void
note_written (struct write_behind *w, const struct run *run, uint32_t i,
              uint32_t n, int error)
{
  if (error < 0) {
    atomic_store (&w->last_error, error);
    atomic_fetch_add (&w->errors, 1);
  }
  slot_pool_written (w->params.pool, run->slots + i, n, error);
}

/* The run failed.  False if it is not tried any more. */
static bool
try_again (struct write_behind *w, struct run *run, int error, int64_t now_ns)
{
  run->error = error;
  if (run->tries == 1)
    run->until_ns = now_ns + RETRY_NS;
  if (now_ns >= run->until_ns || (run->tries == TRIES && run->n == 1)) {
    note_written (w, run, 0, run->n, error);
    return false;
  }
  run->tries++;
  add (w, run, 0, run->tries <= TRIES ? run->n : 1);
  return true;
}

/* One bad page must not keep its neighbours off the local copy: they are tried
 * alone.  False after the last.
 */
static bool
try_next_page (struct write_behind *w, struct run *run, int error,
               int64_t now_ns)
{
  uint32_t left;

  note_written (w, run, run->page++, 1, error);
  run->bad = error < 0 ? run->bad + 1 : 0;
  left = run->n - run->page;
  if (left > 0 && run->bad < BAD_PAGES_MAX && now_ns < run->until_ns) {
    add (w, run, run->page, 1);
    return true;
  }
  if (left > 0)
    note_written (w, run, run->page, left, error < 0 ? error : run->error);
  return false;
}

/* What was in flight of the run has ended.  False if no more of it is. */
static bool
go_on (struct write_behind *w, struct run *run, int64_t now_ns)
{
  const int r = run->write.result;

  run->begin_ns = now_ns;
  if (run->tries > TRIES)
    return try_next_page (w, run, r, now_ns);
  if (r < 0)
    return try_again (w, run, r, now_ns);
  note_written (w, run, 0, run->n, 0);
  return false;
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
  const int64_t now_ns = disk_now_ns (w);
  bool added = false;

  for (; write; write = disk_queue_reap (w->queue, 0)) {
    struct run *run = (struct run *) write;

    adapt_depth (w, now_ns - run->begin_ns);
    if (go_on (w, run, now_ns))
      added = true;
    else {
      run->next = w->free;
      w->free = run;
      w->in_flight--;
    }
  }
  if (added)
    disk_queue_submit (w->queue);
}

static uint32_t
next_run (struct write_behind *w, struct run *run)
{
  return (w->in_flight == 0 ? slot_pool_next : slot_pool_next_now)
    (w->params.pool, RUN_MAX, run->slots, &run->first);
}

static struct run *
next_begun (struct write_behind *w)
{
  struct run *run = w->free;

  run->n = next_run (w, run);
  if (run->n == 0)
    return NULL;
  w->free = run->next;
  w->in_flight++;
  run->tries = 1;
  run->page = run->bad = 0;
  run->begin_ns = disk_now_ns (w);
  add (w, run, 0, run->n);
  return run;
}

static bool
send_run (struct write_behind *w, const struct run *run, int64_t until_ns)
{
  return w->params.send (w->params.data, run->first, run->slots, run->n,
                         until_ns);
}

/* Runs whose donors have had no room.  The disk has its part meanwhile, but
 * what it has done waits to be seen.
 */
static void
send_patiently (struct write_behind *w, const struct run *unsent)
{
  const int64_t begin_ns = fabric_now_ns ();

  for (; unsent; unsent = unsent->next)
    send_run (w, unsent, begin_ns + PATIENCE_NS);
  w->held_up_ns += fabric_now_ns () - begin_ns;
}

/* Begin what is due, up to the depth; with nothing in flight, wait for it.
 * False if there was nothing.
 */
static bool
begin_runs (struct write_behind *w)
{
  struct run *run, *unsent = NULL, **last = &unsent;
  unsigned n = 0;

  for (; w->in_flight < w->depth && (run = next_begun (w)); n++)
    if (!send_run (w, run, 0)) {
      *last = run;
      last = &run->next;
    }
  if (n == 0)
    return false;
  disk_queue_submit (w->queue);
  *last = NULL;
  if (unsent)
    send_patiently (w, unsent);
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
