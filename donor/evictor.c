#include <stdlib.h>
#include <sys/random.h>

#include "conf/log.h"
#include "donor/evictor.h"
#include "donor/session.h"
#include "donor/wake.h"
#include "fabric/fabric.h"
#include "placement/evict.h"

/* Slabs evicted in one round.  It asks about twice as many at most, and
 * that many questions fit into one session's channel.
 */
enum { ROUND_MAX = 8 * MESSAGE_GRANTS_MAX };

/* The longest wait for answers; an eighth of a session's deadline is
 * waited if that is less.
 */
static const int64_t answers_max_ns = 250000000;

/* A grant that stands. */
struct candidate {
  uint64_t session;
  uint64_t grant;
  double activity;              /* 0 until its owner has answered */
};

/* A CHECK_ACTIVITY, about some of the sample. */
struct question {
  uint64_t session;
  uint64_t request;
  unsigned first, count;
  bool answered;
};

struct evictor {
  struct donor_shared *shared;
  const GPtrArray *sessions;
  GSource *source;
  uint64_t demand;              /* slabs not chosen yet */
  void (*done) (void *data);    /* stopping: until it has been called */
  void *data;

  /* The round under way. */
  size_t evict;                 /* E; 0: there is none */
  GArray *sample;               /* struct candidate */
  GArray *questions;            /* struct question */
  int64_t until_ns;             /* when it goes on without an answer, */
  bool last_call;               /* after all have had their turn once more */
};

static uint64_t
next_random (void *unused)
{
  uint64_t r;

  (void) unused;
  if (getrandom (&r, sizeof r, GRND_NONBLOCK) != sizeof r)
    r = (uint64_t) g_random_int () << 32 | g_random_int ();
  return r;
}

static struct choose_random system_random = { next_random, NULL };

/* A session may have ended since its id was noted: NULL. */
static struct session *
find_session (const struct evictor *e, uint64_t id)
{
  struct session_info info;
  unsigned i;

  for (i = 0; i < e->sessions->len; i++) {
    struct session *s = g_ptr_array_index (e->sessions, i);

    session_get_info (s, &info);
    if (info.active && info.id == id)
      return s;
  }
  return NULL;
}

static void
add_candidates (GArray *all, const struct session *s)
{
  struct session_info info;
  g_autofree uint64_t *grants = NULL;
  size_t i, n;

  session_get_info (s, &info);
  if (!info.active)
    return;
  grants = g_new (uint64_t, info.slabs);
  n = session_list_grants (s, grants);
  for (i = 0; i < n; i++) {
    struct candidate c = { .session = info.id, .grant = grants[i] };

    g_array_append_val (all, c);
  }
}

/* Those of one session are neighbours. */
static GArray *
list_candidates (const struct evictor *e)
{
  GArray *all = g_array_new (FALSE, FALSE, sizeof (struct candidate));
  unsigned i;

  for (i = 0; i < e->sessions->len; i++)
    add_candidates (all, g_ptr_array_index (e->sessions, i));
  return all;
}

static struct candidate *
sampled (const struct evictor *e, unsigned i)
{
  return &g_array_index (e->sample, struct candidate, i);
}

static void
evict (struct evictor *e, const struct candidate *c)
{
  session_evict (find_session (e, c->session), c->grant);
  e->demand -= MIN (e->demand, 1);
}

/* On their way back, whoever began it. */
static uint64_t
count_going (const struct evictor *e)
{
  struct session_info info;
  uint64_t n = 0;
  unsigned i;

  for (i = 0; i < e->sessions->len; i++) {
    session_get_info (g_ptr_array_index (e->sessions, i), &info);
    n += info.going;
  }
  return n;
}

/* How many slabs are to be asked for now.  What comes back on demand
 * helps the node as well, so the two do not add up.
 */
static uint64_t
wanted (const struct evictor *e)
{
  const uint64_t excess = lender_excess_slabs (e->shared->lender);
  const uint64_t going = count_going (e);

  return MAX (e->demand, excess - MIN (excess, going));
}

/* A round */

static int
compare_indices (const void *a, const void *b)
{
  const size_t x = *(const size_t *) a, y = *(const size_t *) b;

  return (x > y) - (x < y);
}

/* In the order of `all`, so that one session's stay neighbours. */
static void
draw (struct evictor *e, const GArray *all)
{
  const size_t k = evict_sample_size (e->evict,
                                      e->shared->config->evict_extra,
                                      all->len);
  g_autofree size_t *indices = g_new (size_t, k);
  size_t i;

  evict_sample (all->len, k, &system_random, indices);
  qsort (indices, k, sizeof *indices, compare_indices);
  g_array_set_size (e->sample, 0);
  for (i = 0; i < k; i++)
    g_array_append_val (e->sample, g_array_index (all, struct candidate,
                                                  indices[i]));
}

/* How many of the sample one message asks about, from the first on. */
static unsigned
count_neighbours (const struct evictor *e, unsigned first)
{
  unsigned n = 1;

  while (first + n < e->sample->len && n < MESSAGE_GRANTS_MAX
         && sampled (e, first + n)->session == sampled (e, first)->session)
    n++;
  return n;
}

/* A session that still owes an answer to an earlier round is not asked:
 * questions would pile up before it.
 */
static bool
may_ask (const struct evictor *e, const struct session_info *info)
{
  const unsigned n = e->questions->len;

  return !info->owes_activity
    || (n > 0 && g_array_index (e->questions, struct question,
                                n - 1).session == info->id);
}

static void
ask (struct evictor *e, unsigned first, unsigned count)
{
  struct question q = { .session = sampled (e, first)->session,
                        .first = first, .count = count };
  struct session *s = find_session (e, q.session);
  uint64_t grants[MESSAGE_GRANTS_MAX];
  struct session_info info;
  unsigned i;

  if (s == NULL)
    return;
  session_get_info (s, &info);
  if (!may_ask (e, &info))
    return;
  for (i = 0; i < count; i++)
    grants[i] = sampled (e, first + i)->grant;
  q.request = session_check_activity (s, grants, count);
  if (q.request == 0)
    return;
  g_array_append_val (e->questions, q);
  e->until_ns = MIN (e->until_ns, fabric_now_ns ()
                     + MIN (info.deadline_ns / 8, answers_max_ns));
}

static void
ask_all (struct evictor *e)
{
  unsigned first, count;

  g_array_set_size (e->questions, 0);
  e->until_ns = INT64_MAX;
  e->last_call = false;
  for (first = 0; first < e->sample->len; first += count) {
    count = count_neighbours (e, first);
    ask (e, first, count);
  }
}

/* One whose session has ended will not be answered, nor needs to be. */
static unsigned
count_awaited (const struct evictor *e)
{
  unsigned i, n = 0;

  for (i = 0; i < e->questions->len; i++) {
    const struct question *q = &g_array_index (e->questions,
                                               struct question, i);

    n += !q->answered && find_session (e, q->session);
  }
  return n;
}

void
evictor_answer (struct evictor *e, uint64_t session, const struct message *m)
{
  struct question *q;
  unsigned i, j;

  for (i = 0; i < e->questions->len; i++) {
    q = &g_array_index (e->questions, struct question, i);
    if (q->session == session && q->request == m->id)
      break;
  }
  if (i == e->questions->len)
    return;
  q->answered = true;
  for (i = 0; i < m->activity.count; i++)
    for (j = q->first; j < q->first + q->count; j++)
      if (sampled (e, j)->grant == m->activity.of[i].grant)
        sampled (e, j)->activity = m->activity.of[i].activity_milli;
  evictor_wake (e);
}

/* Some of the sample may have come back since it was drawn. */
static void
drop_gone (struct evictor *e)
{
  unsigned i, kept = 0;

  for (i = 0; i < e->sample->len; i++) {
    const struct candidate c = *sampled (e, i);
    const struct session *s = find_session (e, c.session);

    if (s && session_stands (s, c.grant))
      *sampled (e, kept++) = c;
  }
  g_array_set_size (e->sample, kept);
}

static void
say_evicting (const struct evictor *e, size_t slabs)
{
  struct lender_memory memory;

  lender_get_memory (e->shared->lender, &memory);
  if (slabs > 0)
    log_notice ("evicting %zu of %llu slab%s lent", slabs,
                (unsigned long long) memory.slabs_lent,
                memory.slabs_lent == 1 ? "" : "s");
}

static void
finish (struct evictor *e)
{
  const size_t most = MIN (e->evict, wanted (e));
  g_autofree double *activity = NULL;
  g_autofree size_t *chosen = NULL;
  size_t i, n;

  e->evict = 0;
  e->shared->counters.activity_unanswered += count_awaited (e);
  g_array_set_size (e->questions, 0);
  drop_gone (e);
  n = e->sample->len;
  activity = g_new (double, n);
  chosen = g_new (size_t, n);
  for (i = 0; i < n; i++)
    activity[i] = sampled (e, i)->activity;
  n = evict_least_active (activity, n, most, &system_random, chosen);
  say_evicting (e, n);
  for (i = 0; i < n; i++)
    evict (e, sampled (e, chosen[i]));
}

static void
evict_all (struct evictor *e, const GArray *all)
{
  unsigned i;

  for (i = 0; i < all->len; i++)
    evict (e, &g_array_index (all, struct candidate, i));
}

/* There is nothing to choose where all go, so nobody is asked then. */
static void
begin (struct evictor *e)
{
  g_autoptr (GArray) all = list_candidates (e);
  size_t slabs;

  e->demand = MIN (e->demand, all->len);
  slabs = MIN (wanted (e), all->len);
  if (slabs == 0)
    return;
  e->shared->counters.eviction_rounds++;
  if (slabs == all->len) {
    say_evicting (e, slabs);
    evict_all (e, all);
    return;
  }
  e->evict = MIN (slabs, ROUND_MAX);
  draw (e, all);
  if (e->sample->len > e->evict)
    ask_all (e);
}

/* Answers are to come.  Where the donor itself was late, those that came
 * in the meantime are heard first.
 */
static bool
must_wait (struct evictor *e)
{
  if (count_awaited (e) == 0 || e->last_call)
    return false;
  e->last_call = fabric_now_ns () >= e->until_ns;
  wake_at (e->source, e->last_call ? 0 : e->until_ns);
  return true;
}

static void
run_round (struct evictor *e)
{
  if (e->evict == 0)
    begin (e);
  if (e->evict == 0 || must_wait (e))
    return;
  finish (e);
  evictor_wake (e);
}

/* Beginning, end, and what others ask for */

static void
take_all (struct evictor *e)
{
  g_autoptr (GArray) all = list_candidates (e);
  void (*done) (void *data) = e->done;
  struct lender_memory memory;

  evict_all (e, all);
  lender_get_memory (e->shared->lender, &memory);
  if (memory.slabs_lent > 0 || done == NULL)
    return;
  e->done = NULL;
  done (e->data);
}

static gboolean
turn (gpointer data)
{
  struct evictor *e = data;

  if (e->shared->stopping)
    take_all (e);
  else
    run_round (e);
  return G_SOURCE_CONTINUE;
}

struct evictor *
evictor_new (struct donor_shared *shared, const GPtrArray *sessions)
{
  struct evictor *e = g_new0 (struct evictor, 1);

  e->shared = shared;
  e->sessions = sessions;
  e->sample = g_array_new (FALSE, FALSE, sizeof (struct candidate));
  e->questions = g_array_new (FALSE, FALSE, sizeof (struct question));
  e->source = wake_new (shared->context, -1, turn, e);
  return e;
}

void
evictor_free (struct evictor *e)
{
  if (e == NULL)
    return;
  wake_free (e->source);
  g_array_unref (e->sample);
  g_array_unref (e->questions);
  g_free (e);
}

void
evictor_wake (struct evictor *e)
{
  if (e)
    wake_at (e->source, 0);
}

uint64_t
evictor_demand (struct evictor *e, uint64_t slabs)
{
  g_autoptr (GArray) all = list_candidates (e);

  slabs = MIN (slabs, all->len - MIN (e->demand, all->len));
  e->demand += slabs;
  evictor_wake (e);
  return slabs;
}

uint64_t
evictor_going (const struct evictor *e)
{
  const struct donor_counters *counters = &e->shared->counters;

  return e->demand + counters->evictions_asked - counters->evictions_done
    - counters->evictions_unanswered;
}

void
evictor_take_all (struct evictor *e, void (*done) (void *data), void *data)
{
  e->done = done;
  e->data = data;
  evictor_wake (e);
}
