#include "nbdkit-plugin/monotonic_cond.h"

#include <errno.h>
#include <time.h>

enum { NS_PER_S = 1000000000 };

void
monotonic_cond_init (pthread_cond_t *cond)
{
  pthread_condattr_t attr;

  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (cond, &attr);
  pthread_condattr_destroy (&attr);
}

bool
monotonic_cond_wait (pthread_cond_t *cond, pthread_mutex_t *lock,
                     int64_t until_ns)
{
  const struct timespec until = {
    .tv_sec = until_ns / NS_PER_S, .tv_nsec = until_ns % NS_PER_S,
  };

  return pthread_cond_timedwait (cond, lock, &until) != ETIMEDOUT;
}
