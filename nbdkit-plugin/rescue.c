#include "nbdkit-plugin/rescue.h"

#include "nbdkit-plugin/saver.h"

struct rescue {
  struct saver_job job;         /* first: cast to and fro */
  uint64_t request;             /* the id of EVICT */
  struct donor *next_donor;     /* while the slab moves there */
};

void
rescues_init (struct rescues *r, struct homes *homes, struct saver *saver,
              bool (*seek) (void *data, uint64_t slab,
                            const struct donor *avoid),
              void *data)
{
  *r = (struct rescues) {
    .homes = homes, .saver = saver, .seek = seek, .data = data,
    .of = g_new0 (struct rescue *, slab_table_slabs (homes->slabs)),
  };
}

void
rescues_free (struct rescues *r)
{
  for (uint64_t i = 0; r->of && i < slab_table_slabs (r->homes->slabs); i++)
    g_free (r->of[i]);
  g_free (r->of);
}

static uint64_t
only_there (const struct rescues *r, uint64_t slab)
{
  struct slab_info info;

  slab_table_info (r->homes->slabs, slab, &info);
  return info.remote_only;
}

static void
forget (struct rescues *r, uint64_t slab)
{
  g_free (r->of[slab]);
  r->of[slab] = NULL;
}

/* Nothing more can be done: what is not saved is lost. */
static void
finish (struct rescues *r, uint64_t slab)
{
  const uint64_t request = r->of[slab]->request;

  forget (r, slab);
  if (r->homes->of[slab].exit == HOME_STAYS)
    homes_leave (r->homes, slab, HOME_EVICTED, request);
}

static void
seek (struct rescues *r, uint64_t slab)
{
  const struct home *home = &r->homes->of[slab];

  if (home->exit != HOME_STAYS || !r->seek (r->data, slab, home->donor))
    finish (r, slab);
}

void
rescues_evict (struct rescues *r, uint64_t slab, uint64_t request)
{
  const bool disk_fails = slab_table_remote_only (r->homes->slabs) > 0;

  if (r->of[slab]) {
    r->of[slab]->request = request;
    return;
  }
  if (!disk_fails) {
    homes_leave (r->homes, slab, HOME_EVICTED, request);
    return;
  }
  r->of[slab] = g_new0 (struct rescue, 1);
  r->of[slab]->job.slab = slab;
  r->of[slab]->request = request;
  /* Where the local copy refuses writes it may well refuse reads, too: a
   * slab that has nothing to be saved moves all the same.
   */
  if (only_there (r, slab) > 0)
    saver_ask (r->saver, &r->of[slab]->job);
  else
    seek (r, slab);
}

bool
rescues_placed (struct rescues *r, uint64_t slab, struct donor *donor,
                const struct slab_home *home)
{
  struct rescue *e = r->of[slab];

  if (!e)
    return false;
  if (!home)
    finish (r, slab);
  else if (r->homes->of[slab].exit != HOME_STAYS) {
    /* Too late: the session has ended meanwhile. */
    homes_give_up (donor, home->grant);
    finish (r, slab);
  }
  else {
    e->next_donor = donor;
    e->job.move = true;
    e->job.next = *home;
    homes_begin_move (r->homes, slab, e->request);
    saver_ask (r->saver, &e->job);
  }
  return true;
}

static void
saved (struct rescues *r, uint64_t slab)
{
  if (r->of[slab]->job.result == 0 && only_there (r, slab) == 0)
    finish (r, slab);
  else
    seek (r, slab);
}

void
rescues_check (struct rescues *r)
{
  struct saver_job *job;

  while ((job = saver_done (r->saver))) {
    struct rescue *e = (struct rescue *) job;

    if (job->move) {
      homes_end_move (r->homes, job->slab, e->next_donor, &job->next,
                      job->result == 0);
      forget (r, job->slab);
    }
    else
      saved (r, job->slab);
  }
}
