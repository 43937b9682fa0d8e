#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "donor/slab_pool.h"
#include "fabric/fabric.h"

enum {
  THREAD_STACK_BYTES = 256 << 10,
  RETRY_DOUBLINGS_MAX = 5,
  AHEAD_NICE = 10,              /* nicer than the process by so much */
};

static const int64_t second_ns = 1000000000;

struct slab_pool {
  uint64_t slab_bytes;          /* constant */
  uint64_t ready_wanted;
  enum memory_lock_mode lock;
  int event_fd;
  int own_nice;                 /* of the process */
  pthread_t thread;

  _Atomic uint64_t resident_bytes;
  atomic_bool cancel;           /* of preparing; set under the mutex */

  pthread_mutex_t mutex;        /* guards all below; never held long */
  pthread_cond_t work;          /* the thread may have something to do */
  bool stop;
  pid_t tid;                    /* the thread's, once it runs */
  bool is_nice;                 /* the thread is, or was to be */
  struct slab *ready, *dirty;
  uint64_t nr_ready;
  uint64_t nr_reserved, nr_lent;
  uint64_t nr_dirty;            /* one being unmapped included */
  uint64_t nr_preparing;        /* 0 or 1 */
  uint64_t hold_slabs, prepare_slabs; /* the limits */
  uint64_t demand;
  int error, lock_error;
  unsigned failures;            /* in a row */
  int64_t retry_ns;             /* while error: when it is lifted */
};

static void
push (struct slab **list, struct slab *slab)
{
  slab->next = *list;
  *list = slab;
}

static struct slab *
pop (struct slab **list)
{
  struct slab *slab = *list;

  if (slab)
    *list = slab->next;
  return slab;
}

static void
notify (struct slab_pool *pool)
{
  /* Fails only where the counter is full: readable already. */
  if (eventfd_write (pool->event_fd, 1) == -1)
    return;
}

/* Called with the mutex held. */
static bool
wants_to_prepare (const struct slab_pool *pool)
{
  const uint64_t prepared = pool->nr_ready + pool->nr_reserved;
  const uint64_t slabs = prepared + pool->nr_lent + pool->nr_dirty;

  return !pool->error
    && prepared < pool->ready_wanted + pool->demand
    && slabs < pool->prepare_slabs && slabs < pool->hold_slabs;
}

/* Let go of what may not be held any more, as far as nobody has it: what
 * is being prepared, then ready slabs.  Called with the mutex held.
 */
static void
keep_within_limit (struct slab_pool *pool)
{
  uint64_t slabs = pool->nr_ready + pool->nr_reserved + pool->nr_lent;

  if (slabs + pool->nr_preparing > pool->hold_slabs)
    atomic_store (&pool->cancel, true);
  for (; pool->nr_ready > 0 && slabs > pool->hold_slabs; slabs--) {
    push (&pool->dirty, pop (&pool->ready));
    pool->nr_ready--;
    pool->nr_dirty++;
  }
}

/* Preparing ahead must not starve the node.  Whoever waits for a slab,
 * and memory that is on its way back, get the process's own priority;
 * where raising it again is not permitted (it takes CAP_SYS_NICE or
 * RLIMIT_NICE), the thread stays nice.  Called with the mutex held.
 */
static void
set_priority (struct slab_pool *pool)
{
  const bool nice = pool->demand == 0 && pool->nr_dirty == 0
    && !atomic_load (&pool->cancel);

  if (pool->tid == 0 || nice == pool->is_nice)
    return;
  pool->is_nice = nice;
  setpriority (PRIO_PROCESS, pool->tid,
               pool->own_nice + (nice ? AHEAD_NICE : 0));
}

/* The thread may have something else to do now.  Called with the mutex
 * held.
 */
static void
wake_thread (struct slab_pool *pool)
{
  set_priority (pool);
  pthread_cond_signal (&pool->work);
}

/* Called with the mutex held, which it lets go of meanwhile. */
static void
release_one (struct slab_pool *pool)
{
  struct slab *slab = pop (&pool->dirty);

  pthread_mutex_unlock (&pool->mutex);
  slab_unmap (slab, &pool->resident_bytes);
  pthread_mutex_lock (&pool->mutex);
  pool->nr_dirty--;
}

/* Called with the mutex held. */
static void
set_error (struct slab_pool *pool, int error)
{
  unsigned doublings = pool->failures++;

  if (doublings > RETRY_DOUBLINGS_MAX)
    doublings = RETRY_DOUBLINGS_MAX;
  pool->error = error;
  pool->retry_ns = fabric_now_ns () + (second_ns << doublings);
}

/* Called with the mutex held, which it lets go of meanwhile. */
static void
prepare_one (struct slab_pool *pool)
{
  struct slab *slab = NULL;
  int r;

  pool->nr_preparing = 1;
  atomic_store (&pool->cancel, false);
  set_priority (pool);
  pthread_mutex_unlock (&pool->mutex);
  r = slab_map (pool->slab_bytes, pool->lock != MEMORY_LOCK_NO,
                &pool->cancel, &pool->resident_bytes, &slab);
  if (r == 0 && slab->lock_error && pool->lock == MEMORY_LOCK_REQUIRE) {
    r = slab->lock_error;
    slab_unmap (slab, &pool->resident_bytes);
  }
  pthread_mutex_lock (&pool->mutex);
  pool->nr_preparing = 0;
  if (r == -ECANCELED)
    return;
  if (r < 0) {
    set_error (pool, r);
    return;
  }
  pool->failures = 0;
  pool->lock_error = slab->lock_error;
  push (&pool->ready, slab);
  pool->nr_ready++;
  keep_within_limit (pool);
}

static void *
pool_thread (void *data)
{
  struct slab_pool *pool = data;

  pthread_mutex_lock (&pool->mutex);
  pool->tid = gettid ();
  while (!pool->stop) {
    /* Memory on its way out goes first: what is prepared next may need
     * its room.
     */
    if (pool->dirty)
      release_one (pool);
    else if (wants_to_prepare (pool))
      prepare_one (pool);
    else {
      pthread_cond_wait (&pool->work, &pool->mutex);
      continue;
    }
    notify (pool);
  }
  pthread_mutex_unlock (&pool->mutex);
  return NULL;
}

static int
start_thread (struct slab_pool *pool)
{
  pthread_attr_t attr;
  int r;

  r = pthread_attr_init (&attr);
  if (r != 0)
    return -r;
  pthread_attr_setstacksize (&attr, THREAD_STACK_BYTES);
  r = pthread_create (&pool->thread, &attr, pool_thread, pool);
  pthread_attr_destroy (&attr);
  return -r;
}

int
slab_pool_new (uint64_t slab_bytes, uint64_t ready,
               enum memory_lock_mode lock, struct slab_pool **ret)
{
  struct slab_pool *pool = calloc (1, sizeof *pool);
  int r;

  if (pool == NULL)
    return -ENOMEM;
  pool->slab_bytes = slab_bytes;
  pool->own_nice = getpriority (PRIO_PROCESS, 0);
  pool->ready_wanted = ready;
  pool->lock = lock;
  pool->event_fd = eventfd (0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (pool->event_fd == -1) {
    r = -errno;
    free (pool);
    return r;
  }
  pthread_mutex_init (&pool->mutex, NULL);
  pthread_cond_init (&pool->work, NULL);
  r = start_thread (pool);
  if (r < 0) {
    pthread_cond_destroy (&pool->work);
    pthread_mutex_destroy (&pool->mutex);
    close (pool->event_fd);
    free (pool);
    return r;
  }
  *ret = pool;
  return 0;
}

void
slab_pool_free (struct slab_pool *pool)
{
  struct slab *slab;

  if (pool == NULL)
    return;
  pthread_mutex_lock (&pool->mutex);
  pool->stop = true;
  atomic_store (&pool->cancel, true);
  wake_thread (pool);
  pthread_mutex_unlock (&pool->mutex);
  pthread_join (pool->thread, NULL);

  while ((slab = pop (&pool->ready)) || (slab = pop (&pool->dirty)))
    slab_unmap (slab, &pool->resident_bytes);
  pthread_cond_destroy (&pool->work);
  pthread_mutex_destroy (&pool->mutex);
  close (pool->event_fd);
  free (pool);
}

int
slab_pool_fd (const struct slab_pool *pool)
{
  return pool->event_fd;
}

void
slab_pool_acknowledge (struct slab_pool *pool)
{
  eventfd_t count;

  /* Fails only where nothing has happened. */
  if (eventfd_read (pool->event_fd, &count) == -1)
    return;
}

void
slab_pool_set_limits (struct slab_pool *pool, uint64_t hold_bytes,
                      uint64_t prepare_bytes)
{
  pthread_mutex_lock (&pool->mutex);
  pool->hold_slabs = hold_bytes / pool->slab_bytes;
  pool->prepare_slabs = prepare_bytes / pool->slab_bytes;
  keep_within_limit (pool);
  if (pool->error && fabric_now_ns () >= pool->retry_ns)
    pool->error = 0;
  wake_thread (pool);
  pthread_mutex_unlock (&pool->mutex);
}

void
slab_pool_set_demand (struct slab_pool *pool, uint64_t slabs)
{
  pthread_mutex_lock (&pool->mutex);
  pool->demand = slabs;
  wake_thread (pool);
  pthread_mutex_unlock (&pool->mutex);
}

struct slab *
slab_pool_take (struct slab_pool *pool)
{
  struct slab *slab;

  pthread_mutex_lock (&pool->mutex);
  slab = pop (&pool->ready);
  if (slab) {
    pool->nr_ready--;
    pool->nr_lent++;
    wake_thread (pool);
  }
  pthread_mutex_unlock (&pool->mutex);
  return slab;
}

struct slab *
slab_pool_reserve (struct slab_pool *pool)
{
  struct slab *slab = NULL;

  pthread_mutex_lock (&pool->mutex);
  if (pool->nr_ready > 1) {
    slab = pop (&pool->ready);
    pool->nr_ready--;
    pool->nr_reserved++;
  }
  pthread_mutex_unlock (&pool->mutex);
  return slab;
}

/* What takes its place is prepared when the limits are set next: not
 * while somebody waits for this one.
 */
void
slab_pool_take_reserved (struct slab_pool *pool)
{
  pthread_mutex_lock (&pool->mutex);
  pool->nr_reserved--;
  pool->nr_lent++;
  pthread_mutex_unlock (&pool->mutex);
}

void
slab_pool_give_back (struct slab_pool *pool, struct slab *slab,
                     bool untouched)
{
  pthread_mutex_lock (&pool->mutex);
  pool->nr_lent--;
  if (untouched) {
    push (&pool->ready, slab);
    pool->nr_ready++;
    keep_within_limit (pool);
  }
  else {
    push (&pool->dirty, slab);
    pool->nr_dirty++;
  }
  wake_thread (pool);
  pthread_mutex_unlock (&pool->mutex);
}

void
slab_pool_get_state (struct slab_pool *pool, struct slab_pool_state *ret)
{
  pthread_mutex_lock (&pool->mutex);
  ret->ready = pool->nr_ready;
  ret->reserved = pool->nr_reserved;
  ret->lent = pool->nr_lent;
  ret->releasing = pool->nr_dirty;
  ret->resident_bytes = atomic_load (&pool->resident_bytes);
  ret->busy = pool->nr_preparing > 0 || pool->nr_dirty > 0
    || wants_to_prepare (pool);
  ret->error = pool->error;
  ret->lock_error = pool->lock_error;
  pthread_mutex_unlock (&pool->mutex);
}
