#include <string.h>
#include <sys/random.h>

#include "conf/log.h"
#include "conf/metrics_server.h"
#include "conf/state_socket.h"
#include "conf/units.h"
#include "donor/demand.h"
#include "donor/evictor.h"
#include "donor/lender.h"
#include "donor/listeners.h"
#include "donor/metrics.h"
#include "donor/server.h"
#include "donor/session.h"
#include "donor/status.h"
#include "fabric/fabric.h"

enum { GREETING_MAX = 64 };      /* connections without a session */

struct server {
  struct session_home home;     /* first: cast to and fro */
  const struct donor_config *config;
  const struct memory_lock_result *lock;
  struct listeners *listeners;
  GPtrArray *sessions;          /* struct session *, oldest first */
  struct state_socket *state;
  struct metrics_server *metrics;
};

/* Sessions */

static struct session *
find_active (const struct server *server,
             bool (*matches) (const struct session_info *info,
                              const void *key),
             const void *key, struct session_info *info)
{
  unsigned i;

  for (i = 0; i < server->sessions->len; i++) {
    struct session *s = g_ptr_array_index (server->sessions, i);

    session_get_info (s, info);
    if (info->active && matches (info, key))
      return s;
  }
  return NULL;
}

static bool
has_id (const struct session_info *info, const void *key)
{
  return info->id == *(const uint64_t *) key;
}

static bool
has_device (const struct session_info *info, const void *key)
{
  return memcmp (info->device, key, sizeof info->device) == 0;
}

static unsigned
count_active (const struct server *server)
{
  struct session_info info;
  unsigned i, n = 0;

  for (i = 0; i < server->sessions->len; i++) {
    session_get_info (g_ptr_array_index (server->sessions, i), &info);
    n += info.active;
  }
  return n;
}

/* The one that has been without a session for longest, or NULL. */
static struct session *
oldest_greeting (const struct server *server)
{
  struct session_info info;
  unsigned i;

  for (i = 0; i < server->sessions->len; i++) {
    struct session *s = g_ptr_array_index (server->sessions, i);

    session_get_info (s, &info);
    if (!info.active)
      return s;
  }
  return NULL;
}

static bool
draw_id_and_token (const struct server *server, uint64_t *id,
                   uint64_t *token)
{
  struct session_info info;
  uint64_t random[2];

  do {
    if (getrandom (random, sizeof random, 0) != sizeof random)
      return false;
  } while (random[0] == 0
           || find_active (server, has_id, &random[0], &info));
  *id = random[0];
  *token = random[1];
  return true;
}

static bool
admit (struct session_home *home,
       const uint8_t device[MESSAGE_DEVICE_ID_SIZE],
       uint64_t hello, uint64_t *id, uint64_t *token,
       char reason[MESSAGE_TEXT_MAX])
{
  struct server *server = (struct server *) home;
  struct session_info info;
  struct session *earlier;

  if (home->shared.stopping) {
    g_strlcpy (reason, "the donor is stopping", MESSAGE_TEXT_MAX);
    return false;
  }
  earlier = find_active (server, has_device, device, &info);
  if (earlier && info.hello > hello) {
    /* It was held up on its way, and its sender has given it up. */
    g_strlcpy (reason, "the device has begun a newer session",
               MESSAGE_TEXT_MAX);
    return false;
  }
  if (earlier)
    session_end (earlier, "its device has begun a new one");
  if (count_active (server) >= home->shared.config->max_borrowers) {
    g_snprintf (reason, MESSAGE_TEXT_MAX,
                "too many borrowers, at most %llu (--max-borrowers)",
                (unsigned long long) home->shared.config->max_borrowers);
    return false;
  }
  if (!draw_id_and_token (server, id, token)) {
    g_strlcpy (reason, "no random numbers to be had", MESSAGE_TEXT_MAX);
    return false;
  }
  return true;
}

static void
ended (struct session_home *home, struct session *s)
{
  struct server *server = (struct server *) home;

  g_ptr_array_remove (server->sessions, s);
}

/* Connections */

/* A crowd that never says HELLO must not keep others out: the one that
 * has had the most time goes.
 */
static void
accept_control (struct server *server, struct fabric_request *request)
{
  const unsigned greeting = server->sessions->len - count_active (server);
  struct session *s;

  if (greeting >= GREETING_MAX)
    session_end (oldest_greeting (server),
                 "too many connections without HELLO");
  s = session_new (&server->home, request);
  if (s)
    g_ptr_array_add (server->sessions, s);
}

/* Without a branch or an early end that would tell how much was right. */
static bool
tokens_equal (uint64_t a, uint64_t b)
{
  return (a ^ b) == 0;
}

static void
accept_lane (struct server *server, struct fabric_request *request)
{
  const struct fabric_preface *preface = fabric_request_preface (request);
  struct session_info info;
  struct session *s;

  s = find_active (server, has_id, &preface->session, &info);
  if (s == NULL || !tokens_equal (info.token, preface->token)
      || info.fabric != request->ops) {
    log_limited (LOG_LEVEL_WARNING,
                 "peer %s: lane refused: it belongs to no session",
                 fabric_request_peer (request));
    fabric_request_reject (request);
    return;
  }
  session_add_lane (s, request);
}

static void
accept_one (struct fabric_request *request, void *data)
{
  switch (fabric_request_preface (request)->kind) {
  case FABRIC_CONTROL:
    accept_control (data, request);
    break;
  case FABRIC_LANE:
    accept_lane (data, request);
    break;
  default:
    fabric_request_reject (request);
  }
}

/* Beginning and end */

static void
say_lending (void *data)
{
  struct server *server = data;
  const struct donor_config *config = server->config;
  struct lender_memory memory;
  const char *fabrics[LISTENERS_MAX + 1];
  char text[UNITS_TEXT_MAX];

  lender_get_memory (server->home.shared.lender, &memory);
  listeners_fabrics (server->listeners, fabrics);
  log_notice ("lending on %s (%s%s%s), %llu slab%s of %s ready",
              listeners_text (server->listeners), fabrics[0] ?: "",
              fabrics[0] && fabrics[1] ? ", " : "",
              fabrics[0] && fabrics[1] ? fabrics[1] : "",
              (unsigned long long) memory.slabs_ready,
              memory.slabs_ready == 1 ? "" : "s",
              units_format_size (config->slab_size_bytes, text));
  service_ready ();
}

static void
evict_some (void *data)
{
  struct server *server = data;

  evictor_wake (server->home.shared.evictor);
}

static struct donor_status
status_of (const struct server *server)
{
  struct donor_status status = {
    .shared = &server->home.shared,
    .sessions = server->sessions,
    .listen = listeners_text (server->listeners),
    .lock = server->lock,
  };

  listeners_fabrics (server->listeners, status.fabrics);
  return status;
}

static JsonNode *
answer_state (const char *request, void *data)
{
  struct server *server = data;
  struct donor_status status;

  if (g_str_has_prefix (request, "evict "))
    return demand_answer (&server->home.shared,
                          request + strlen ("evict "));
  if (strcmp (request, "status") != 0)
    return NULL;
  status = status_of (server);
  return donor_status_new (&status);
}

static void
collect_metrics (struct exposition *e, void *data)
{
  const struct donor_status status = status_of (data);

  donor_metrics_report (e, &status);
}

static bool
serve_metrics (struct server *server, char **error)
{
  int r;

  if (server->metrics == NULL)
    return true;
  r = metrics_server_serve (server->metrics, server->home.shared.context,
                            collect_metrics, server);
  if (r < 0) {
    *error = g_strdup_printf ("cannot serve metrics: %s", strerror (-r));
    return false;
  }
  log_notice ("metrics on http://%s/metrics",
              metrics_server_address (server->metrics));
  return true;
}

/* Where others may look at it. */
static bool
bind_sockets (struct server *server, char **error)
{
  const struct donor_config *config = server->config;

  if (config->state_path) {
    server->state = state_socket_bind (config->state_path, error);
    if (server->state == NULL)
      return false;
  }
  if (config->metrics) {
    server->metrics = metrics_server_bind (config->metrics, error);
    if (server->metrics == NULL)
      return false;
  }
  return true;
}

static bool
start (struct server *server, char **error)
{
  struct donor_shared *shared = &server->home.shared;
  const struct lender_events events = { .settled = say_lending,
                                        .shortage = evict_some,
                                        .data = server };

  shared->eviction_durations = histogram_new ();
  if (shared->eviction_durations == NULL) {
    *error = g_strdup ("memory is short");
    return false;
  }
  if (!bind_sockets (server, error))
    return false;
  server->listeners = listeners_new (server->config, shared->context,
                                     accept_one, server, error);
  if (server->listeners == NULL)
    return false;
  shared->lender = lender_new (server->config, shared->context, &events,
                               error);
  if (shared->lender == NULL)
    return false;
  shared->evictor = evictor_new (shared, server->sessions);
  if (server->state)
    state_socket_serve (server->state, shared->context, answer_state, server);
  return serve_metrics (server, error);
}

struct server *
server_new (const struct donor_config *config,
            const struct memory_lock_result *lock,
            GMainContext *context, char **error)
{
  struct server *server = g_new0 (struct server, 1);

  server->home.shared.config = config;
  server->home.shared.context = context;
  server->home.admit = admit;
  server->home.ended = ended;
  server->config = config;
  server->lock = lock;
  server->sessions = g_ptr_array_new ();
  if (!start (server, error)) {
    server_free (server);
    return NULL;
  }
  return server;
}

void
server_describe (struct server *server, char text[SERVICE_TEXT_MAX])
{
  const struct donor_shared *shared = &server->home.shared;
  const unsigned borrowers = count_active (server);
  struct lender_memory memory;
  char slab[UNITS_TEXT_MAX], more[UNITS_TEXT_MAX];

  lender_get_memory (shared->lender, &memory);
  units_format_size (server->config->slab_size_bytes, slab);
  units_format_size (shared->stopping ? 0 : memory.would_lend_bytes, more);
  g_snprintf (text, SERVICE_TEXT_MAX,
              "%s%llu slab%s of %s lent to %u borrower%s, would lend %s more",
              shared->stopping ? "stopping; " : "",
              (unsigned long long) memory.slabs_lent,
              memory.slabs_lent == 1 ? "" : "s", slab,
              borrowers, borrowers == 1 ? "" : "s", more);
}

/* Until when the last borrower must have answered EVICT. */
static int64_t
longest_deadline_ns (const struct server *server)
{
  struct session_info info;
  int64_t longest_ns = 0;
  unsigned i;

  for (i = 0; i < server->sessions->len; i++) {
    session_get_info (g_ptr_array_index (server->sessions, i), &info);
    if (info.active && info.slabs > 0)
      longest_ns = MAX (longest_ns, info.deadline_ns);
  }
  return longest_ns;
}

void
server_stop (struct server *server, void (*stopped) (void *data), void *data)
{
  struct donor_shared *shared = &server->home.shared;
  struct lender_memory memory;

  lender_get_memory (shared->lender, &memory);
  if (memory.slabs_lent > 0)
    log_notice ("stopping: asking for %llu slab%s, for at most %.3gs",
                (unsigned long long) memory.slabs_lent,
                memory.slabs_lent == 1 ? "" : "s",
                longest_deadline_ns (server) / 1e9);
  else
    log_notice ("stopping: no slab is lent");
  service_stopping ();
  shared->stopping = true;
  lender_stop (shared->lender);
  evictor_take_all (shared->evictor, stopped, data);
}

void
server_free (struct server *server)
{
  if (server == NULL)
    return;
  state_socket_close (server->state);
  metrics_server_close (server->metrics);
  listeners_stop (server->listeners);
  while (server->sessions->len > 0)
    session_end (g_ptr_array_index (server->sessions, 0),
                 "the donor stops");
  listeners_free (server->listeners);
  evictor_free (server->home.shared.evictor);
  lender_free (server->home.shared.lender);
  histogram_free (server->home.shared.eviction_durations);
  g_ptr_array_unref (server->sessions);
  g_free (server);
}

const struct sockaddr *
server_address (const struct server *server, socklen_t *len)
{
  return listeners_address (server->listeners, len);
}
