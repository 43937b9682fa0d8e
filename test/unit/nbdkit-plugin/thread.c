#include "thread.h"

#include <check.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void *
run (void *data)
{
  struct thread *t = data;

  t->tid = gettid ();
  t->run (t->data);
  t->finished = true;
  return NULL;
}

void
thread_start (struct thread *t, void (*f) (void *), void *data)
{
  t->run = f;
  t->data = data;
  t->tid = 0;
  t->finished = false;
  ck_assert_int_eq (pthread_create (&t->thread, NULL, run, t), 0);
}

void
thread_join (struct thread *t)
{
  ck_assert_int_eq (pthread_join (t->thread, NULL), 0);
}

/* The letter behind the name in the thread's stat. */
static char
state_of (pid_t tid)
{
  char path[64], line[256] = "", *end;
  FILE *f;

  snprintf (path, sizeof path, "/proc/self/task/%d/stat", (int) tid);
  f = fopen (path, "re");
  if (!f)
    return '?';
  if (!fgets (line, sizeof line, f))
    line[0] = '\0';
  fclose (f);
  end = strrchr (line, ')');
  return end ? end[2] : '?';
}

void
thread_wait_asleep (struct thread *t)
{
  /* Twice in a row: it may have slept on a lock for a moment. */
  for (int seen = 0; seen < 2 && !t->finished; usleep (500))
    seen = t->tid != 0 && state_of (t->tid) == 'S' ? seen + 1 : 0;
}
