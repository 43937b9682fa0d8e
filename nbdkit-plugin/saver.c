#include "nbdkit-plugin/saver.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "nbdkit-plugin/device.h"
#include "nbdkit-plugin/helper_thread.h"

struct saver {
  struct device *device;        /* constant, like the next two */
  void (*wake) (void *data);
  void *data;
  pthread_t thread;

  pthread_mutex_t lock;         /* guards all below */
  pthread_cond_t work;
  struct saver_job *asked, **last; /* oldest first */
  struct saver_job *done;
  bool save_all, stop;
};

static struct saver_job *
next_job (struct saver *s)
{
  struct saver_job *job = s->asked;

  if (job) {
    s->asked = job->link;
    if (!s->asked)
      s->last = &s->asked;
  }
  return job;
}

static void
do_job (struct saver *s, struct saver_job *job)
{
  job->result = job->move ? device_move (s->device, job->slab, &job->next,
                                         &job->until_ns)
    : device_save (s->device, job->slab, &job->until_ns);
  pthread_mutex_lock (&s->lock);
  job->link = s->done;
  s->done = job;
  pthread_mutex_unlock (&s->lock);
  s->wake (s->data);
}

static void *
run_saver (void *data)
{
  struct saver *s = data;
  struct saver_job *job;

  pthread_mutex_lock (&s->lock);
  while (!s->stop) {
    bool all = s->save_all;

    job = next_job (s);
    if (!job && !all) {
      pthread_cond_wait (&s->work, &s->lock);
      continue;
    }
    if (!job)
      s->save_all = false;
    pthread_mutex_unlock (&s->lock);
    if (job)
      do_job (s, job);
    else
      device_save_all (s->device, INT64_MAX);
    pthread_mutex_lock (&s->lock);
  }
  pthread_mutex_unlock (&s->lock);
  return NULL;
}

struct saver *
saver_start (struct device *device, void (*wake) (void *data), void *data)
{
  struct saver *s = calloc (1, sizeof *s);
  int r;

  if (!s)
    return NULL;
  s->device = device;
  s->wake = wake;
  s->data = data;
  s->last = &s->asked;
  pthread_mutex_init (&s->lock, NULL);
  pthread_cond_init (&s->work, NULL);
  r = helper_thread_start (&s->thread, 0, run_saver, s);
  if (r == 0)
    return s;
  free (s);
  errno = -r;
  return NULL;
}

void
saver_free (struct saver *s)
{
  if (!s)
    return;
  pthread_mutex_lock (&s->lock);
  s->stop = true;
  pthread_cond_signal (&s->work);
  pthread_mutex_unlock (&s->lock);
  pthread_join (s->thread, NULL);
  pthread_cond_destroy (&s->work);
  pthread_mutex_destroy (&s->lock);
  free (s);
}

void
saver_ask (struct saver *s, struct saver_job *job)
{
  job->link = NULL;
  pthread_mutex_lock (&s->lock);
  *s->last = job;
  s->last = &job->link;
  pthread_cond_signal (&s->work);
  pthread_mutex_unlock (&s->lock);
}

struct saver_job *
saver_done (struct saver *s)
{
  struct saver_job *job;

  pthread_mutex_lock (&s->lock);
  job = s->done;
  if (job)
    s->done = job->link;
  pthread_mutex_unlock (&s->lock);
  return job;
}

void
saver_save_all (struct saver *s)
{
  pthread_mutex_lock (&s->lock);
  s->save_all = true;
  pthread_cond_signal (&s->work);
  pthread_mutex_unlock (&s->lock);
}
