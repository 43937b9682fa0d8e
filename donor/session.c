#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "conf/units.h"
#include "donor/log.h"
#include "donor/session.h"
#include "donor/wake.h"

enum {
  MESSAGES_A_TURN = 32,         /* then other sessions have theirs */
  PARKED_MAX = 64,
  LANES_MAX = 64,
};

static const int64_t millisecond_ns = 1000000;
static const int64_t second_ns = 1000000000;

enum session_state {
  SESSION_GREETING,             /* HELLO is awaited */
  SESSION_ACTIVE,
  SESSION_REFUSED,              /* lingers, so that the reason arrives */
};

struct grant {
  uint64_t id;
  uint64_t slab_index;          /* the borrower's name for it */
  struct slab *slab;
  struct fabric_region *region;

  bool unmapping;               /* on session.unmapping: */
  uint64_t request;             /* UNMAP's, to be answered */
  int64_t give_up_ns;
};

/* A MAP that waits for a slab. */
struct parked {
  struct lender_wait wait;      /* first: cast to and fro */
  struct session *session;
  uint64_t request;
  uint64_t slab_index;
  int64_t expires_ns;
};

struct session {
  struct session_home *home;
  enum session_state state;
  char peer[FABRIC_PEER_MAX];
  struct fabric_channel *channel;
  GSource *source;
  int64_t expires_ns;           /* GREETING, REFUSED: it ends then */

  /* The rest is set from ACTIVE on. */
  uint8_t device[MESSAGE_DEVICE_ID_SIZE];
  uint64_t id, token;
  int64_t started_ns;
  int64_t deadline_ns;
  int64_t heard_ns;
  int64_t pinged_ns;
  uint64_t pings, pongs;
  struct fabric_domain *domain;
  GPtrArray *lanes;             /* struct fabric_service * */
  GHashTable *grants;           /* &grant->id -> struct grant * */
  GHashTable *mapped;           /* &slab_index -> its grant or parked */
  GQueue parked;                /* struct parked *, next to expire first */
  GQueue unmapping;             /* struct grant *, also in grants */

  unsigned budget;              /* messages left of this turn */
  bool more;                    /* the turn ended before the messages did */
  char failure[128];            /* why it must end */
};

/* Notes why the session must end, for whoever can end it now. */
static int __attribute__ ((format (printf, 2, 3)))
fail (struct session *s, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  vsnprintf (s->failure, sizeof s->failure, format, args);
  va_end (args);
  return -EPROTO;
}

static int
fail_bad (struct session *s, const char *what)
{
  s->home->counters.messages_bad++;
  return fail (s, "%s", what);
}

static int
send_message (struct session *s, const struct message *m)
{
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int len, r;

  len = message_encode (m, buf, sizeof buf);
  if (len < 0)
    return fail (s, "cannot encode %s", message_name (m->type));
  r = fabric_channel_send (s->channel, buf, len);
  if (r == -ENOBUFS)
    return fail (s, "it does not take its messages");
  if (r < 0)
    return fail (s, "sending %s: %s", message_name (m->type),
                 strerror (-r));
  return 0;
}

static int
send_refused (struct session *s, uint64_t request, const char *reason)
{
  struct message m = { .type = MESSAGE_REFUSED, .id = request };

  g_strlcpy (m.refused.reason, reason, sizeof m.refused.reason);
  return send_message (s, &m);
}

/* HELLO */

static int
refuse_hello (struct session *s, uint64_t request, const char *reason)
{
  donor_log ("peer %s: refused: %s", s->peer, reason);
  s->state = SESSION_REFUSED;
  s->expires_ns = fabric_now_ns () + second_ns;
  return send_refused (s, request, reason);
}

/* The header begins with magic and version in every version. */
static int
refuse_version (struct session *s, const uint8_t *buf, uint64_t request)
{
  char reason[MESSAGE_TEXT_MAX];

  snprintf (reason, sizeof reason,
            "protocol version %u, this donor speaks version %u",
            buf[4] << 8 | buf[5], (unsigned) MESSAGE_VERSION);
  return refuse_hello (s, request, reason);
}

/* Says in reason what is wrong with it, if something is. */
static bool
check_hello (const struct donor_config *config, const struct message *m,
             char reason[MESSAGE_TEXT_MAX])
{
  char theirs[UNITS_TEXT_MAX], ours[UNITS_TEXT_MAX];

  if (m->hello.slab_size_bytes != config->slab_size_bytes) {
    snprintf (reason, MESSAGE_TEXT_MAX,
              "slab size %s, this donor lends %s",
              units_format_size (m->hello.slab_size_bytes, theirs),
              units_format_size (config->slab_size_bytes, ours));
    return false;
  }
  if (m->hello.deadline_ns < (uint64_t) millisecond_ns
      || m->hello.deadline_ns > (uint64_t) (60 * second_ns)) {
    snprintf (reason, MESSAGE_TEXT_MAX,
              "deadline %llu ns, allowed are 1ms to 60s",
              (unsigned long long) m->hello.deadline_ns);
    return false;
  }
  return true;
}

static uint64_t
would_lend_bytes (const struct session *s)
{
  const uint64_t slab_bytes = s->home->config->slab_size_bytes;
  const uint64_t most = s->home->config->max_per_borrower_bytes / slab_bytes;
  const uint64_t has = g_hash_table_size (s->mapped);
  const uint64_t left = most > has ? most - has : 0;
  const uint64_t all = lender_would_lend_bytes (s->home->lender);

  return left < all / slab_bytes ? left * slab_bytes : all;
}

static void
activate (struct session *s, const struct message *m)
{
  const int64_t theirs_ns = m->hello.deadline_ns;

  memcpy (s->device, m->hello.device_id, sizeof s->device);
  s->deadline_ns = MAX (s->home->config->deadline_ns, theirs_ns + second_ns);
  s->started_ns = s->pinged_ns = fabric_now_ns ();
  s->lanes = g_ptr_array_new ();
  s->grants = g_hash_table_new_full (g_int64_hash, g_int64_equal, NULL, NULL);
  s->mapped = g_hash_table_new (g_int64_hash, g_int64_equal);
  s->state = SESSION_ACTIVE;
  s->home->counters.sessions_started++;
}

static int
handle_hello (struct session *s, const struct message *m)
{
  struct session_home *home = s->home;
  struct message answer = { .type = MESSAGE_WELCOME, .id = m->id };
  char reason[MESSAGE_TEXT_MAX];
  int r;

  if (!check_hello (home->config, m, reason)
      || !home->admit (home, m->hello.device_id, &s->id, &s->token, reason))
    return refuse_hello (s, m->id, reason);
  r = fabric_domain_create (s->channel, &s->domain);
  if (r < 0) {
    snprintf (reason, sizeof reason, "cannot create a protection domain: %s",
              strerror (-r));
    return refuse_hello (s, m->id, reason);
  }
  activate (s, m);
  donor_log ("peer %s: session started (%s)", s->peer,
             s->channel->ops->name);
  answer.welcome.session = s->id;
  answer.welcome.token = s->token;
  answer.welcome.slab_size_bytes = home->config->slab_size_bytes;
  answer.welcome.free_bytes = would_lend_bytes (s);
  return send_message (s, &answer);
}

/* MAP */

static int
refuse_map (struct session *s, uint64_t request, const char *reason)
{
  s->home->counters.maps_refused++;
  return send_refused (s, request, reason);
}

static int
answer_map (struct session *s, uint64_t request, const struct grant *grant)
{
  struct message m = { .type = MESSAGE_MR_INFO, .id = request };

  s->home->counters.maps++;
  m.mr_info.grant = grant->id;
  m.mr_info.address = fabric_region_address (grant->region);
  m.mr_info.key = fabric_region_key (grant->region);
  m.mr_info.length_bytes = grant->slab->bytes;
  return send_message (s, &m);
}

static int
grant_slab (struct session *s, uint64_t request, uint64_t slab_index,
            struct slab *slab)
{
  char reason[MESSAGE_TEXT_MAX];
  struct fabric_region *region;
  struct grant *grant;
  int r;

  r = fabric_region_add (s->domain, slab->memory, slab->bytes, true, &region);
  if (r < 0) {
    lender_give_back (s->home->lender, slab, true);
    snprintf (reason, sizeof reason, "cannot register the slab: %s%s",
              strerror (-r), r == -ENOMEM ?
              " (the locked memory limit, ulimit -l, may be too low)" : "");
    donor_log ("peer %s: MAP refused: %s", s->peer, reason);
    return refuse_map (s, request, reason);
  }
  grant = g_new (struct grant, 1);
  *grant = (struct grant) {
    .id = ++s->home->last_grant,
    .slab_index = slab_index,
    .slab = slab,
    .region = region,
  };
  g_hash_table_insert (s->grants, &grant->id, grant);
  g_hash_table_insert (s->mapped, &grant->slab_index, grant);
  return answer_map (s, request, grant);
}

/* The lender's answer to a parked MAP. */
static void
deliver_parked (struct lender_wait *w, struct slab *slab, const char *reason)
{
  struct parked *p = (struct parked *) w;
  struct session *s = p->session;
  int r;

  g_queue_remove (&s->parked, p);
  g_hash_table_remove (s->mapped, &p->slab_index);
  if (slab)
    r = grant_slab (s, p->request, p->slab_index, slab);
  else
    r = refuse_map (s, p->request, reason);
  g_free (p);
  if (r < 0)
    session_end (s, s->failure);
}

static struct parked *
new_parked (struct session *s, const struct message *m)
{
  struct parked *p = g_new0 (struct parked, 1);

  p->wait.deliver = deliver_parked;
  p->session = s;
  p->request = m->id;
  p->slab_index = m->map.slab;
  p->expires_ns = fabric_now_ns () + s->deadline_ns / 2;
  return p;
}

static int
take_slab (struct session *s, const struct message *m)
{
  struct parked *p = new_parked (s, m);
  char reason[MESSAGE_TEXT_MAX];
  struct slab *slab;
  int r;

  switch (lender_take (s->home->lender, &p->wait, &slab,
                       reason, sizeof reason)) {
  case LENDER_WAIT:
    g_queue_push_tail (&s->parked, p);
    g_hash_table_insert (s->mapped, &p->slab_index, p);
    return 0;
  case LENDER_READY:
    /* Registering takes long, so that others are to have their turn. */
    s->budget = 0;
    r = grant_slab (s, m->id, m->map.slab, slab);
    break;
  default:
    r = refuse_map (s, m->id, reason);
  }
  g_free (p);
  return r;
}

static int
handle_map (struct session *s, const struct message *m)
{
  const struct donor_config *config = s->home->config;
  const uint64_t most = config->max_per_borrower_bytes
    / config->slab_size_bytes;
  char reason[MESSAGE_TEXT_MAX], text[UNITS_TEXT_MAX];

  if (g_hash_table_contains (s->mapped, &m->map.slab))
    return refuse_map (s, m->id, "this slab is mapped already");
  if (s->parked.length >= PARKED_MAX)
    return refuse_map (s, m->id, "too many MAPs wait already");
  if (g_hash_table_size (s->mapped) >= most) {
    snprintf (reason, sizeof reason, "at most %s for one borrower",
              units_format_size (config->max_per_borrower_bytes, text));
    return refuse_map (s, m->id, reason);
  }
  return take_slab (s, m);
}

/* The other messages */

static int
answer_unmap (struct session *s, uint64_t request, uint64_t grant)
{
  struct message m = { .type = MESSAGE_DONE, .id = request };

  m.done.grant = grant;
  return send_message (s, &m);
}

static int
finish_unmap (struct session *s, struct grant *grant)
{
  const uint64_t request = grant->request, id = grant->id;

  g_queue_remove (&s->unmapping, grant);
  g_hash_table_remove (s->grants, &grant->id);
  g_hash_table_remove (s->mapped, &grant->slab_index);
  lender_give_back (s->home->lender, grant->slab, false);
  g_free (grant);
  s->home->counters.unmaps++;
  return answer_unmap (s, request, id);
}

/* A thread of the fabric may still be on its way out of an access that
 * the borrower has seen complete, so an access inside is not yet wrong.
 */
static int
try_unmaps (struct session *s)
{
  const int64_t now_ns = fabric_now_ns ();
  GList *link, *next;
  int r = 0;

  for (link = s->unmapping.head; r == 0 && link; link = next) {
    struct grant *grant = link->data;

    next = link->next;
    r = fabric_region_remove (grant->region);
    if (r == 0)
      r = finish_unmap (s, grant);
    else if (r == -EBUSY && now_ns < grant->give_up_ns)
      r = 0;
    else
      r = fail_bad (s, r == -EBUSY ? "UNMAP of a slab that it accesses"
                    : "UNMAP: the slab cannot be revoked");
  }
  return r;
}

static int
handle_unmap (struct session *s, const struct message *m)
{
  struct grant *grant = g_hash_table_lookup (s->grants, &m->unmap.grant);

  if (grant == NULL)
    return answer_unmap (s, m->id, m->unmap.grant);
  if (grant->unmapping)
    return fail_bad (s, "UNMAP twice");
  s->budget = 0;
  grant->unmapping = true;
  grant->request = m->id;
  grant->give_up_ns = fabric_now_ns () + s->deadline_ns / 4;
  g_queue_push_tail (&s->unmapping, grant);
  return try_unmaps (s);
}

static int
handle_query_mem (struct session *s, const struct message *m)
{
  struct message answer = { .type = MESSAGE_FREE_MEM, .id = m->id };
  struct lender_memory memory;

  lender_get_memory (s->home->lender, &memory);
  answer.free_mem.free_bytes = would_lend_bytes (s);
  answer.free_mem.slabs_ready = memory.slabs_ready;
  answer.free_mem.slabs_lent = memory.slabs_lent;
  return send_message (s, &answer);
}

static int
handle_ping (struct session *s, const struct message *m)
{
  const struct message answer = { .type = MESSAGE_PONG, .id = m->id };

  return send_message (s, &answer);
}

static int
handle_pong (struct session *s, const struct message *m)
{
  if (s->pongs == s->pings || m->id != s->pongs + 1)
    return fail_bad (s, "PONG without a PING");
  s->pongs++;
  return 0;
}

static int
handle_active (struct session *s, const struct message *m)
{
  char what[64];

  switch (m->type) {
  case MESSAGE_QUERY_MEM:
    return handle_query_mem (s, m);
  case MESSAGE_MAP:
    return handle_map (s, m);
  case MESSAGE_UNMAP:
    return handle_unmap (s, m);
  case MESSAGE_PING:
    return handle_ping (s, m);
  case MESSAGE_PONG:
    return handle_pong (s, m);
  default:
    snprintf (what, sizeof what, "unexpected %s", message_name (m->type));
    return fail_bad (s, what);
  }
}

static int
handle_message (struct session *s, const uint8_t *buf, size_t len)
{
  struct message m;
  int r;

  if (s->state == SESSION_REFUSED)
    return fail (s, "it goes on after REFUSED");
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

/* Receiving, timers */

static int
receive (struct session *s)
{
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int len, r;

  s->budget = MESSAGES_A_TURN;
  s->more = false;
  while (s->budget > 0) {
    s->budget--;
    len = fabric_channel_receive (s->channel, buf, sizeof buf);
    if (len == -EBADMSG)
      return fail_bad (s, "malformed message");
    if (len < 0)
      return fail (s, "%s", len == -EPIPE || len == -ECONNRESET
                   ? "closed by the borrower" : strerror (-len));
    if (len == 0)
      return 0;
    r = handle_message (s, buf, len);
    if (r < 0)
      return r;
  }
  s->more = true;
  return 0;
}

static int
expire_parked (struct session *s, int64_t now_ns)
{
  struct parked *p;
  uint64_t request;
  int r = 0;

  while (r == 0 && (p = g_queue_peek_head (&s->parked))
         && p->expires_ns <= now_ns) {
    lender_cancel (s->home->lender, &p->wait);
    g_queue_pop_head (&s->parked);
    g_hash_table_remove (s->mapped, &p->slab_index);
    request = p->request;
    g_free (p);
    r = refuse_map (s, request, "no slab ready in time");
  }
  return r;
}

static int
ping_if_idle (struct session *s, int64_t now_ns)
{
  struct message m = { .type = MESSAGE_PING };

  if (now_ns - MAX (s->heard_ns, s->pinged_ns) < s->deadline_ns / 4)
    return 0;
  s->pinged_ns = now_ns;
  m.id = ++s->pings;
  return send_message (s, &m);
}

static int
run_timers (struct session *s)
{
  const int64_t now_ns = fabric_now_ns ();
  const struct parked *p;
  int64_t next_ns;
  int r;

  if (s->state != SESSION_ACTIVE) {
    wake_at (s->source, s->expires_ns);
    if (now_ns < s->expires_ns)
      return 0;
    return fail (s, s->state == SESSION_GREETING ? "no HELLO in time"
                 : "refused");
  }
  if (now_ns - s->heard_ns >= s->deadline_ns)
    return fail (s, "silent for %.3gs", s->deadline_ns / 1e9);
  r = expire_parked (s, now_ns);
  if (r == 0)
    r = try_unmaps (s);
  if (r == 0)
    r = ping_if_idle (s, now_ns);
  if (r < 0)
    return r;

  next_ns = MIN (s->heard_ns + s->deadline_ns,
                 MAX (s->heard_ns, s->pinged_ns) + s->deadline_ns / 4);
  p = g_queue_peek_head (&s->parked);
  if (p)
    next_ns = MIN (next_ns, p->expires_ns);
  if (s->unmapping.length > 0)
    next_ns = MIN (next_ns, now_ns + millisecond_ns);
  wake_at (s->source, next_ns);
  return 0;
}

/* The timers come last: where the donor itself was late, what the peer
 * sent in the meantime has been heard first.
 */
static gboolean
turn (gpointer data)
{
  struct session *s = data;
  int r = receive (s);

  if (r == 0)
    r = run_timers (s);
  if (r < 0)
    session_end (s, s->failure);
  else if (s->more)
    wake_at (s->source, 0);
  return G_SOURCE_CONTINUE;
}

/* Beginning and end */

struct session *
session_new (struct session_home *home, struct fabric_request *request)
{
  struct session *s = g_new0 (struct session, 1);
  int r;

  s->home = home;
  g_strlcpy (s->peer, fabric_request_peer (request), sizeof s->peer);
  g_queue_init (&s->parked);
  g_queue_init (&s->unmapping);
  r = fabric_channel_accept (request, &s->channel);
  if (r < 0) {
    donor_log ("peer %s: cannot accept: %s", s->peer, strerror (-r));
    g_free (s);
    return NULL;
  }
  s->expires_ns = fabric_now_ns () + 5 * second_ns;
  s->source = wake_new (home->context, fabric_channel_fd (s->channel),
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
    donor_log ("peer %s: lane refused: there are %u", s->peer, s->lanes->len);
    fabric_request_reject (request);
    return;
  }
  r = fabric_service_accept (request, s->domain, &lane);
  if (r < 0)
    donor_log ("peer %s: cannot accept a lane: %s", s->peer, strerror (-r));
  else
    g_ptr_array_add (s->lanes, lane);
}

/* All lanes end before any slab is given back: a WRITE still on its way
 * must not land on what comes there next.
 */
static void
take_everything_back (struct session *s)
{
  struct parked *p;
  GHashTableIter iter;
  gpointer grant;
  unsigned i;

  for (i = 0; i < s->lanes->len; i++)
    fabric_service_end (g_ptr_array_index (s->lanes, i));
  while ((p = g_queue_pop_head (&s->parked))) {
    lender_cancel (s->home->lender, &p->wait);
    g_free (p);
  }
  g_hash_table_iter_init (&iter, s->grants);
  while (g_hash_table_iter_next (&iter, NULL, &grant)) {
    const struct grant *g = grant;

    fabric_region_remove (g->region);
    lender_give_back (s->home->lender, g->slab, false);
    g_hash_table_iter_remove (&iter);
    g_free (grant);
  }
  g_queue_clear (&s->unmapping);
  fabric_domain_free (s->domain);
  g_hash_table_unref (s->grants);
  g_hash_table_unref (s->mapped);
  g_ptr_array_unref (s->lanes);
  s->home->counters.sessions_ended++;
}

void
session_end (struct session *s, const char *reason)
{
  wake_free (s->source);
  if (s->state == SESSION_ACTIVE)
    take_everything_back (s);
  fabric_channel_close (s->channel);
  if (s->state != SESSION_REFUSED)
    donor_log ("peer %s: session ended: %s", s->peer, reason);
  s->home->ended (s->home, s);
  g_free (s);
}

void
session_get_info (const struct session *s, struct session_info *ret)
{
  *ret = (struct session_info) { .active = s->state == SESSION_ACTIVE };
  if (!ret->active)
    return;
  ret->id = s->id;
  ret->token = s->token;
  memcpy (ret->device, s->device, sizeof ret->device);
  ret->peer = s->peer;
  ret->fabric = s->channel->ops;
  ret->lanes = s->lanes->len;
  ret->slabs = g_hash_table_size (s->grants);
  ret->started_ns = s->started_ns;
  ret->deadline_ns = s->deadline_ns;
}
