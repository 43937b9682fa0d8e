#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <glib-unix.h>
#include <microhttpd.h>

#include "conf/address.h"
#include "conf/metrics_server.h"

enum {
  CLIENTS_MAX = 16,
  CLIENTS_PER_ADDRESS_MAX = 8,
  CLIENT_BYTES = 16 << 10,      /* of a request's head */
  PATIENCE_MS = 5000,
  PAUSE_MS = 1000,              /* after accept has run out of something */
};

struct metrics_server {
  int fd;
  char *address;
  unsigned patience_ms;
  GMainContext *context;
  GSource *listener, *pause;    /* one of them, or neither while full */
  GSource *events;              /* of the connections */
  struct MHD_Daemon *daemon;
  unsigned clients;
  metrics_collector collect;
  void *data;
};

/* A connection, which the library owns. */
struct client {
  int fd;
  GSource *timer;
};

static void
drop_source (GSource **source)
{
  if (*source != NULL)
    g_source_destroy (*source);
  g_clear_pointer (source, g_source_unref);
}

static GSource *
attach (GSource *source, GMainContext *context, GSourceFunc f, void *data)
{
  g_source_set_callback (source, f, data, NULL);
  g_source_attach (source, context);
  return source;
}

/* ---- before the context runs ---- */

static char *
address_text (int fd)
{
  struct sockaddr_storage address;
  socklen_t len = sizeof address;
  char host[64], port[8];

  if (getsockname (fd, (struct sockaddr *) &address, &len) == -1 ||
      getnameinfo ((struct sockaddr *) &address, len, host, sizeof host,
                   port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return g_strdup ("?");
  return g_strdup_printf (address.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s",
                          host, port);
}

static int
listen_on (const struct sockaddr_storage *address, socklen_t len)
{
  const int one = 1;
  int fd = socket (address->ss_family,
                   SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  int r;

  if (fd == -1)
    return -errno;
  if (setsockopt (fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
      bind (fd, (const struct sockaddr *) address, len) == 0 &&
      listen (fd, CLIENTS_MAX) == 0)
    return fd;
  r = -errno;
  close (fd);
  return r;
}

static const char *
remedy (int r)
{
  switch (r) {
  case -EADDRINUSE:
    return "choose another port, or end the program that listens there";
  case -EADDRNOTAVAIL:
    return "give an address of this machine";
  case -EACCES:
    return "choose a port from 1024 on";
  default:
    return "choose another address";
  }
}

struct metrics_server *
metrics_server_bind (const char *address, char **error)
{
  struct metrics_server *s;
  struct sockaddr_storage parsed;
  socklen_t len;
  int fd;

  if (!address_parse_listen (address, &parsed, &len)) {
    *error = g_strdup_printf ("metrics address \"%s\": must be %s", address,
                              address_listen_allowed);
    return NULL;
  }
  fd = listen_on (&parsed, len);
  if (fd < 0) {
    *error = g_strdup_printf ("cannot serve metrics on %s: %s; %s", address,
                              g_strerror (-fd), remedy (fd));
    return NULL;
  }
  s = g_new0 (struct metrics_server, 1);
  s->fd = fd;
  s->address = address_text (fd);
  s->patience_ms = PATIENCE_MS;
  return s;
}

const char *
metrics_server_address (const struct metrics_server *s)
{
  return s->address;
}

void
metrics_server_set_patience (struct metrics_server *s, unsigned patience_ms)
{
  s->patience_ms = patience_ms;
}

/* ---- one request ---- */

static enum MHD_Result
answer (struct MHD_Connection *connection, unsigned status, char *text,
        size_t len, const char *type)
{
  struct MHD_Response *response =
    MHD_create_response_from_buffer (len, text, MHD_RESPMEM_MUST_FREE);
  enum MHD_Result r;

  if (response == NULL) {
    g_free (text);
    return MHD_NO;
  }
  MHD_add_response_header (response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
  if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
    MHD_add_response_header (response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
  r = MHD_queue_response (connection, status, response);
  MHD_destroy_response (response);
  return r;
}

static enum MHD_Result
refuse (struct MHD_Connection *connection, unsigned status, const char *why)
{
  return answer (connection, status, g_strdup (why), strlen (why),
                 "text/plain; charset=utf-8");
}

/* Answered at once, before any body; then the library closes. */
static enum MHD_Result
on_request (void *data, struct MHD_Connection *connection, const char *url,
            const char *method, const char *version, const char *body,
            size_t *body_len, void **state)
{
  struct metrics_server *s = data;
  struct exposition e;
  size_t len;
  char *text;

  (void) version;
  (void) body;
  (void) body_len;
  (void) state;
  if (strcmp (method, MHD_HTTP_METHOD_GET) != 0 &&
      strcmp (method, MHD_HTTP_METHOD_HEAD) != 0)
    return refuse (connection, MHD_HTTP_METHOD_NOT_ALLOWED,
                   "Only GET is answered.\n");
  if (strcmp (url, "/metrics") != 0)
    return refuse (connection, MHD_HTTP_NOT_FOUND,
                   "Only /metrics is here.\n");
  exposition_begin (&e);
  s->collect (&e, s->data);
  text = exposition_end (&e, &len);
  return answer (connection, MHD_HTTP_OK, text, len,
                 "text/plain; version=0.0.4; charset=utf-8");
}

/* ---- connections ---- */

static void listen_again (struct metrics_server *s);

/* The library notices that, and closes.  Without the linger what is left
 * of the answer would stay in the kernel until the client takes it.
 */
static gboolean
cut_off (gpointer data)
{
  const struct linger none = { .l_onoff = 1, .l_linger = 0 };
  struct client *c = data;

  setsockopt (c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
  shutdown (c->fd, SHUT_RDWR);
  drop_source (&c->timer);
  return G_SOURCE_REMOVE;
}

static struct client *
client_begin (struct metrics_server *s, struct MHD_Connection *connection)
{
  const union MHD_ConnectionInfo *info =
    MHD_get_connection_info (connection, MHD_CONNECTION_INFO_CONNECTION_FD);
  struct client *c = g_new0 (struct client, 1);

  c->fd = info->connect_fd;
  c->timer = attach (g_timeout_source_new (s->patience_ms), s->context,
                     cut_off, c);
  s->clients++;
  return c;
}

static void
client_end (struct metrics_server *s, struct client *c)
{
  drop_source (&c->timer);
  g_free (c);
  s->clients--;
}

static void
on_connection (void *data, struct MHD_Connection *connection, void **client,
               enum MHD_ConnectionNotificationCode code)
{
  struct metrics_server *s = data;

  if (code == MHD_CONNECTION_NOTIFY_STARTED)
    *client = client_begin (s, connection);
  else {
    client_end (s, *client);
    *client = NULL;
  }
}

/* Let the library do what there is to do now. */
static void
run (struct metrics_server *s)
{
  MHD_UNSIGNED_LONG_LONG wait_ms;
  gint64 when_us = -1;

  MHD_run (s->daemon);
  if (MHD_get_timeout (s->daemon, &wait_ms) == MHD_YES)
    when_us = g_get_monotonic_time () + (gint64) wait_ms * 1000;
  g_source_set_ready_time (s->events, when_us);
  if (s->listener == NULL && s->pause == NULL && s->clients < CLIENTS_MAX)
    listen_again (s);
}

static gboolean
pause_over (gpointer data)
{
  struct metrics_server *s = data;

  drop_source (&s->pause);
  listen_again (s);
  return G_SOURCE_REMOVE;
}

static bool
is_passing (int err)
{
  return err == EAGAIN || err == EINTR || err == ECONNABORTED;
}

/* The library would try again and again where descriptors are short, so
 * it does not accept itself.
 */
static gboolean
listener_ready (gint fd, GIOCondition condition, gpointer data)
{
  struct metrics_server *s = data;
  struct sockaddr_storage peer;
  socklen_t len = sizeof peer;
  int client = accept4 (fd, (struct sockaddr *) &peer, &len,
                        SOCK_CLOEXEC | SOCK_NONBLOCK);
  const int err = errno;

  (void) condition;
  if (client == -1 && is_passing (err))
    return G_SOURCE_CONTINUE;
  drop_source (&s->listener);
  if (client == -1)
    s->pause = attach (g_timeout_source_new (PAUSE_MS), s->context,
                       pause_over, s);
  else
    /* What it refuses it closes. */
    MHD_add_connection (s->daemon, client, (struct sockaddr *) &peer, len);
  run (s);
  return G_SOURCE_REMOVE;
}

static void
listen_again (struct metrics_server *s)
{
  s->listener = attach (g_unix_fd_source_new (s->fd, G_IO_IN), s->context,
                        G_SOURCE_FUNC (listener_ready), s);
}

static gboolean
on_events (gpointer data)
{
  run (data);
  return G_SOURCE_CONTINUE;
}

static gboolean
dispatch (GSource *source, GSourceFunc f, gpointer data)
{
  (void) source;
  return f (data);
}

static GSourceFuncs events_funcs = { .dispatch = dispatch };

int
metrics_server_serve (struct metrics_server *s, GMainContext *context,
                      metrics_collector collect, void *data)
{
  const union MHD_DaemonInfo *info;

  s->daemon = MHD_start_daemon
    (MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, on_request, s,
     MHD_OPTION_CONNECTION_LIMIT, (unsigned) CLIENTS_MAX,
     MHD_OPTION_PER_IP_CONNECTION_LIMIT, (unsigned) CLIENTS_PER_ADDRESS_MAX,
     MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) CLIENT_BYTES,
     MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_END);
  if (s->daemon == NULL)
    return errno != 0 ? -errno : -EIO;
  s->context = g_main_context_ref (context != NULL ? context :
                                   g_main_context_default ());
  s->collect = collect;
  s->data = data;
  info = MHD_get_daemon_info (s->daemon, MHD_DAEMON_INFO_EPOLL_FD);
  s->events = g_source_new (&events_funcs, sizeof *s->events);
  g_source_add_unix_fd (s->events, info->epoll_fd, G_IO_IN);
  attach (s->events, s->context, on_events, s);
  listen_again (s);
  return 0;
}

void
metrics_server_close (struct metrics_server *s)
{
  if (s == NULL)
    return;
  drop_source (&s->listener);
  drop_source (&s->pause);
  drop_source (&s->events);
  if (s->daemon != NULL)
    MHD_stop_daemon (s->daemon); /* ends all clients */
  if (s->context != NULL)
    g_main_context_unref (s->context);
  close (s->fd);
  g_free (s->address);
  g_free (s);
}
