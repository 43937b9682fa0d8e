#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "conf/log.h"
#include "conf/units.h"
#include "donor/evictor.h"
#include "donor/grants.h"
#include "donor/session.h"
#include "donor/wake.h"

enum {
  MESSAGES_A_TURN = 32,         /* then other sessions have theirs */
  LANES_MAX = 128,
};

static const int64_t millisecond_ns = 1000000;
static const int64_t second_ns = 1000000000;

enum session_state {
  SESSION_GREETING,             /* HELLO is awaited */
  SESSION_ACTIVE,
  SESSION_REFUSED,              /* lingers, so that the reason arrives */
};

struct session {
  struct session_home *home;
  enum session_state state;
  char peer[FABRIC_PEER_MAX];
  struct fabric_channel *channel;
  GSource *source;
  unsigned budget;              /* messages left of this turn */
  bool more;                    /* the turn ended before the messages did */
  char failure[128];            /* holds the text that functions return */
  int64_t expires_ns;           /* GREETING, REFUSED: it ends then */

  /* The rest is set from ACTIVE on. */
  uint8_t device[MESSAGE_DEVICE_ID_SIZE];
  uint64_t id, token;
  uint64_t hello;               /* HELLO's request id */
  int64_t started_ns;
  int64_t deadline_ns;
  int64_t heard_ns;
  int64_t pinged_ns;
  uint64_t pings, pongs;
  uint64_t questions;           /* ids of CHECK_ACTIVITY: from 1 to this */
  uint64_t answered;            /* the last of them with an answer */
  struct fabric_domain *domain;
  struct grants *grants;
  GPtrArray *lanes;             /* struct fabric_service * */
};

/* Functions that return a text return why the session must end, for
 * whoever can end it then, or NULL.
 */
static const char * __attribute__ ((format (printf, 2, 3)))
fail (struct session *s, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  vsnprintf (s->failure, sizeof s->failure, format, args);
  va_end (args);
  return s->failure;
}

/* The borrower breaks the protocol. */
static const char *
fail_bad (struct session *s, const char *what)
{
  s->home->shared.counters.messages_bad++;
  return fail (s, "%s", what);
}

static const char *
send_message (void *data, const struct message *m)
{
  struct session *s = data;
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int r;

  r = message_encode (m, buf, sizeof buf);
  if (r > 0)
    r = fabric_channel_send (s->channel, buf, r);
  if (r == -ENOBUFS)
    return fail (s, "it does not take its messages");
  if (r < 0)
    return fail (s, "cannot send %s: %s", message_name (m->type),
                 strerror (-r));
  return NULL;
}

static const char *
refuse (struct session *s, uint64_t request, const char *reason)
{
  struct message m = { .type = MESSAGE_REFUSED, .id = request };

  log_limited (LOG_LEVEL_WARNING, "peer %s: refused: %s", s->peer, reason);
  s->state = SESSION_REFUSED;
  s->expires_ns = fabric_now_ns () + second_ns;
  g_strlcpy (m.refused.reason, reason, sizeof m.refused.reason);
  return send_message (s, &m);
}

/* The header begins with magic and version in every version. */
static const char *
refuse_version (struct session *s, const uint8_t *buf, uint64_t request)
{
  char reason[MESSAGE_TEXT_MAX];

  snprintf (reason, sizeof reason,
            "protocol version %u, this donor speaks version %u",
            buf[4] << 8 | buf[5], (unsigned) MESSAGE_VERSION);
  return refuse (s, request, reason);
}

/* Says in reason what is wrong with it, if something is. */
static bool
check_hello (const struct donor_config *config, const struct message *m,
             char reason[MESSAGE_TEXT_MAX])
{
  char theirs[UNITS_TEXT_MAX], ours[UNITS_TEXT_MAX];

  if (m->hello.slab_size_bytes != config->slab_size_bytes
      && m->hello.slab_size_bytes != MESSAGE_ANY_SLAB_SIZE) {
    snprintf (reason, MESSAGE_TEXT_MAX, "slab size %s, this donor lends %s",
              units_format_size (m->hello.slab_size_bytes, theirs),
              units_format_size (config->slab_size_bytes, ours));
    return false;
  }
  if (m->hello.deadline_ns < (uint64_t) millisecond_ns
      || m->hello.deadline_ns > (uint64_t) (60 * second_ns)) {
    snprintf (reason, MESSAGE_TEXT_MAX,
              "deadline of %llu ns, allowed are 1ms to 60s",
              (unsigned long long) m->hello.deadline_ns);
    return false;
  }
  return true;
}

static void grants_failed (void *data, const char *reason);

static void
activate (struct session *s, const struct message *m)
{
  struct donor_shared *shared = &s->home->shared;
  const int64_t theirs_ns = m->hello.deadline_ns;

  memcpy (s->device, m->hello.device_id, sizeof s->device);
  s->hello = m->id;
  s->deadline_ns = MAX (shared->config->deadline_ns, theirs_ns + second_ns);
  s->started_ns = s->pinged_ns = fabric_now_ns ();
  s->lanes = g_ptr_array_new ();
  s->grants = grants_new (&(struct grants_session) {
      .shared = shared,
      .domain = s->domain,
      .deadline_ns = s->deadline_ns,
      .patience_ns = theirs_ns,
      .peer = s->peer,
      .data = s,
      .send = send_message,
      .failed = grants_failed,
    });
  s->state = SESSION_ACTIVE;
  shared->counters.sessions_started++;
  log_limited (LOG_LEVEL_NOTICE, "peer %s: session started (%s)", s->peer,
               s->channel->ops->name);
}

static const char *
handle_hello (struct session *s, const struct message *m)
{
  struct session_home *home = s->home;
  struct message answer = { .type = MESSAGE_WELCOME, .id = m->id };
  char reason[MESSAGE_TEXT_MAX];
  int r;

  if (!check_hello (home->shared.config, m, reason)
      || !home->admit (home, m->hello.device_id, m->id, &s->id, &s->token,
                       reason))
    return refuse (s, m->id, reason);
  r = fabric_domain_create (s->channel, &s->domain);
  if (r < 0) {
    snprintf (reason, sizeof reason, "cannot create a protection domain: %s",
              strerror (-r));
    return refuse (s, m->id, reason);
  }
  activate (s, m);
  answer.welcome.session = s->id;
  answer.welcome.token = s->token;
  answer.welcome.slab_size_bytes = home->shared.config->slab_size_bytes;
  answer.welcome.free_bytes = grants_would_lend_bytes (s->grants);
  return send_message (s, &answer);
}

static const char *
handle_query_mem (struct session *s, const struct message *m)
{
  struct message answer = { .type = MESSAGE_FREE_MEM, .id = m->id };
  struct lender_memory memory;

  lender_get_memory (s->home->shared.lender, &memory);
  answer.free_mem.free_bytes = grants_would_lend_bytes (s->grants);
  answer.free_mem.slabs_ready = memory.slabs_ready;
  answer.free_mem.slabs_lent = memory.slabs_lent;
  return send_message (s, &answer);
}

static const char *
handle_pong (struct session *s, const struct message *m)
{
  if (s->pongs == s->pings || m->id != s->pongs + 1)
    return fail_bad (s, "PONG without a PING");
  s->pongs++;
  return NULL;
}

/* An answer that comes twice, or after that to a later question, is of
 * no use any more.
 */
static const char *
handle_activity (struct session *s, const struct message *m)
{
  if (m->id == 0 || m->id > s->questions)
    return fail_bad (s, "ACTIVITY without a CHECK_ACTIVITY");
  if (m->id > s->answered) {
    s->answered = m->id;
    evictor_answer (s->home->shared.evictor, s->id, m);
  }
  return NULL;
}

static const char *
handle_active (struct session *s, const struct message *m)
{
  char what[64];

  switch (m->type) {
  case MESSAGE_QUERY_MEM:
    return handle_query_mem (s, m);
  case MESSAGE_MAP:
    /* Registering and revoking take long: others first. */
    s->budget = 0;
    return grants_map (s->grants, m);
  case MESSAGE_UNMAP:
    s->budget = 0;
    return grants_unmap (s->grants, m);
  case MESSAGE_DONE:
    s->budget = 0;
    return grants_done (s->grants, m);
  case MESSAGE_ACTIVITY:
    return handle_activity (s, m);
  case MESSAGE_PING:
    return send_message (s, &(struct message) { .type = MESSAGE_PONG,
                                                .id = m->id });
  case MESSAGE_PONG:
    return handle_pong (s, m);
  default:
    snprintf (what, sizeof what, "unexpected %s", message_name (m->type));
    return fail_bad (s, what);
  }
}

static const char *
handle_message (struct session *s, const uint8_t *buf, size_t len)
{
  struct message m;
  int r;

  if (s->state == SESSION_REFUSED)
    return "it goes on after REFUSED";
  r = message_decode (buf, len, &m);
  if (r == -EPROTONOSUPPORT && s->state == SESSION_GREETING)
    return refuse_version (s, buf, m.id);
  if (r < 0)
    return fail_bad (s, "malformed message");
  s->heard_ns = fabric_now_ns ();
  if (s->state == SESSION_ACTIVE)
    return handle_active (s, &m);
  if (m.type != MESSAGE_HELLO)
    return fail_bad (s, "its first message is not HELLO");
  return handle_hello (s, &m);
}

static const char *
receive (struct session *s)
{
  uint8_t buf[FABRIC_MESSAGE_MAX];
  const char *failure;
  int len;

  s->more = false;
  for (s->budget = MESSAGES_A_TURN; s->budget > 0; ) {
    s->budget--;
    len = fabric_channel_receive (s->channel, buf, sizeof buf);
    if (len == 0)
      return NULL;
    if (len == -EBADMSG)
      return fail_bad (s, "malformed message");
    if (len < 0)
      return fail (s, "%s", len == -ECONNRESET ? "the borrower has hung up"
                   : strerror (-len));
    failure = handle_message (s, buf, len);
    if (failure)
      return failure;
  }
  s->more = true;
  return NULL;
}

static const char *
ping_if_idle (struct session *s, int64_t now_ns, int64_t *next_ns)
{
  struct message m = { .type = MESSAGE_PING };
  const char *failure = NULL;

  if (now_ns - MAX (s->heard_ns, s->pinged_ns) >= s->deadline_ns / 4) {
    s->pinged_ns = now_ns;
    m.id = ++s->pings;
    failure = send_message (s, &m);
  }
  *next_ns = MIN (*next_ns,
                  MAX (s->heard_ns, s->pinged_ns) + s->deadline_ns / 4);
  return failure;
}

static const char *
run_active (struct session *s, int64_t now_ns)
{
  int64_t next_ns = s->heard_ns + s->deadline_ns;
  const char *failure;

  if (now_ns >= next_ns)
    return fail (s, "silent for %.3gs", s->deadline_ns / 1e9);
  failure = grants_run (s->grants, now_ns, &next_ns);
  if (failure == NULL)
    failure = ping_if_idle (s, now_ns, &next_ns);
  wake_at (s->source, s->more ? 0 : next_ns);
  return failure;
}

/* Do what time has come for. */
static const char *
run (struct session *s)
{
  const int64_t now_ns = fabric_now_ns ();

  if (s->state == SESSION_ACTIVE)
    return run_active (s, now_ns);
  wake_at (s->source, s->more ? 0 : s->expires_ns);
  if (now_ns < s->expires_ns)
    return NULL;
  return s->state == SESSION_GREETING ? "no HELLO in time" : "refused";
}

/* Timers come last: where the donor itself was late, what the borrower
 * sent in the meantime has been heard first.
 */
static gboolean
turn (gpointer data)
{
  struct session *s = data;
  const char *failure = receive (s);

  if (failure == NULL)
    failure = run (s);
  if (failure)
    session_end (s, failure);
  return G_SOURCE_CONTINUE;
}

struct session *
session_new (struct session_home *home, struct fabric_request *request)
{
  struct session *s = g_new0 (struct session, 1);
  int r;

  s->home = home;
  g_strlcpy (s->peer, fabric_request_peer (request), sizeof s->peer);
  r = fabric_channel_accept (request, &s->channel);
  if (r < 0) {
    log_limited (LOG_LEVEL_WARNING, "peer %s: cannot accept: %s", s->peer,
                 strerror (-r));
    g_free (s);
    return NULL;
  }
  s->expires_ns = fabric_now_ns () + 5 * second_ns;
  s->source = wake_new (home->shared.context, fabric_channel_fd (s->channel),
                        turn, s);
  /* A message may have come before the source. */
  wake_at (s->source, 0);
  return s;
}

void
session_add_lane (struct session *s, struct fabric_request *request)
{
  struct fabric_service *lane;
  int r;

  if (s->lanes->len >= LANES_MAX) {
    log_limited (LOG_LEVEL_WARNING, "peer %s: lane refused: there are %u",
                 s->peer, s->lanes->len);
    fabric_request_reject (request);
    return;
  }
  r = fabric_service_accept (request, s->domain, &lane);
  if (r < 0)
    log_limited (LOG_LEVEL_WARNING, "peer %s: cannot accept a lane: %s",
                 s->peer, strerror (-r));
  else
    g_ptr_array_add (s->lanes, lane);
}

size_t
session_list_grants (const struct session *s, uint64_t *ids)
{
  return grants_list (s->grants, ids);
}

bool
session_stands (const struct session *s, uint64_t grant)
{
  return grants_stands (s->grants, grant);
}

uint64_t
session_check_activity (struct session *s, const uint64_t *grants,
                        size_t count)
{
  struct message m = { .type = MESSAGE_CHECK_ACTIVITY,
                       .id = ++s->questions };
  const char *failure;

  m.grants.count = count;
  memcpy (m.grants.grants, grants, count * sizeof *grants);
  failure = send_message (s, &m);
  if (failure == NULL)
    return m.id;
  session_end (s, failure);
  return 0;
}

/* In a turn of the session's own, where EVICTs are sent together. */
void
session_evict (struct session *s, uint64_t grant)
{
  grants_evict (s->grants, grant);
  wake_at (s->source, 0);
}

/* All lanes end before any slab is given back: a WRITE still on its way
 * must not land on what comes there next.
 */
static void
take_everything_back (struct session *s)
{
  unsigned i;

  for (i = 0; i < s->lanes->len; i++)
    fabric_service_end (g_ptr_array_index (s->lanes, i));
  g_ptr_array_unref (s->lanes);
  grants_free (s->grants);
  fabric_domain_free (s->domain);
  s->home->shared.counters.sessions_ended++;
}

void
session_end (struct session *s, const char *reason)
{
  if (s->state != SESSION_REFUSED)
    log_limited (LOG_LEVEL_NOTICE, "peer %s: session ended: %s", s->peer,
                 reason);
  wake_free (s->source);
  if (s->state == SESSION_ACTIVE)
    take_everything_back (s);
  fabric_channel_close (s->channel);
  s->home->ended (s->home, s);
  g_free (s);
}

static void
grants_failed (void *data, const char *reason)
{
  session_end (data, reason);
}

void
session_get_info (const struct session *s, struct session_info *ret)
{
  *ret = (struct session_info) { .active = s->state == SESSION_ACTIVE };
  if (!ret->active)
    return;
  ret->id = s->id;
  ret->token = s->token;
  ret->hello = s->hello;
  memcpy (ret->device, s->device, sizeof ret->device);
  ret->peer = s->peer;
  ret->fabric = s->channel->ops;
  ret->lanes = s->lanes->len;
  ret->slabs = grants_count (s->grants);
  ret->going = grants_going (s->grants);
  ret->owes_activity = s->answered < s->questions;
  ret->started_ns = s->started_ns;
  ret->deadline_ns = s->deadline_ns;
}
