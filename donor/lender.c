#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/cgroup.h"
#include "conf/log.h"
#include "conf/units.h"
#include "donor/lender.h"
#include "donor/memory_monitor.h"
#include "donor/pressure.h"
#include "donor/wake.h"
#include "fabric/fabric.h"
#include "placement/headroom.h"

enum {
  SAMPLES_A_SECOND = 4,
  LENDING_HOLD_SAMPLES = 5 * SAMPLES_A_SECOND,
};

static const int64_t second_ns = 1000000000;
/* How long a stall keeps the donor from holding what it took back. */
static const int64_t pressed_ns = INT64_C (5000000000);

struct lender {
  const struct donor_config *config;
  struct lender_events events;
  struct cgroup *cgroup;
  struct memory_monitor monitor;
  int64_t step_ns;              /* when the average takes its next step */
  struct pressure *pressure;    /* NULL where the kernel has none */
  uint64_t pressure_events;
  int64_t pressed_until_ns;     /* until then at most pressed_slabs: */
  uint64_t pressed_slabs;
  uint64_t limit_bytes;         /* what the donor may hold now */
  struct headroom_lending lending; /* what it may lend, at most that */
  struct slab_pool *pool;
  GQueue waiting;               /* struct lender_wait, first come */
  GQueue reserves;              /* struct lender_reserve, oldest first */
  GSource *pool_source;
  GSource *tick_source;
  bool settled;
  bool stopped;
  bool said_short, said_unlocked, said_no_sample;
};

static bool
is_pressed (const struct lender *l)
{
  return fabric_now_ns () < l->pressed_until_ns;
}

static uint64_t
would_lend_slabs (const struct lender *l, const struct slab_pool_state *st)
{
  const uint64_t limit = l->lending.bytes / l->config->slab_size_bytes;
  const uint64_t waiting = l->waiting.length;
  uint64_t slabs = limit > st->lent ? limit - st->lent : 0;

  if (st->error)
    slabs = MIN (slabs, st->ready + st->reserved);
  return slabs > waiting ? slabs - waiting : 0;
}

/* Why not one more slab is lent or kept ready. */
static void
explain_shortage (const struct lender *l, const struct slab_pool_state *st,
                  char *reason, size_t size)
{
  const struct donor_config *config = l->config;
  char text[UNITS_TEXT_MAX];

  if (l->stopped)
    snprintf (reason, size, "the donor is stopping");
  else if (st->error)
    snprintf (reason, size, "cannot prepare memory: %s%s",
              strerror (-st->error),
              config->lock == MEMORY_LOCK_NO ? ""
              : " (the locked memory limit, ulimit -l, may be too low)");
  else if (is_pressed (l))
    snprintf (reason, size, "tasks of this node wait for memory");
  else if (l->lending.bytes == config->memory_bytes)
    snprintf (reason, size, "--memory %s allows no more",
              units_format_size (config->memory_bytes, text));
  else
    snprintf (reason, size, "no memory is free above the headroom of %s",
              units_format_size (config->headroom_bytes, text));
}

static void
say_shortage (struct lender *l, const struct slab_pool_state *st)
{
  char reason[256];

  if (st->lock_error && !l->said_unlocked) {
    l->said_unlocked = true;
    log_warning ("slabs are lent unlocked: %s (raise the locked memory "
                 "limit, ulimit -l)", strerror (-st->lock_error));
  }
  if (l->said_short || st->busy
      || st->lent + st->ready + st->reserved >= l->config->ready)
    return;
  l->said_short = true;
  explain_shortage (l, st, reason, sizeof reason);
  log_notice ("%llu of %llu slabs are ready: %s",
              (unsigned long long) (st->ready + st->reserved),
              (unsigned long long) l->config->ready, reason);
}

static struct lender_wait *
pop_waiting (struct lender *l)
{
  GList *link = g_queue_pop_head_link (&l->waiting);

  slab_pool_set_demand (l->pool, l->waiting.length);
  return link->data;
}

/* Serve one of those who wait, or refuse him what can no longer be had,
 * and say whether there is more to do: registering a slab takes long, and
 * others are to have their turn.
 */
static bool
serve_waiting (struct lender *l, const struct slab_pool_state *st)
{
  const bool may_lend =
    st->lent < l->lending.bytes / l->config->slab_size_bytes;
  struct lender_wait *w;
  char reason[256];

  if (l->waiting.length == 0
      || (st->ready == 0 && may_lend && !st->error))
    return false;
  w = pop_waiting (l);
  if (st->ready > 0 && may_lend)
    w->deliver (w, slab_pool_take (l->pool), NULL);
  else {
    explain_shortage (l, st, reason, sizeof reason);
    w->deliver (w, NULL, reason);
  }
  return true;
}

static gboolean
pool_changed (gpointer data)
{
  struct lender *l = data;
  struct slab_pool_state st;

  slab_pool_acknowledge (l->pool);
  slab_pool_get_state (l->pool, &st);
  say_shortage (l, &st);
  if (!l->settled && !st.busy) {
    l->settled = true;
    if (l->events.settled)
      l->events.settled (l->events.data);
  }
  if (serve_waiting (l, &st))
    wake_at (l->pool_source, 0);
  return G_SOURCE_CONTINUE;
}

static int
sample (struct lender *l)
{
  struct slab_pool_state st;
  int r;

  slab_pool_get_state (l->pool, &st);
  r = memory_monitor_sample (&l->monitor, st.resident_bytes);
  if (r < 0)
    return r;
  if (fabric_now_ns () >= l->step_ns) {
    memory_monitor_step (&l->monitor);
    l->step_ns = fabric_now_ns () + second_ns;
  }
  l->limit_bytes =
    headroom_may_hold (l->monitor.total_bytes,
                       memory_monitor_worse_bytes (&l->monitor),
                       l->config->headroom_bytes, l->config->memory_bytes);
  if (l->stopped)
    l->limit_bytes = 0;
  return 0;
}

static void
recall_oldest (struct lender *l)
{
  struct lender_reserve *r = g_queue_peek_head (&l->reserves);

  if (r)
    r->recall (r);
}

/* The pool lets go by itself of what nobody has. */
static void
recall_excess (struct lender *l)
{
  const uint64_t limit = l->limit_bytes / l->config->slab_size_bytes;
  struct slab_pool_state st;

  for (slab_pool_get_state (l->pool, &st);
       st.reserved > 0 && st.lent + st.reserved > limit; st.reserved--)
    recall_oldest (l);
}

/* Act on what sample has found.  While the node is pressed, nothing more
 * is lent or prepared, not even within the limit.
 */
static void
keep_within_limit (struct lender *l)
{
  const uint64_t slab_bytes = l->config->slab_size_bytes;
  struct slab_pool_state st;
  uint64_t lendable;

  if (is_pressed (l))
    l->limit_bytes = MIN (l->limit_bytes, l->pressed_slabs * slab_bytes);
  slab_pool_get_state (l->pool, &st);
  lendable = is_pressed (l) ? MIN (l->limit_bytes, st.lent * slab_bytes)
    : l->limit_bytes;
  headroom_lending_step (&l->lending, lendable, LENDING_HOLD_SAMPLES);
  slab_pool_set_limits (l->pool, l->limit_bytes, l->lending.bytes);
  recall_excess (l);
  if (l->waiting.length > 0)
    wake_at (l->pool_source, 0);
  if (l->events.shortage && lender_excess_slabs (l) > 0)
    l->events.shortage (l->events.data);
}

/* Tasks stall for memory, whatever the samples say.  Each time, one more
 * slab is to go than the time before.
 */
static void
stalled (void *data)
{
  struct lender *l = data;
  struct slab_pool_state st;
  uint64_t slabs;

  if (sample (l) < 0
      || !headroom_stalls_count (l->monitor.available_bytes,
                                 l->config->headroom_bytes))
    return;
  slab_pool_get_state (l->pool, &st);
  slabs = st.lent + st.ready + st.reserved;
  if (is_pressed (l))
    slabs = MIN (slabs, l->pressed_slabs);
  l->pressed_slabs = slabs > 0 ? slabs - 1 : 0;
  l->pressed_until_ns = fabric_now_ns () + pressed_ns;
  l->pressure_events++;
  keep_within_limit (l);
}

/* Samples tell as well, only later: no kernel has to have it. */
static void
watch_pressure (struct lender *l, GMainContext *context)
{
  const char *path = l->config->pressure_path;
  const int r = pressure_new (path, context, stalled, l, &l->pressure);

  if (r < 0 && r != -ENOENT && r != -EOPNOTSUPP)
    log_warning ("memory stalls are not watched: %s: %s", path, strerror (-r));
}

static gboolean
tick (gpointer data)
{
  struct lender *l = data;
  int r = sample (l);

  if (r < 0 && !l->said_no_sample) {
    l->said_no_sample = true;
    log_warning ("cannot read %s or the cgroup's limits, keeping the last "
                 "figures: %s", l->config->meminfo_path, strerror (-r));
  }
  wake_at (l->tick_source, fabric_now_ns () + second_ns / SAMPLES_A_SECOND);
  keep_within_limit (l);
  return G_SOURCE_CONTINUE;
}

struct lender *
lender_new (const struct donor_config *config, GMainContext *context,
            const struct lender_events *events, char **error)
{
  struct lender *l = g_new0 (struct lender, 1);
  int r;

  l->config = config;
  l->events = *events;
  g_queue_init (&l->waiting);
  g_queue_init (&l->reserves);
  l->cgroup = cgroup_new (config->cgroup_path, config->mountinfo_path);
  memory_monitor_init (&l->monitor, config->meminfo_path, l->cgroup,
                       config->smoothing);
  r = slab_pool_new (config->slab_size_bytes, config->ready, config->lock,
                     &l->pool);
  if (r < 0) {
    *error = g_strdup_printf ("cannot start the thread that prepares slabs: "
                              "%s", strerror (-r));
    goto err;
  }
  l->step_ns = fabric_now_ns () + second_ns;
  r = sample (l);
  if (r < 0) {
    *error = g_strdup_printf ("cannot read MemTotal and MemAvailable in %s "
                              "or the cgroup's limits: %s",
                              config->meminfo_path, strerror (-r));
    goto err;
  }
  headroom_lending_begin (&l->lending, l->limit_bytes);
  slab_pool_set_limits (l->pool, l->limit_bytes, l->lending.bytes);
  l->pool_source = wake_new (context, slab_pool_fd (l->pool),
                             pool_changed, l);
  l->tick_source = wake_new (context, -1, tick, l);
  /* Where nothing can be prepared, the thread has nothing to tell. */
  wake_at (l->pool_source, 0);
  wake_at (l->tick_source, fabric_now_ns () + second_ns / SAMPLES_A_SECOND);
  watch_pressure (l, context);
  return l;

 err:
  lender_free (l);
  return NULL;
}

void
lender_free (struct lender *l)
{
  if (l == NULL)
    return;
  wake_free (l->pool_source);
  wake_free (l->tick_source);
  pressure_free (l->pressure);
  slab_pool_free (l->pool);
  cgroup_free (l->cgroup);
  g_free (l);
}

void
lender_stop (struct lender *l)
{
  l->stopped = true;
  l->limit_bytes = 0;
  keep_within_limit (l);
}

uint64_t
lender_would_lend_bytes (struct lender *l)
{
  struct slab_pool_state st;

  slab_pool_get_state (l->pool, &st);
  return would_lend_slabs (l, &st) * l->config->slab_size_bytes;
}

bool
lender_reserve (struct lender *l, struct lender_reserve *r)
{
  struct slab_pool_state st;

  slab_pool_get_state (l->pool, &st);
  if (is_pressed (l) || would_lend_slabs (l, &st) <= st.reserved)
    return false;
  r->slab = slab_pool_reserve (l->pool);
  if (r->slab == NULL)
    return false;
  r->link = (GList) { .data = r };
  g_queue_push_tail_link (&l->reserves, &r->link);
  return true;
}

/* Its slab, which counts as lent now. */
static struct slab *
take_reserved (struct lender *l, struct lender_reserve *r)
{
  struct slab *slab = r->slab;

  g_queue_unlink (&l->reserves, &r->link);
  slab_pool_take_reserved (l->pool);
  r->slab = NULL;
  return slab;
}

void
lender_unreserve (struct lender *l, struct lender_reserve *r,
                  bool untouched)
{
  lender_give_back (l, take_reserved (l, r), untouched);
}

/* Is there no room to prepare one for whoever waits? */
static bool
is_full (const struct lender *l, const struct slab_pool_state *st)
{
  return st->ready + st->reserved + st->lent
    >= l->lending.bytes / l->config->slab_size_bytes;
}

enum lender_answer
lender_take (struct lender *l, struct lender_wait *w,
             struct lender_reserve *r, struct slab **slab,
             char *reason, size_t reason_size)
{
  struct slab_pool_state st;

  slab_pool_get_state (l->pool, &st);
  if (would_lend_slabs (l, &st) == 0) {
    explain_shortage (l, &st, reason, reason_size);
    return LENDER_REFUSED;
  }
  if (r->slab) {
    *slab = take_reserved (l, r);
    return LENDER_READY;
  }
  if (l->waiting.length == 0) {
    *slab = slab_pool_take (l->pool);
    if (*slab)
      return LENDER_READY;
  }
  w->link = (GList) { .data = w };
  g_queue_push_tail_link (&l->waiting, &w->link);
  if (is_full (l, &st))
    recall_oldest (l);
  slab_pool_set_demand (l->pool, l->waiting.length);
  return LENDER_WAIT;
}

void
lender_cancel (struct lender *l, struct lender_wait *w)
{
  g_queue_unlink (&l->waiting, &w->link);
  slab_pool_set_demand (l->pool, l->waiting.length);
}

void
lender_give_back (struct lender *l, struct slab *slab, bool untouched)
{
  slab_pool_give_back (l->pool, slab, untouched);
  /* An untouched one is ready at once, without a word of the thread. */
  wake_at (l->pool_source, 0);
}

uint64_t
lender_excess_slabs (struct lender *l)
{
  const uint64_t limit = l->limit_bytes / l->config->slab_size_bytes;
  struct slab_pool_state st;

  slab_pool_get_state (l->pool, &st);
  return st.lent > limit ? st.lent - limit : 0;
}

void
lender_get_memory (struct lender *l, struct lender_memory *ret)
{
  const uint64_t slab_bytes = l->config->slab_size_bytes;
  struct slab_pool_state st;

  slab_pool_get_state (l->pool, &st);
  *ret = (struct lender_memory) {
    .total_bytes = l->monitor.total_bytes,
    .available_bytes = l->monitor.available_bytes,
    .used_by_others_bytes = l->monitor.used_average_bytes,
    .headroom_bytes = l->config->headroom_bytes,
    .limit_bytes = l->limit_bytes,
    .held_bytes = st.resident_bytes,
    .lent_bytes = st.lent * slab_bytes,
    .would_lend_bytes = would_lend_slabs (l, &st) * slab_bytes,
    .slabs_ready = st.ready + st.reserved,
    .slabs_reserved = st.reserved,
    .slabs_lent = st.lent,
    .pressure_events = l->pressure_events,
  };
}
