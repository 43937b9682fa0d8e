#include "nbdkit-plugin/mapper.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <glib-unix.h>

#include "conf/log.h"
#include "conf/metrics_server.h"
#include "conf/state_socket.h"
#include "nbdkit-plugin/copy_health.h"
#include "nbdkit-plugin/device.h"
#include "nbdkit-plugin/donor_source.h"
#include "nbdkit-plugin/helper_thread.h"
#include "nbdkit-plugin/homes.h"
#include "nbdkit-plugin/metrics.h"
#include "nbdkit-plugin/placing.h"
#include "nbdkit-plugin/registration.h"
#include "nbdkit-plugin/rescue.h"
#include "nbdkit-plugin/saver.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/status.h"

struct mapper {
  int wake_fd;
  struct mapper_params params;
  pthread_t thread;
  bool started;

  /* The rest belongs to the thread. */
  GMainContext *context;
  GMainLoop *loop;
  struct registrations registrations;
  struct session_params session_params;
  struct placing_params placing_params;
  struct donor_source *source;
  struct donor_pool *donors;
  struct placing **placings;    /* by slab; those being mapped */
  uint64_t place_next;          /* the slab to be looked at next, if hot, */
  uint64_t place_left;          /* and how many from there on */
  struct homes homes;
  struct saver *saver;
  struct rescues rescues;
  struct copy_health health;
};

struct mapper *
mapper_new (void)
{
  struct mapper *m = g_new0 (struct mapper, 1);

  m->wake_fd = eventfd (0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (m->wake_fd == -1) {
    g_free (m);
    return NULL;
  }
  return m;
}

void
mapper_wake (void *mapper)
{
  struct mapper *m = mapper;
  const uint64_t one = 1;

  /* It cannot fail but by overflow, and then it is awake anyway. */
  if (write (m->wake_fd, &one, sizeof one) == -1)
    return;
}

static struct slab_table *
slabs (const struct mapper *m)
{
  return m->params.device->slabs;
}

/* ---- placing ---- */

static void place_more (struct mapper *m);

static void
settle_placed (struct mapper *m, uint64_t slab, struct donor *donor,
               const struct slab_home *home)
{
  if (rescues_placed (&m->rescues, slab, donor, home))
    mapper_wake (m);            /* it may leave now */
  else if (home)
    homes_enter (&m->homes, slab, donor, home);
  else
    slab_table_abandon_mapping (slabs (m), slab);
}

static void
on_placed (void *data, uint64_t slab, struct donor *donor,
           const struct slab_home *home)
{
  struct mapper *m = data;

  m->placings[slab] = NULL;
  settle_placed (m, slab, donor, home);
  place_more (m);
}

static bool
place (struct mapper *m, uint64_t slab, const struct donor *avoid,
       bool urgent)
{
  m->placings[slab] = placing_start (&m->placing_params, slab, avoid, urgent);
  return m->placings[slab] != NULL;
}

/* A slab that has to leave its donor. */
static bool
place_rescued (void *data, uint64_t slab, const struct donor *avoid)
{
  return place (data, slab, avoid, true);
}

/* False if no donor can be asked now. */
static bool
place_if_hot (struct mapper *m, uint64_t slab)
{
  const struct home *home = &m->homes.of[slab];

  if (home->donor || m->placings[slab] ||
      !slab_table_is_hot (slabs (m), slab))
    return true;
  if (!place (m, slab, home->evicted_by, false))
    return false;
  slab_table_begin_mapping (slabs (m), slab);
  return true;
}

/* As many of what is left as donors can be asked for now. */
static void
place_more (struct mapper *m)
{
  while (m->place_left > 0 && place_if_hot (m, m->place_next)) {
    m->place_next = (m->place_next + 1) % slab_table_slabs (slabs (m));
    m->place_left--;
  }
}

/* Look at each slab, once: what no donor takes now is tried again at
 * another event.
 */
static void
place_hot (struct mapper *m)
{
  m->place_left = slab_table_slabs (slabs (m));
  place_more (m);
}

/* ---- letting go ---- */

static void
on_ended (void *data, struct donor *d)
{
  struct mapper *m = data;

  for (uint64_t i = 0; i < slab_table_slabs (slabs (m)); i++)
    if (m->placings[i])
      placing_donor_ended (m->placings[i], d);
  homes_leave_all (&m->homes, d);
  homes_forget (&m->homes, d);
  donor_note_loss (d);
}

/* What nobody uses any more goes; a session that has ended, when nothing
 * of it is left.
 */
static void
let_go (struct mapper *m)
{
  GPtrArray *donors = m->donors->donors;

  homes_settle (&m->homes);
  donor_pool_dismiss (m->donors);
  /* From the end, since a donor that is leaving is removed. */
  for (guint i = donors->len; i-- > 0; ) {
    struct donor *d = donors->pdata[i];
    if (d->state == DONOR_ENDED && d->slabs == 0)
      donor_pool_let_go (d);
  }
}

/* Memory that another borrower has more use for. */
static void
return_idle (struct mapper *m)
{
  for (uint64_t i = 0; i < slab_table_slabs (slabs (m)); i++)
    if (m->homes.of[i].donor && m->homes.of[i].exit == HOME_STAYS &&
        slab_table_is_idle (slabs (m), i))
      homes_leave_saved (&m->homes, i, HOME_RETURNED, 0);
  let_go (m);
}

/* ---- what donors ask ---- */

static void
answer_activity (struct mapper *m, struct donor *d,
                 const struct message *question)
{
  struct message answer = {
    .type = MESSAGE_ACTIVITY, .id = question->id,
    .activity = { .count = question->grants.count },
  };
  uint64_t slab;

  for (uint32_t i = 0; i < question->grants.count; i++) {
    const uint64_t grant = question->grants.grants[i];

    answer.activity.of[i].grant = grant;
    if (homes_find (&m->homes, d, grant, &slab))
      answer.activity.of[i].activity_milli =
        slab_table_activity (slabs (m), slab) * 1000;
  }
  session_answer (d->session, &answer);
}

/* One that is not in use (any more, or not yet) is done with at once. */
static void
evict_one (struct mapper *m, struct donor *d, uint64_t grant,
           uint64_t request)
{
  uint64_t slab;

  if (homes_find (&m->homes, d, grant, &slab)) {
    rescues_evict (&m->rescues, slab, request);
    return;
  }
  if (rescues_evict_next (&m->rescues, d, grant, request))
    return;
  for (uint64_t i = 0; i < slab_table_slabs (slabs (m)); i++)
    if (m->placings[i] && placing_evicted (m->placings[i], d, grant))
      break;
  homes_say_done (d, grant, request);
}

static void
evict (struct mapper *m, struct donor *d, const struct message *msg)
{
  for (uint32_t i = 0; i < msg->grants.count; i++)
    evict_one (m, d, msg->grants.grants[i], msg->id);
  let_go (m);
  place_hot (m);
}

/* ---- events ---- */

static void
on_connected (void *data, struct donor *d)
{
  struct mapper *m = data;

  (void) d;
  place_hot (m);
  rescues_drain (&m->rescues, true);
}

static void
on_message (void *data, struct donor *d, const struct message *msg)
{
  struct mapper *m = data;

  for (uint64_t i = 0; i < slab_table_slabs (slabs (m)); i++)
    if (m->placings[i] && placing_message (m->placings[i], d, msg))
      return;
  switch (msg->type) {
  case MESSAGE_MR_INFO:         /* nobody waits for it any more */
    homes_say_unmap (d, msg->mr_info.grant);
    break;
  case MESSAGE_CHECK_ACTIVITY:
    answer_activity (m, d, msg);
    break;
  case MESSAGE_EVICT:
    evict (m, d, msg);
    break;
  case MESSAGE_FREE_MEM:        /* late answers */
  case MESSAGE_REFUSED:
  case MESSAGE_DONE:
    break;
  default:
    session_end (d->session, -EPROTO);
  }
}

static void
on_lanes_ready (void *data, struct donor *d)
{
  struct mapper *m = data;

  for (uint64_t i = 0; i < slab_table_slabs (slabs (m)); i++)
    if (m->placings[i])
      placing_lanes_ready (m->placings[i], d);
}

static const struct donor_pool_events donor_events = {
  .connected = on_connected, .message = on_message,
  .lanes_ready = on_lanes_ready, .ended = on_ended,
};

static gboolean
on_wake (gint fd, GIOCondition condition, gpointer data)
{
  struct mapper *m = data;
  uint64_t n;

  (void) condition;
  if (read (fd, &n, sizeof n) == -1)
    return G_SOURCE_CONTINUE;
  donor_pool_check (m->donors);
  rescues_check (&m->rescues);
  rescues_drain (&m->rescues, false);
  let_go (m);
  place_hot (m);
  return G_SOURCE_CONTINUE;
}

/* Slabs of a donor that is not listed any more begin to leave. */
static void
on_donors (void *data, GPtrArray *addresses)
{
  struct mapper *m = data;

  donor_pool_set (m->donors, addresses);
  mapper_wake (m);
}

static gboolean
on_tick (gpointer data)
{
  struct mapper *m = data;

  slab_table_tick (slabs (m));
  rescues_drain (&m->rescues, true);
  return_idle (m);
  if (slab_table_remote_only (slabs (m)) > 0)
    saver_save_all (m->saver);
  place_hot (m);
  copy_health_check (&m->health, m->params.device);
  return G_SOURCE_CONTINUE;
}

static JsonNode *
on_request (const char *request, void *data)
{
  struct mapper *m = data;

  if (strcmp (request, "status") != 0)
    return NULL;
  return status_report (&m->params, m->session_params.device_id, m->source,
                        m->donors, &m->homes);
}

static void
collect_metrics (struct exposition *e, void *data)
{
  struct mapper *m = data;

  metrics_report (e, &m->params, m->donors, &m->homes);
}

/* The device is worth more than what is seen of it. */
static void
serve_metrics (struct mapper *m)
{
  int r;

  if (!m->params.metrics)
    return;
  r = metrics_server_serve (m->params.metrics, m->context, collect_metrics,
                            m);
  if (r < 0)
    log_error ("cannot serve metrics: %s", strerror (-r));
  else
    log_notice ("metrics on http://%s/metrics",
                metrics_server_address (m->params.metrics));
}

/* ---- the thread ---- */

static void
add_source (struct mapper *m, GSource *source, GSourceFunc f)
{
  g_source_set_callback (source, f, m, NULL);
  g_source_attach (source, m->context);
  g_source_unref (source);
}

static void
end_sessions (struct mapper *m)
{
  GPtrArray *donors = m->donors->donors;

  for (guint i = 0; i < donors->len; i++) {
    struct donor *d = donors->pdata[i];
    if (d->session)
      session_end (d->session, -ECANCELED);
  }
  for (uint64_t i = 0; i < slab_table_slabs (slabs (m)); i++)
    if (m->placings[i])
      placing_free (m->placings[i]);
}

static void *
run_mapper (void *data)
{
  struct mapper *m = data;

  g_main_context_push_thread_default (m->context);
  m->donors = donor_pool_new (&m->session_params, m->params.fabric,
                              &donor_events, m);
  m->placing_params.donors = m->donors;
  add_source (m, g_unix_fd_source_new (m->wake_fd, G_IO_IN),
              G_SOURCE_FUNC (on_wake));
  add_source (m, g_timeout_source_new (1000), on_tick);
  if (m->params.state)
    state_socket_serve (m->params.state, m->context, on_request, m);
  m->source = donor_source_new (&(struct donor_source_params) {
      .context = m->context, .list = m->params.donors,
      .file = m->params.donors_file,
      .resolve_interval_ns = m->params.resolve_interval_ns,
      .changed = on_donors, .data = m,
    });
  serve_metrics (m);

  g_main_loop_run (m->loop);

  donor_source_free (m->source);
  saver_free (m->saver);
  end_sessions (m);
  donor_pool_free (m->donors);
  g_main_context_pop_thread_default (m->context);
  return NULL;
}

/* Of a slab a donor may be asked for memory, or for a grant, and be told
 * that one is given up and another done with; the rest is for what is not
 * of a slab.
 */
static size_t
messages_max (const struct mapper *m)
{
  return 4 * slab_table_slabs (slabs (m)) + 64;
}

static void
set_up (struct mapper *m)
{
  const struct device *d = m->params.device;
  const struct device_params *p = &d->params;

  m->context = g_main_context_new ();
  m->loop = g_main_loop_new (m->context, FALSE);
  m->placings = g_new0 (struct placing *, slab_table_slabs (slabs (m)));
  homes_init (&m->homes, slabs (m));
  registrations_init (&m->registrations, d->arena, d->arena_bytes);
  m->session_params = (struct session_params) {
    .context = m->context, .registrations = &m->registrations,
    .slab_size_bytes = p->slab_size_bytes, .deadline_ns = p->deadline_ns,
    .lanes = device_queues (d), .messages_max = messages_max (m),
    .wake = mapper_wake, .wake_data = m,
  };
  m->placing_params = (struct placing_params) {
    .context = m->context, .probes = m->params.probes,
    .max_slabs_per_donor = m->params.max_slabs_per_donor,
    .slab_size_bytes = p->slab_size_bytes, .deadline_ns = p->deadline_ns,
    .done = on_placed, .data = m,
  };
}

int
mapper_start (struct mapper *m, const struct mapper_params *params)
{
  int r;

  m->params = *params;
  set_up (m);
  if (getrandom (m->session_params.device_id, MESSAGE_DEVICE_ID_SIZE, 0) == -1)
    return -errno;
  m->saver = saver_start (m->params.device, mapper_wake, m);
  if (!m->saver)
    return -errno;
  rescues_init (&m->rescues, &m->homes, m->saver,
                m->session_params.deadline_ns, place_rescued, m);
  r = helper_thread_start (&m->thread, 0, run_mapper, m);
  m->started = r == 0;
  if (!m->started)
    saver_free (m->saver);
  return r;
}

static gboolean
on_quit (gpointer data)
{
  struct mapper *m = data;

  g_main_loop_quit (m->loop);
  return G_SOURCE_REMOVE;
}

static void
stop_thread (struct mapper *m)
{
  GSource *quit;

  if (!m->started)
    return;
  /* As a source, so that it also ends a loop that has not yet begun; and
   * not behind donors that always have something to say.
   */
  quit = g_idle_source_new ();
  g_source_set_priority (quit, G_PRIORITY_DEFAULT);
  add_source (m, quit, on_quit);
  pthread_join (m->thread, NULL);
  registrations_free (&m->registrations);
}

void
mapper_free (struct mapper *m)
{
  if (!m)
    return;
  stop_thread (m);
  if (m->context) {
    state_socket_close (m->params.state);
    metrics_server_close (m->params.metrics);
    g_main_loop_unref (m->loop);
    g_main_context_unref (m->context);
    g_free (m->placings);
    rescues_free (&m->rescues);
    homes_free (&m->homes);
  }
  close (m->wake_fd);
  g_free (m);
}
