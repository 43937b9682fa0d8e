/* Threads of tests, which fail the test where there are none to be had. */

#ifndef TEST_THREAD_H
#define TEST_THREAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

struct thread {
  pthread_t thread;
  void (*run) (void *data);
  void *data;
  _Atomic pid_t tid;            /* 0 until it runs */
  atomic_bool finished;
};

void thread_start (struct thread *t, void (*run) (void *), void *data);
void thread_join (struct thread *t);

/* Return once the thread sleeps in the kernel, or has finished.  Tells
 * what it sleeps on only where it can be but one thing.
 */
void thread_wait_asleep (struct thread *t);

#endif /* TEST_THREAD_H */
