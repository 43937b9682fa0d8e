#include "nbdkit-plugin/helper_thread.h"

#include <signal.h>

int
helper_thread_start (pthread_t *thread, size_t stack_bytes,
                     void *(*run) (void *data), void *data)
{
  pthread_attr_t attr;
  sigset_t all, old;
  int r;

  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  pthread_attr_init (&attr);
  if (stack_bytes > 0)
    pthread_attr_setstacksize (&attr, stack_bytes);
  r = pthread_create (thread, &attr, run, data);
  pthread_attr_destroy (&attr);
  pthread_sigmask (SIG_SETMASK, &old, NULL);
  return -r;
}
