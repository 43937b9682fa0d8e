#include <errno.h>
#include <string.h>

#include <glib-unix.h>

#include "ctl/probe.h"

struct probe {
  struct fabric_channel *channel;
  GSource *source;              /* the channel's, or an idle one that fails */
  void (*done) (void *data);
  void *data;
  int64_t timeout_ns;

  uint64_t next_id;
  bool welcomed;
  int64_t asked_ns;
  int64_t times_ns[PROBE_QUESTIONS];
  unsigned answers;
  struct probe_result result;
};

static void
end (struct probe *p, enum probe_state state, const char *reason)
{
  p->result.state = state;
  g_strlcpy (p->result.reason, reason, sizeof p->result.reason);
}

static void
end_for_errno (struct probe *p, int error)
{
  if (error == -ECONNRESET)
    end (p, PROBE_FAILED, "the peer has hung up");
  else if (error == -EBADMSG)
    end (p, PROBE_FAILED, "the peer does not speak as a donor does");
  else
    end (p, PROBE_FAILED, strerror (-error));
}


static void
send_message (struct probe *p, struct message *m)
{
  char buf[FABRIC_MESSAGE_MAX];
  int r;

  r = message_encode (m, buf, sizeof buf);
  if (r > 0)
    r = fabric_channel_send (p->channel, buf, r);
  if (r < 0)
    end_for_errno (p, r);
}

static void
say_hello (struct probe *p)
{
  struct message hello = {
    .type = MESSAGE_HELLO,
    .id = ++p->next_id,
    .hello = {
      .slab_size_bytes = MESSAGE_ANY_SLAB_SIZE,
      .deadline_ns = CLAMP (p->timeout_ns, INT64_C (1000000),
                            INT64_C (60000000000)),
    },
  };

  /* A device of its own, so that it ends no other's session. */
  for (size_t i = 0; i < sizeof hello.hello.device_id; i++)
    hello.hello.device_id[i] = g_random_int ();
  send_message (p, &hello);
}

static void
ask (struct probe *p)
{
  struct message m = { .type = MESSAGE_QUERY_MEM, .id = ++p->next_id };

  p->asked_ns = fabric_now_ns ();
  send_message (p, &m);
}

static gint
compare_times (gconstpointer a, gconstpointer b)
{
  const int64_t *x = a, *y = b;

  return (*x > *y) - (*x < *y);
}

static void
on_free_mem (struct probe *p, const struct message *m)
{
  p->times_ns[p->answers++] = fabric_now_ns () - p->asked_ns;
  p->result.free_bytes = m->free_mem.free_bytes;
  p->result.slabs_ready = m->free_mem.slabs_ready;
  p->result.slabs_lent = m->free_mem.slabs_lent;
  if (p->answers < PROBE_QUESTIONS) {
    ask (p);
    return;
  }
  qsort (p->times_ns, PROBE_QUESTIONS, sizeof p->times_ns[0], compare_times);
  p->result.round_trip_ns = p->times_ns[PROBE_QUESTIONS / 2];
  end (p, PROBE_ANSWERED, "");
}

static void
on_message (struct probe *p, const struct message *m)
{
  struct message pong = { .type = MESSAGE_PONG, .id = m->id };

  if (m->type == MESSAGE_PING)
    send_message (p, &pong);
  else if (m->type == MESSAGE_REFUSED && !p->welcomed)
    end (p, PROBE_REFUSED, m->refused.reason);
  else if (m->type == MESSAGE_WELCOME && !p->welcomed) {
    p->welcomed = true;
    p->result.slab_size_bytes = m->welcome.slab_size_bytes;
    ask (p);
  }
  else if (m->type == MESSAGE_FREE_MEM && p->welcomed && m->id == p->next_id)
    on_free_mem (p, m);
  else
    end (p, PROBE_FAILED, "the peer does not answer as a donor does");
}

static void
receive_all (struct probe *p)
{
  char buf[FABRIC_MESSAGE_MAX];
  struct message m;
  int r;

  while (p->result.state == PROBE_GOING &&
         (r = fabric_channel_receive (p->channel, buf, sizeof buf)) != 0) {
    if (r < 0) {
      end_for_errno (p, r);
      break;
    }
    r = message_decode (buf, r, &m);
    if (r == 0)
      on_message (p, &m);
    else
      end (p, PROBE_FAILED, r == -EPROTONOSUPPORT ?
           "the donor speaks another protocol version" :
           "the peer sent a malformed message");
  }
}

/* Over: the donor need not keep the session. */
static void
finish (struct probe *p)
{
  g_clear_pointer (&p->channel, fabric_channel_close);
  p->done (p->data);
}

static gboolean
on_channel (gint fd, GIOCondition condition, gpointer data)
{
  struct probe *p = data;

  (void) fd;
  (void) condition;
  receive_all (p);
  if (p->result.state == PROBE_GOING)
    return G_SOURCE_CONTINUE;
  finish (p);
  return G_SOURCE_REMOVE;
}

static gboolean
on_idle (gpointer data)
{
  finish (data);
  return G_SOURCE_REMOVE;
}

struct probe *
probe_start (const struct fabric_ops *ops, const struct sockaddr *addr,
             socklen_t len, int64_t timeout_ns, GMainContext *context,
             void (*done) (void *data), void *data)
{
  struct probe *p = g_new0 (struct probe, 1);
  int r;

  p->done = done;
  p->data = data;
  p->timeout_ns = timeout_ns;
  p->next_id = fabric_now_ns ();
  r = fabric_channel_connect (ops, addr, len, timeout_ns, &p->channel);
  if (r < 0)
    end_for_errno (p, r);
  else
    say_hello (p);
  if (p->result.state == PROBE_GOING) {
    p->source = g_unix_fd_source_new (fabric_channel_fd (p->channel),
                                      G_IO_IN | G_IO_HUP | G_IO_ERR);
    g_source_set_callback (p->source, G_SOURCE_FUNC (on_channel), p, NULL);
  }
  else {
    p->source = g_idle_source_new ();
    g_source_set_callback (p->source, on_idle, p, NULL);
  }
  g_source_attach (p->source, context);
  return p;
}

const struct probe_result *
probe_result (const struct probe *p)
{
  return &p->result;
}

void
probe_free (struct probe *p)
{
  g_source_destroy (p->source);
  g_source_unref (p->source);
  g_clear_pointer (&p->channel, fabric_channel_close);
  g_free (p);
}
