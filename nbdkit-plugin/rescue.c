#include "nbdkit-plugin/rescue.h"

#include "nbdkit-plugin/saver.h"

struct rescue {
  struct saver_job job;         /* first: cast to and fro */
  const struct donor *donor;    /* who wants this grant back */
  uint64_t grant;
  uint64_t request;             /* the id of EVICT */
  bool drain;                   /* it began since the donor is leaving, */
  bool evicted;                 /* or (then also) since it sent EVICT */
  bool seeking;                 /* for another donor */
  struct donor *next_donor;     /* while the slab moves there */
  uint64_t next_request;        /* the id of its EVICT, if there was one */
};

void
rescues_init (struct rescues *r, struct homes *homes, struct saver *saver,
              int64_t deadline_ns,
              bool (*seek) (void *data, uint64_t slab,
                            const struct donor *avoid),
              void *data)
{
  *r = (struct rescues) {
    .homes = homes, .saver = saver, .deadline_ns = deadline_ns,
    .seek = seek, .data = data,
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

/* Does the slab live where it did?  Its session may have ended meanwhile,
 * and the slab have found another home.
 */
static bool
is_there_still (const struct rescues *r, uint64_t slab)
{
  const struct home *home = &r->homes->of[slab];

  return home->donor == r->of[slab]->donor &&
    home->grant == r->of[slab]->grant && home->exit == HOME_STAYS;
}

static void
forget (struct rescues *r, uint64_t slab)
{
  if (r->of[slab]->drain)
    r->draining = false;
  g_free (r->of[slab]);
  r->of[slab] = NULL;
}

/* The local copy may refuse more than it has refused so far. */
static bool
disk_fails (const struct rescues *r)
{
  return slab_table_remote_only (r->homes->slabs) > 0;
}

/* Without a move: from a donor that is leaving a slab goes only if nothing
 * is lost by that.
 */
static bool
leave_for_disk (struct rescues *r, uint64_t slab)
{
  return !disk_fails (r) &&
    homes_leave_saved (r->homes, slab, HOME_DISMISSED, 0);
}

/* One that would have moved waits a deadline for another donor, which may
 * be about to connect.
 */
static bool
leave_unmoved (struct rescues *r, uint64_t slab)
{
  const struct donor *d = r->of[slab]->donor;

  return fabric_now_ns () - d->leaving_ns > r->deadline_ns &&
    leave_for_disk (r, slab);
}

/* Nothing more can be done: where the donor wants its memory back, what is
 * not saved is lost.
 */
static void
finish (struct rescues *r, uint64_t slab)
{
  const struct rescue *e = r->of[slab];

  if (is_there_still (r, slab)) {
    if (e->evicted)
      homes_leave (r->homes, slab, HOME_EVICTED, e->request);
    else if (!leave_unmoved (r, slab))
      r->drain_failed = true;
  }
  forget (r, slab);
}

static void
seek (struct rescues *r, uint64_t slab)
{
  struct rescue *e = r->of[slab];

  e->seeking = is_there_still (r, slab) && r->seek (r->data, slab, e->donor);
  if (!e->seeking)
    finish (r, slab);
}

static struct rescue *
begin (struct rescues *r, uint64_t slab, int64_t until_ns)
{
  struct rescue *e = g_new0 (struct rescue, 1);

  e->job.slab = slab;
  atomic_init (&e->job.until_ns, until_ns);
  e->donor = r->homes->of[slab].donor;
  e->grant = r->homes->of[slab].grant;
  r->of[slab] = e;
  return e;
}

/* Who is in a hurry needs the saver: a move without one stops copying. */
static void
hurry_drain (struct rescues *r, int64_t until_ns)
{
  for (uint64_t i = 0; r->draining && i < slab_table_slabs (r->homes->slabs);
       i++)
    if (r->of[i] && r->of[i]->drain &&
        atomic_load (&r->of[i]->job.until_ns) > until_ns)
      atomic_store (&r->of[i]->job.until_ns, until_ns);
}

void
rescues_evict (struct rescues *r, uint64_t slab, uint64_t request)
{
  const int64_t now_ns = fabric_now_ns ();
  struct rescue *e = r->of[slab];

  if (e && e->drain) {
    e->evicted = true;
    e->request = request;
    hurry_drain (r, now_ns + r->deadline_ns / 2);
  }
  if (r->homes->of[slab].exit != HOME_STAYS) {
    homes_leave (r->homes, slab, HOME_EVICTED, request);
    return;
  }
  if (e) {                      /* it goes on, for this home */
    e->donor = r->homes->of[slab].donor;
    e->grant = r->homes->of[slab].grant;
    e->request = request;
    return;
  }
  if (!disk_fails (r) &&
      homes_leave_saved (r->homes, slab, HOME_EVICTED, request))
    return;
  hurry_drain (r, now_ns);
  e = begin (r, slab, now_ns + r->deadline_ns);
  e->evicted = true;
  e->request = request;
  /* Where the local copy refuses writes it may well refuse reads, too: a
   * slab that has nothing to be saved moves all the same.
   */
  if (only_there (r, slab) > 0)
    saver_ask (r->saver, &e->job);
  else
    seek (r, slab);
}

bool
rescues_placed (struct rescues *r, uint64_t slab, struct donor *donor,
                const struct slab_home *home)
{
  struct rescue *e = r->of[slab];

  if (!e || !e->seeking)
    return false;
  e->seeking = false;
  if (!home)
    finish (r, slab);
  else if (!is_there_still (r, slab)) {
    homes_give_up (donor, home->grant);
    finish (r, slab);
  }
  else {
    e->next_donor = donor;
    e->next_request = 0;
    e->job.move = true;
    e->job.next = *home;
    homes_begin_move (r->homes, slab,
                      e->evicted ? HOME_EVICTED : HOME_DISMISSED, e->request);
    saver_ask (r->saver, &e->job);
  }
  return true;
}

static void
saved (struct rescues *r, uint64_t slab)
{
  struct rescue *e = r->of[slab];

  if (!is_there_still (r, slab))
    forget (r, slab);
  else if (e->job.result < 0)
    seek (r, slab);
  else if (homes_leave_saved (r->homes, slab, HOME_EVICTED, e->request))
    forget (r, slab);
  else
    saver_ask (r->saver, &e->job);
}

bool
rescues_evict_next (struct rescues *r, const struct donor *donor,
                    uint64_t grant, uint64_t request)
{
  for (uint64_t i = 0; i < slab_table_slabs (r->homes->slabs); i++) {
    struct rescue *e = r->of[i];

    if (e && e->job.move && e->next_donor == donor &&
        e->job.next.grant == grant) {
      e->next_request = request;
      hurry_drain (r, fabric_now_ns ());
      return true;
    }
  }
  return false;
}

/* One that failed is tried again elsewhere while there is time. */
static void
moved (struct rescues *r, uint64_t slab)
{
  struct rescue *e = r->of[slab];
  const uint64_t next_request = e->next_request;

  e->job.move = false;
  if (e->job.result == 0) {
    homes_end_move (r->homes, slab, e->next_donor, &e->job.next);
    forget (r, slab);
    if (next_request > 0 && r->homes->of[slab].exit == HOME_STAYS)
      rescues_evict (r, slab, next_request);
    return;
  }
  homes_abandon_move (r->homes, slab, e->next_donor, &e->job.next);
  if (e->evicted && fabric_now_ns () < atomic_load (&e->job.until_ns))
    seek (r, slab);
  else
    finish (r, slab);
}

static void
drain_one (struct rescues *r, uint64_t slab)
{
  if (!slab_table_is_busy (r->homes->slabs, slab) && leave_for_disk (r, slab))
    return;
  if (r->draining || r->drain_failed)
    return;
  r->draining = true;
  r->drain_next = slab + 1;
  begin (r, slab, INT64_MAX)->drain = true;
  seek (r, slab);
}

static bool
is_to_drain (const struct rescues *r, uint64_t slab)
{
  const struct home *home = &r->homes->of[slab];

  return home->donor && home->donor->leaving &&
    home->donor->state == DONOR_CONNECTED && home->exit == HOME_STAYS &&
    !r->of[slab];
}

void
rescues_drain (struct rescues *r, bool retry)
{
  const uint64_t n = slab_table_slabs (r->homes->slabs);
  const uint64_t first = r->drain_next;

  if (retry)
    r->drain_failed = false;
  for (uint64_t i = 0; i < n; i++)
    if (is_to_drain (r, (first + i) % n))
      drain_one (r, (first + i) % n);
}

void
rescues_check (struct rescues *r)
{
  struct saver_job *job;

  while ((job = saver_done (r->saver)))
    if (job->move)
      moved (r, job->slab);
    else
      saved (r, job->slab);
}
