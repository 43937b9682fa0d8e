/* Linked into a program, or preloaded. */

#include "fake_aio.h"

#include <errno.h>
#include <libaio.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Stacks may be locked memory, so small. */
enum { THREADS = 4, EVENTS_MAX = 256, STACK_BYTES = 64 << 10 };

/* Positions in a ring, which only grow. */
struct ring {
  unsigned in, out;
};

struct io_context {
  pthread_t threads[THREADS];
  pthread_mutex_t lock;         /* guards all below */
  pthread_cond_t submitted, ended;
  struct iocb *iocbs[EVENTS_MAX];
  struct io_event events[EVENTS_MAX];
  struct ring iocb, event;
  bool stop;
};

static enum fake_aio mode;

static long
kernel (long r)
{
  return r == -1 ? -errno : r;
}

#define EXPORT __attribute__ ((visibility ("default")))

void
fake_aio_be (enum fake_aio what)
{
  mode = what;
}

static struct io_event
carry_out (struct iocb *iocb)
{
  ssize_t r = pwritev (iocb->aio_fildes, iocb->u.c.buf, iocb->u.c.nbytes,
                       iocb->u.c.offset);

  return (struct io_event) {
    .data = iocb->data, .obj = iocb, .res = r == -1 ? -errno : r,
  };
}

static void *
run (void *data)
{
  struct io_context *c = data;

  pthread_mutex_lock (&c->lock);
  while (!c->stop || c->iocb.in != c->iocb.out) {
    if (c->iocb.in == c->iocb.out) {
      pthread_cond_wait (&c->submitted, &c->lock);
      continue;
    }
    struct iocb *iocb = c->iocbs[c->iocb.out++ % EVENTS_MAX];
    pthread_mutex_unlock (&c->lock);
    struct io_event event = carry_out (iocb);
    pthread_mutex_lock (&c->lock);
    c->events[c->event.in++ % EVENTS_MAX] = event;
    pthread_cond_signal (&c->ended);
  }
  pthread_mutex_unlock (&c->lock);
  return NULL;
}

static void
start_threads (struct io_context *c)
{
  pthread_attr_t attr;
  sigset_t all, old;

  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  pthread_attr_init (&attr);
  pthread_attr_setstacksize (&attr, STACK_BYTES);
  for (int i = 0; i < THREADS; i++)
    if (pthread_create (&c->threads[i], &attr, run, c) != 0)
      abort ();
  pthread_attr_destroy (&attr);
  pthread_sigmask (SIG_SETMASK, &old, NULL);
}

EXPORT int
io_setup (int events_max, io_context_t *ret)
{
  struct io_context *c;

  if (mode == FAKE_AIO_REAL)
    return kernel (syscall (SYS_io_setup, events_max, ret));
  if (mode == FAKE_AIO_REFUSED)
    return -EAGAIN;
  if (events_max > EVENTS_MAX)
    return -EINVAL;
  c = calloc (1, sizeof *c);
  if (!c)
    return -ENOMEM;
  pthread_mutex_init (&c->lock, NULL);
  pthread_cond_init (&c->submitted, NULL);
  pthread_cond_init (&c->ended, NULL);
  start_threads (c);
  *ret = c;
  return 0;
}

EXPORT int
io_destroy (io_context_t c)
{
  if (mode == FAKE_AIO_REAL)
    return kernel (syscall (SYS_io_destroy, c));
  pthread_mutex_lock (&c->lock);
  c->stop = true;
  pthread_cond_broadcast (&c->submitted);
  pthread_mutex_unlock (&c->lock);
  for (int i = 0; i < THREADS; i++)
    pthread_join (c->threads[i], NULL);
  free (c);
  return 0;
}

EXPORT int
io_submit (io_context_t c, long n, struct iocb **iocbs)
{
  if (mode == FAKE_AIO_REAL)
    return kernel (syscall (SYS_io_submit, c, n, iocbs));
  pthread_mutex_lock (&c->lock);
  for (long i = 0; i < n; i++)
    c->iocbs[c->iocb.in++ % EVENTS_MAX] = iocbs[i];
  pthread_cond_broadcast (&c->submitted);
  pthread_mutex_unlock (&c->lock);
  return n;
}

/* Wait for so many; under the lock. */
static void
wait_ended (struct io_context *c, long n, const struct timespec *timeout)
{
  struct timespec until = { 0 };
  int r = 0;

  if (timeout) {
    clock_gettime (CLOCK_REALTIME, &until);
    until.tv_sec += timeout->tv_sec;
    until.tv_nsec += timeout->tv_nsec;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
  }
  while (r == 0 && (long) (c->event.in - c->event.out) < n)
    r = timeout ? pthread_cond_timedwait (&c->ended, &c->lock, &until)
      : pthread_cond_wait (&c->ended, &c->lock);
}

EXPORT int
io_getevents (io_context_t c, long min, long max, struct io_event *events,
              struct timespec *timeout)
{
  int n = 0;

  if (mode == FAKE_AIO_REAL)
    return kernel (syscall (SYS_io_getevents, c, min, max, events, timeout));
  pthread_mutex_lock (&c->lock);
  wait_ended (c, min, timeout);
  while (n < max && c->event.in != c->event.out)
    events[n++] = c->events[c->event.out++ % EVENTS_MAX];
  pthread_mutex_unlock (&c->lock);
  return n;
}
