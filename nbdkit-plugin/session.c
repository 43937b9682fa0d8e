#include "nbdkit-plugin/session.h"

#include <errno.h>
#include <string.h>

#include <glib-unix.h>

#include "nbdkit-plugin/outbox.h"
#include "nbdkit-plugin/registration.h"

enum { MESSAGES_A_TURN = 32 };   /* then others have theirs */

enum lanes_state { LANES_NONE, LANES_CONNECTING, LANES_READY };

struct session {
  const struct session_params *params;
  const struct fabric_ops *ops;
  struct sockaddr_storage addr;
  socklen_t addr_len;
  const struct session_events *events;
  void *data;

  struct fabric_channel *channel;
  GSource *channel_source, *timer;
  GSource *more;                /* the turn ended before the messages did */
  uint64_t next_id;
  struct outbox outbox;
  int64_t last_heard_ns, last_sent_ns, welcomed_ns;
  bool welcomed, refused;
  struct fabric_preface preface; /* of its lanes */
  const struct registration *registration;

  /* Complete, and constant, before any slab is mapped. */
  enum lanes_state lanes_state;
  unsigned lanes_standing;
  struct fabric_queue **queues;
  GSource **queue_sources;

  atomic_bool ended;
  _Atomic int error;
  char reason[MESSAGE_TEXT_MAX];
};

struct fabric_queue *
session_queue (const struct session *s, unsigned lane)
{
  return s->queues[lane];
}

struct fabric_region *
session_region (const struct session *s)
{
  return s->registration->region;
}

void
session_end (struct session *s, int error)
{
  if (atomic_exchange (&s->ended, true))
    return;
  atomic_store (&s->error, error);
  if (s->lanes_state == LANES_READY)
    for (unsigned i = 0; i < s->params->lanes; i++)
      fabric_queue_break (s->queues[i]);
  s->params->wake (s->params->wake_data);
}

const struct fabric_ops *
session_fabric (const struct session *s)
{
  return s->ops;
}

const atomic_bool *
session_ended (const struct session *s)
{
  return &s->ended;
}

const char *
session_reason (const struct session *s)
{
  return s->reason[0] ? s->reason : strerror (-atomic_load (&s->error));
}

bool
session_refused (const struct session *s)
{
  return s->refused;
}

bool
session_welcomed (const struct session *s)
{
  return s->welcomed;
}

uint64_t
session_age_seconds (const struct session *s)
{
  return s->welcomed ? (fabric_now_ns () - s->welcomed_ns) / 1000000000 : 0;
}

bool
session_lanes_ready (const struct session *s)
{
  return s->lanes_state == LANES_READY;
}

/* End it, with more to say than an errno. */
static void
end_because (struct session *s, int error, const char *reason)
{
  if (!atomic_load (&s->ended))
    g_strlcpy (s->reason, reason, sizeof s->reason);
  session_end (s, error);
}

static void
end_for_lane (struct session *s, int error)
{
  char reason[MESSAGE_TEXT_MAX];

  g_snprintf (reason, sizeof reason, "cannot connect a lane: %s",
              strerror (-error));
  end_because (s, error, reason);
}

static void
send_waiting (struct session *s)
{
  int r;

  if (atomic_load (&s->ended))
    return;
  r = outbox_send (&s->outbox, s->channel);
  if (r < 0)
    session_end (s, r);
  else if (r > 0)
    s->last_sent_ns = fabric_now_ns ();
}

/* `error` is how adding the message to the outbox ended. */
static void
send_added (struct session *s, int error)
{
  if (error == -ENOBUFS)
    end_because (s, error, "the donor does not take its messages");
  else if (error < 0)
    session_end (s, error);
  else
    send_waiting (s);
}

void
session_answer (struct session *s, const struct message *m)
{
  if (!atomic_load (&s->ended))
    send_added (s, outbox_add_answer (&s->outbox, m));
}

uint64_t
session_send (struct session *s, struct message *m)
{
  m->id = ++s->next_id;
  if (!atomic_load (&s->ended))
    send_added (s, outbox_add_request (&s->outbox, m));
  return m->id;
}

static void receive_some (struct session *s);

static GSource *
watch (struct session *s, int fd, GUnixFDSourceFunc f, gpointer data)
{
  GSource *source = g_unix_fd_source_new (fd, G_IO_IN | G_IO_HUP | G_IO_ERR);

  g_source_set_callback (source, G_SOURCE_FUNC (f), data, NULL);
  g_source_attach (source, s->params->context);
  return source;
}

static void
unwatch (GSource **source)
{
  if (*source) {
    g_source_destroy (*source);
    g_source_unref (*source);
    *source = NULL;
  }
}

static void
on_welcome (struct session *s, const struct message *m)
{
  int error;

  if (s->welcomed) {
    end_because (s, -EPROTO, "the donor sent a second WELCOME");
    return;
  }
  if (m->welcome.slab_size_bytes != s->params->slab_size_bytes) {
    end_because (s, -EPROTO, "the donor has another slab size");
    return;
  }
  s->registration =
    registrations_get (s->params->registrations, s->channel, &error);
  if (!s->registration) {
    end_because (s, error, "cannot register memory (raise RLIMIT_MEMLOCK, "
                 "ulimit -l, or lower write-behind)");
    return;
  }
  s->preface = (struct fabric_preface) {
    .kind = FABRIC_LANE, .session = m->welcome.session,
    .token = m->welcome.token,
  };
  s->welcomed = true;
  s->welcomed_ns = fabric_now_ns ();
  s->events->welcome (s->data);
}

static void
on_message (struct session *s, const struct message *m)
{
  struct message pong = { .type = MESSAGE_PONG, .id = m->id };

  switch (m->type) {
  case MESSAGE_WELCOME:
    on_welcome (s, m);
    return;
  case MESSAGE_PING:
    session_answer (s, &pong);
    return;
  case MESSAGE_PONG:
    return;
  case MESSAGE_REFUSED:
    if (!s->welcomed) {
      s->refused = true;
      end_because (s, -EPERM, m->refused.reason);
      return;
    }
    break;
  default:
    break;
  }
  if (s->welcomed)
    s->events->message (s->data, m);
  else
    end_because (s, -EPROTO, "the donor did not answer HELLO");
}

static gboolean
on_more (gpointer data)
{
  struct session *s = data;

  unwatch (&s->more);
  receive_some (s);
  return G_SOURCE_REMOVE;
}

/* After all other sources of the context had their turn. */
static void
receive_more (struct session *s)
{
  if (s->more)
    return;
  s->more = g_idle_source_new ();
  g_source_set_priority (s->more, G_PRIORITY_DEFAULT);
  g_source_set_callback (s->more, on_more, s, NULL);
  g_source_attach (s->more, s->params->context);
}

static void
receive_one (struct session *s, const char *buf, size_t len)
{
  struct message m;
  int r = message_decode (buf, len, &m);

  s->last_heard_ns = fabric_now_ns ();
  if (r == 0) {
    outbox_note (&s->outbox, m.type);
    on_message (s, &m);
  }
  else
    end_because (s, r, r == -EPROTONOSUPPORT ?
                 "the donor speaks another protocol version" :
                 "the donor sent a malformed message");
}

/* A donor that sends without end must not keep the mapper from others. */
static void
receive_some (struct session *s)
{
  char buf[FABRIC_MESSAGE_MAX];
  unsigned left = MESSAGES_A_TURN;
  int r = 0;

  while (left > 0 && !atomic_load (&s->ended) &&
         (r = fabric_channel_receive (s->channel, buf, sizeof buf)) > 0) {
    receive_one (s, buf, r);
    left--;
  }
  if (r < 0)
    session_end (s, r);
  send_waiting (s);
  if (left == 0 && !atomic_load (&s->ended))
    receive_more (s);
}

static gboolean
on_channel (gint fd, GIOCondition condition, gpointer data)
{
  struct session *s = data;

  (void) fd;
  (void) condition;
  receive_some (s);
  if (!atomic_load (&s->ended))
    return G_SOURCE_CONTINUE;
  unwatch (&s->channel_source);
  return G_SOURCE_REMOVE;
}

/* Silence for a deadline ends the session; before that, ask.  What has
 * arrived is read first: it may be this thread that was held up.
 */
static gboolean
on_timer (gpointer data)
{
  struct session *s = data;
  struct message ping = { .type = MESSAGE_PING };
  int64_t now = fabric_now_ns ();

  receive_some (s);
  if (atomic_load (&s->ended))
    return G_SOURCE_CONTINUE;
  if (now - s->last_heard_ns > s->params->deadline_ns)
    end_because (s, -ETIMEDOUT, s->welcomed ? "no answer within the deadline"
                 : "no connection within the deadline");
  else if (s->welcomed &&
           now - s->last_sent_ns > s->params->deadline_ns / 4) {
    ping.id = ++s->next_id;
    session_answer (s, &ping);  /* ahead of requests that wait */
  }
  return G_SOURCE_CONTINUE;
}

static void
start_timer (struct session *s)
{
  s->timer = g_timeout_source_new (s->params->deadline_ns / 8 / 1000000 + 1);
  g_source_set_callback (s->timer, on_timer, s, NULL);
  g_source_attach (s->timer, s->params->context);
}

static void
send_hello (struct session *s)
{
  struct message hello = {
    .type = MESSAGE_HELLO,
    .hello = {
      .slab_size_bytes = s->params->slab_size_bytes,
      .deadline_ns = s->params->deadline_ns,
    },
  };

  memcpy (hello.hello.device_id, s->params->device_id,
          sizeof hello.hello.device_id);
  session_send (s, &hello);
}

struct session *
session_start (const struct session_params *params,
               const struct fabric_ops *ops,
               const struct sockaddr *addr, socklen_t len,
               const struct session_events *events, void *data, int *error)
{
  struct session *s = g_new0 (struct session, 1);

  s->params = params;
  s->ops = ops;
  outbox_init (&s->outbox, params->messages_max);
  /* Each HELLO of a device has a greater request id than those before: one
   * that was held up on its way must not end a newer session.
   */
  s->next_id = fabric_now_ns ();
  memcpy (&s->addr, addr, len);
  s->addr_len = len;
  s->events = events;
  s->data = data;
  s->queues = g_new0 (struct fabric_queue *, params->lanes);
  s->queue_sources = g_new0 (GSource *, params->lanes);
  *error = fabric_channel_connect (ops, addr, len, params->deadline_ns,
                                   &s->channel);
  if (*error < 0) {
    session_free (s);
    return NULL;
  }
  s->last_heard_ns = fabric_now_ns ();
  s->channel_source =
    watch (s, fabric_channel_fd (s->channel), on_channel, s);
  start_timer (s);
  send_hello (s);
  return s;
}

void
session_free (struct session *s)
{
  unwatch (&s->channel_source);
  unwatch (&s->timer);
  unwatch (&s->more);
  for (unsigned i = 0; i < s->params->lanes; i++) {
    unwatch (&s->queue_sources[i]);
    if (s->queues[i])
      fabric_queue_free (s->queues[i]);
  }
  if (s->channel)
    fabric_channel_close (s->channel);
  outbox_clear (&s->outbox);
  g_free (s->queues);
  g_free (s->queue_sources);
  g_free (s);
}

static unsigned
lane_of_fd (const struct session *s, int fd)
{
  unsigned i = 0;

  while (!s->queue_sources[i] || fabric_queue_fd (s->queues[i]) != fd)
    i++;
  return i;
}

static gboolean
on_queue (gint fd, GIOCondition condition, gpointer data)
{
  struct session *s = data;
  unsigned lane = lane_of_fd (s, fd);
  int r = fabric_queue_step (s->queues[lane]);

  (void) condition;
  if (r == -EAGAIN)
    return G_SOURCE_CONTINUE;
  unwatch (&s->queue_sources[lane]);
  if (r < 0)
    end_for_lane (s, r);
  else if (++s->lanes_standing == s->params->lanes &&
           !atomic_load (&s->ended)) {
    s->lanes_state = LANES_READY;
    s->events->lanes_ready (s->data);
  }
  return G_SOURCE_REMOVE;
}

void
session_connect_lanes (struct session *s)
{
  if (s->lanes_state != LANES_NONE || atomic_load (&s->ended))
    return;
  s->lanes_state = LANES_CONNECTING;
  for (unsigned i = 0; i < s->params->lanes; i++) {
    int r = fabric_queue_connect (s->registration->domain,
                                  (struct sockaddr *) &s->addr, s->addr_len,
                                  &s->preface, s->params->deadline_ns,
                                  &s->queues[i]);
    if (r < 0) {
      end_for_lane (s, r);
      return;
    }
    s->queue_sources[i] =
      watch (s, fabric_queue_fd (s->queues[i]), on_queue, s);
  }
}
