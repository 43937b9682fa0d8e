#include "nbdkit-plugin/homes.h"

#include <assert.h>
#include <inttypes.h>

#include "conf/log.h"

void
homes_init (struct homes *h, struct slab_table *slabs)
{
  *h = (struct homes) {
    .slabs = slabs, .of = g_new0 (struct home, slab_table_slabs (slabs)),
  };
}

void
homes_free (struct homes *h)
{
  g_free (h->of);
}

void
homes_enter (struct homes *h, uint64_t slab, struct donor *donor,
             const struct slab_home *home)
{
  h->of[slab] = (struct home) { .donor = donor, .grant = home->grant };
  h->counters.mapped++;
  log_limited (LOG_LEVEL_INFO, "slab %" PRIu64 ": placed on donor %s (grant %"
               PRIu64 ")", slab, donor->name, home->grant);
  slab_table_map (h->slabs, slab, home);
}

bool
homes_find (const struct homes *h, const struct donor *donor, uint64_t grant,
            uint64_t *slab)
{
  for (uint64_t i = 0; i < slab_table_slabs (h->slabs); i++)
    if (h->of[i].donor == donor && h->of[i].grant == grant) {
      *slab = i;
      return true;
    }
  return false;
}

static void
drain (struct homes *h, uint64_t slab)
{
  uint64_t lost = slab_table_drain (h->slabs, slab, false);

  if (lost > 0)
    log_error ("slab %" PRIu64 ": %" PRIu64 " pages are lost until they are "
               "written again: the local copy has refused them, and donor %s "
               "was the only one to have them",
               slab, lost, h->of[slab].donor->name);
}

void
homes_leave (struct homes *h, uint64_t slab, enum home_exit exit,
             uint64_t request)
{
  struct home *home = &h->of[slab];

  assert (home->donor);
  if (home->exit == HOME_STAYS)
    drain (h, slab);
  home->exit = exit;
  home->request = request;
}

bool
homes_leave_saved (struct homes *h, uint64_t slab, enum home_exit exit,
                   uint64_t request)
{
  assert (h->of[slab].donor && h->of[slab].exit == HOME_STAYS);
  if (slab_table_drain (h->slabs, slab, true) > 0)
    return false;
  h->of[slab].exit = exit;
  h->of[slab].request = request;
  return true;
}

void
homes_say_done (struct donor *donor, uint64_t grant, uint64_t request)
{
  const struct message done = {
    .type = MESSAGE_DONE, .id = request, .done = { .grant = grant },
  };

  session_answer (donor->session, &done);
}

void
homes_say_unmap (struct donor *donor, uint64_t grant)
{
  struct message unmap = {
    .type = MESSAGE_UNMAP, .unmap = { .grant = grant },
  };

  session_send (donor->session, &unmap);
}

void
homes_give_up (struct donor *donor, uint64_t grant)
{
  donor->slabs--;
  homes_say_unmap (donor, grant);
}

static void
say_left (uint64_t slab, const struct home *left, const struct donor *next)
{
  static const char *const why[] = {
    [HOME_LOST] = "its session has ended", [HOME_EVICTED] = "evicted",
    [HOME_RETURNED] = "not needed", [HOME_DISMISSED] = "no longer listed",
  };

  log_limited (LOG_LEVEL_INFO, "slab %" PRIu64 ": left donor %s (grant %"
               PRIu64 ", %s)%s%s", slab, left->donor->name, left->grant,
               why[left->exit], next ? " for donor " : "",
               next ? next->name : "");
}

/* Nobody uses the home any more; the slab has moved to the next one, or
 * lives nowhere (NULL).
 */
static void
leave (struct homes *h, uint64_t slab, const struct donor *next)
{
  const struct home left = h->of[slab];

  say_left (slab, &left, next);
  left.donor->slabs--;
  h->counters.unmapped++;
  h->of[slab] = (struct home) { .donor = NULL };
  if (left.exit == HOME_EVICTED) {
    h->counters.evicted++;
    h->of[slab].evicted_by = left.donor;
    homes_say_done (left.donor, left.grant, left.request);
  }
  else if (left.exit == HOME_RETURNED) {
    h->counters.returned++;
    slab_table_rest (h->slabs, slab);
    homes_say_unmap (left.donor, left.grant);
  }
  else if (left.exit == HOME_DISMISSED) {
    h->counters.dismissed++;
    homes_say_unmap (left.donor, left.grant);
  }
}

void
homes_begin_move (struct homes *h, uint64_t slab, enum home_exit exit,
                  uint64_t request)
{
  struct home *home = &h->of[slab];

  assert (home->donor && home->exit == HOME_STAYS);
  home->exit = exit;
  home->request = request;
  home->moving = true;
}

void
homes_end_move (struct homes *h, uint64_t slab, struct donor *donor,
                const struct slab_home *next)
{
  assert (h->of[slab].moving);
  leave (h, slab, donor);
  h->of[slab] = (struct home) { .donor = donor, .grant = next->grant };
  h->counters.mapped++;
  h->counters.moved++;
  if (donor->state == DONOR_ENDED)
    homes_leave (h, slab, HOME_LOST, 0);
}

void
homes_abandon_move (struct homes *h, uint64_t slab, struct donor *donor,
                    const struct slab_home *next)
{
  struct home *home = &h->of[slab];

  assert (home->moving);
  home->moving = false;
  homes_give_up (donor, next->grant);
  if (home->exit == HOME_LOST)
    drain (h, slab);
  else
    home->exit = HOME_STAYS;
}

void
homes_leave_all (struct homes *h, struct donor *donor)
{
  for (uint64_t i = 0; i < slab_table_slabs (h->slabs); i++)
    if (h->of[i].donor == donor) {
      homes_leave (h, i, HOME_LOST, 0);
      h->counters.lost++;
    }
}

void
homes_forget (struct homes *h, const struct donor *donor)
{
  for (uint64_t i = 0; i < slab_table_slabs (h->slabs); i++)
    if (h->of[i].evicted_by == donor)
      h->of[i].evicted_by = NULL;
}

void
homes_settle (struct homes *h)
{
  for (uint64_t i = 0; i < slab_table_slabs (h->slabs); i++)
    if (h->of[i].exit != HOME_STAYS && !h->of[i].moving &&
        slab_table_unmap (h->slabs, i))
      leave (h, i, NULL);
}
