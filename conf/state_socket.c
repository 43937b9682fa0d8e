#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib-unix.h>

#include "conf/state_socket.h"

enum {
  CLIENTS_MAX = 16,
  REQUEST_MAX = 1024,           /* bytes, without the newline */
  SILENCE_MS = 5000,
  PAUSE_MS = 1000,              /* after accept has run out of something */
  ANSWER_MAX = 64 << 20,        /* bytes a client is ready to take */
};

struct client {
  struct state_socket *server;
  int fd;
  GSource *io, *timer;
  char request[REQUEST_MAX + 1];
  size_t request_len;
  char *answer;                 /* NULL while the request is being read */
  size_t answer_len, answer_sent;
};

struct state_socket {
  char *path;                   /* absolute: a daemon changes folder */
  dev_t dev;                    /* what path was when we bound it */
  ino_t ino;
  int fd;
  unsigned silence_ms;
  GMainContext *context;
  GSource *listener, *pause;    /* one of them, or neither while full */
  GPtrArray *clients;
  state_socket_handler handler;
  void *data;
};

static int
fill_address (const char *path, struct sockaddr_un *addr, char **error)
{
  size_t len = strlen (path);

  *addr = (struct sockaddr_un) { .sun_family = AF_UNIX };
  if (len == 0 || len >= sizeof addr->sun_path) {
    *error = g_strdup_printf ("socket path \"%s\" has %zu bytes (allowed: "
                              "1 to %zu); choose another path",
                              path, len, sizeof addr->sun_path - 1);
    return -EINVAL;
  }
  memcpy (addr->sun_path, path, len);
  return 0;
}

/* Remove a socket nobody listens on; 0 if path is free now. */
static int
remove_stale (const struct sockaddr_un *addr, char **error)
{
  const char *path = addr->sun_path;
  struct stat st;
  int fd, r;

  if (lstat (path, &st) == -1)
    return errno == ENOENT ? 0 : -errno;
  if (!S_ISSOCK (st.st_mode)) {
    *error = g_strdup_printf ("%s exists and is not a socket; remove it or "
                              "choose another path", path);
    return -EEXIST;
  }
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd == -1)
    return -errno;
  r = connect (fd, (const struct sockaddr *) addr, sizeof *addr) == -1 ?
    errno : 0;
  close (fd);
  if (r == 0 || r == EAGAIN) {
    *error = g_strdup_printf ("%s is in use by a running program; stop that "
                              "or choose another path", path);
    return -EADDRINUSE;
  }
  if (r != ECONNREFUSED)
    return -r;
  return unlink (path) == -1 && errno != ENOENT ? -errno : 0;
}

/* The mode of an unbound socket's inode, less the umask, becomes that of
 * its path: so nobody else gets in, not even between bind and chmod.
 */
static int
bind_private (int fd, const struct sockaddr_un *addr)
{
  if (fchmod (fd, 0600) == -1 ||
      bind (fd, (const struct sockaddr *) addr, sizeof *addr) == -1)
    return -errno;
  return 0;
}

static int
bind_replacing_stale (int fd, const struct sockaddr_un *addr, char **error)
{
  int r = bind_private (fd, addr);

  if (r == -EADDRINUSE) {
    r = remove_stale (addr, error);
    if (r == 0)
      r = bind_private (fd, addr);
  }
  return r;
}

static char *
explain_bind (const char *path, int r)
{
  g_autofree char *folder = g_path_get_dirname (path);

  if (r == -ENOENT || r == -ENOTDIR)
    return g_strdup_printf ("cannot create socket %s: there is no folder %s; "
                            "create it or choose another path", path, folder);
  return g_strdup_printf ("cannot create socket %s: %s; choose another path "
                          "or make %s writable for this user",
                          path, g_strerror (-r), folder);
}

struct state_socket *
state_socket_bind (const char *path, char **error)
{
  struct state_socket *s;
  struct sockaddr_un addr;
  struct stat st;
  int fd, r;

  *error = NULL;
  if (fill_address (path, &addr, error) < 0)
    return NULL;
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  r = fd == -1 ? -errno : bind_replacing_stale (fd, &addr, error);
  /* A umask without the owner's bits would keep even us out. */
  if (r == 0 && (chmod (path, 0600) == -1 || listen (fd, CLIENTS_MAX) == -1 ||
                 lstat (path, &st) == -1)) {
    r = -errno;
    unlink (path);
  }
  if (r < 0) {
    if (*error == NULL)
      *error = explain_bind (path, r);
    if (fd != -1)
      close (fd);
    return NULL;
  }

  s = g_new0 (struct state_socket, 1);
  s->path = g_canonicalize_filename (path, NULL);
  s->dev = st.st_dev;
  s->ino = st.st_ino;
  s->fd = fd;
  s->silence_ms = SILENCE_MS;
  return s;
}

void
state_socket_set_silence (struct state_socket *s, unsigned silence_ms)
{
  s->silence_ms = silence_ms;
}

static void
drop_source (GSource **source)
{
  if (*source == NULL)
    return;
  g_source_destroy (*source);
  g_source_unref (*source);
  *source = NULL;
}

static GSource *
attach (GSource *source, GMainContext *context, GSourceFunc call, void *data)
{
  g_source_set_callback (source, call, data, NULL);
  g_source_attach (source, context);
  return source;
}

static void
client_free (gpointer data)
{
  struct client *c = data;

  drop_source (&c->io);
  drop_source (&c->timer);
  close (c->fd);
  g_free (c->answer);
  g_free (c);
}

static void listen_again (struct state_socket *s);

static void
client_end (struct client *c)
{
  struct state_socket *s = c->server;

  g_ptr_array_remove_fast (s->clients, c);
  if (s->listener == NULL && s->pause == NULL)
    listen_again (s);
}

static gboolean
client_timeout (gpointer data)
{
  client_end (data);
  return G_SOURCE_REMOVE;
}

static void
client_start_timer (struct client *c)
{
  drop_source (&c->timer);
  c->timer = attach (g_timeout_source_new (c->server->silence_ms),
                     c->server->context, client_timeout, c);
}

static void
client_watch (struct client *c, GIOCondition condition, GUnixFDSourceFunc call)
{
  drop_source (&c->io);
  c->io = attach (g_unix_fd_source_new (c->fd, condition),
                  c->server->context, G_SOURCE_FUNC (call), c);
}

static JsonNode *
error_node (const char *text)
{
  JsonNode *node = json_node_new (JSON_NODE_OBJECT);
  JsonObject *object = json_object_new ();

  json_object_set_string_member (object, "error", text);
  json_node_take_object (node, object);
  return node;
}

/* The request is hostile until it is known to be text. */
static JsonNode *
answer_request (struct state_socket *s, char *request, size_t len)
{
  g_autofree char *text = NULL;
  JsonNode *node;

  if (len > REQUEST_MAX)
    return error_node ("the request is longer than 1024 bytes");
  if (!g_utf8_validate (request, len, NULL))
    return error_node ("the request is not UTF-8 text");
  request[len] = '\0';
  g_strchomp (request);
  node = s->handler (request, s->data);
  if (node != NULL)
    return node;
  text = g_strdup_printf ("unknown command \"%s\"", request);
  return error_node (text);
}

static gboolean
client_write (gint fd, GIOCondition condition, gpointer data)
{
  struct client *c = data;
  ssize_t n;

  (void) condition;
  do
    n = send (fd, c->answer + c->answer_sent, c->answer_len - c->answer_sent,
              MSG_NOSIGNAL | MSG_DONTWAIT);
  while (n == -1 && errno == EINTR);
  if (n >= 0)
    c->answer_sent += n;
  else if (errno != EAGAIN)
    c->answer_sent = c->answer_len;

  if (c->answer_sent < c->answer_len)
    return G_SOURCE_CONTINUE;
  client_end (c);
  return G_SOURCE_REMOVE;
}

static void
client_answer (struct client *c, size_t request_len)
{
  JsonNode *node = answer_request (c->server, c->request, request_len);
  JsonGenerator *generator = json_generator_new ();
  g_autofree char *text = NULL;

  json_generator_set_root (generator, node);
  text = json_generator_to_data (generator, NULL);
  c->answer = g_strconcat (text, "\n", NULL);
  c->answer_len = strlen (c->answer);
  g_object_unref (generator);
  json_node_unref (node);

  client_start_timer (c);
  client_watch (c, G_IO_OUT, client_write);
}

static gboolean
client_read (gint fd, GIOCondition condition, gpointer data)
{
  struct client *c = data;
  char *newline;
  ssize_t n;

  (void) condition;
  n = recv (fd, c->request + c->request_len,
            sizeof c->request - c->request_len, MSG_DONTWAIT);
  if (n == -1 && (errno == EAGAIN || errno == EINTR))
    return G_SOURCE_CONTINUE;
  if (n == -1 || (n == 0 && c->request_len == 0)) {
    client_end (c);
    return G_SOURCE_REMOVE;
  }
  c->request_len += n;
  newline = memchr (c->request, '\n', c->request_len);
  if (newline != NULL)
    client_answer (c, newline - c->request);
  else if (n == 0 || c->request_len > REQUEST_MAX)
    client_answer (c, c->request_len);
  else
    return G_SOURCE_CONTINUE;
  return G_SOURCE_REMOVE;
}

static void
client_begin (struct state_socket *s, int fd)
{
  struct client *c = g_new0 (struct client, 1);

  c->server = s;
  c->fd = fd;
  g_ptr_array_add (s->clients, c);
  client_start_timer (c);
  client_watch (c, G_IO_IN, client_read);
}

static gboolean
pause_over (gpointer data)
{
  struct state_socket *s = data;

  drop_source (&s->pause);
  listen_again (s);
  return G_SOURCE_REMOVE;
}

static bool
is_passing (int err)
{
  return err == EAGAIN || err == EINTR || err == ECONNABORTED;
}

/* Callers beyond the limit wait in the kernel's queue; so do all while
 * descriptors or memory are short, or the loop would spin.
 */
static gboolean
listener_ready (gint fd, GIOCondition condition, gpointer data)
{
  struct state_socket *s = data;
  int client = accept4 (fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

  (void) condition;
  if (client != -1)
    client_begin (s, client);
  else if (!is_passing (errno))
    s->pause = attach (g_timeout_source_new (PAUSE_MS), s->context,
                       pause_over, s);

  if (s->pause == NULL && s->clients->len < CLIENTS_MAX)
    return G_SOURCE_CONTINUE;
  drop_source (&s->listener);
  return G_SOURCE_REMOVE;
}

static void
listen_again (struct state_socket *s)
{
  s->listener = attach (g_unix_fd_source_new (s->fd, G_IO_IN), s->context,
                        G_SOURCE_FUNC (listener_ready), s);
}

void
state_socket_serve (struct state_socket *s, GMainContext *context,
                    state_socket_handler handler, void *data)
{
  s->context = g_main_context_ref (context != NULL ? context :
                                   g_main_context_default ());
  s->handler = handler;
  s->data = data;
  s->clients = g_ptr_array_new_with_free_func (client_free);
  listen_again (s);
}

/* Not if another program has put its own socket there since. */
static void
remove_own_path (const struct state_socket *s)
{
  struct stat st;

  if (lstat (s->path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
    unlink (s->path);
}

void
state_socket_close (struct state_socket *s)
{
  if (s == NULL)
    return;
  drop_source (&s->listener);
  drop_source (&s->pause);
  if (s->clients != NULL)
    g_ptr_array_unref (s->clients);
  if (s->context != NULL)
    g_main_context_unref (s->context);
  remove_own_path (s);
  close (s->fd);
  g_free (s->path);
  g_free (s);
}

/* Let the next call on fd wait for the rest of the time at most. */
static int
limit_wait (int fd, gint64 end_us)
{
  gint64 left_us = end_us - g_get_monotonic_time ();
  struct timeval tv;

  if (left_us <= 0)
    return -ETIMEDOUT;
  tv.tv_sec = left_us / G_USEC_PER_SEC;
  tv.tv_usec = left_us % G_USEC_PER_SEC;
  if (setsockopt (fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv) == -1 ||
      setsockopt (fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv) == -1)
    return -errno;
  return 0;
}

static int
ask_connect (int fd, const struct sockaddr_un *addr, gint64 end_us)
{
  int r = limit_wait (fd, end_us);
  struct stat st;

  if (r == 0 &&
      connect (fd, (const struct sockaddr *) addr, sizeof *addr) == -1)
    r = errno == EAGAIN ? -ETIMEDOUT : -errno;
  /* The kernel refuses a path of any other kind in the same way. */
  if (r == -ECONNREFUSED && stat (addr->sun_path, &st) == 0 &&
      !S_ISSOCK (st.st_mode))
    r = -ENOTSOCK;
  return r;
}

static int
ask_send (int fd, const char *text, gint64 end_us)
{
  size_t left = strlen (text);
  ssize_t n;
  int r;

  while (left > 0) {
    r = limit_wait (fd, end_us);
    if (r < 0)
      return r;
    n = send (fd, text, left, MSG_NOSIGNAL);
    if (n == -1 && errno != EAGAIN && errno != EINTR)
      return -errno;
    if (n > 0) {
      text += n;
      left -= n;
    }
  }
  return 0;
}

static int
ask_receive (int fd, GString *answer, gint64 end_us)
{
  char buf[16384];
  ssize_t n;
  int r;

  while (answer->len <= ANSWER_MAX) {
    r = limit_wait (fd, end_us);
    if (r < 0)
      return r;
    n = recv (fd, buf, sizeof buf, 0);
    /* A server that closes before it has read all resets. */
    if (n == 0 || (n == -1 && errno == ECONNRESET && answer->len > 0))
      return 0;
    if (n > 0)
      g_string_append_len (answer, buf, n);
    else if (errno != EAGAIN && errno != EINTR)
      return -errno;
  }
  return -EMSGSIZE;
}

static const char *
ask_remedy (int r)
{
  switch (r) {
  case -ENOENT:
    return "is the program running, and was it started with this path?";
  case -ECONNREFUSED:
    return "the program that made it has ended; start it again";
  case -EACCES:
    return "ask as the user who runs the program, or as root";
  case -ETIMEDOUT:
    return "the program is stopped or busy; try again or wait longer";
  default:
    return "is this the socket of a program that infiniswapctl can ask?";
  }
}

static JsonNode *
parse_answer (const char *path, const GString *answer, char **error)
{
  g_autoptr (GError) wrong = NULL;
  JsonNode *node, *failure;
  const char *text;

  node = g_utf8_validate (answer->str, answer->len, NULL) ?
    json_from_string (answer->str, &wrong) : NULL;
  if (node == NULL) {
    *error = g_strdup_printf ("%s: the answer is not a JSON document (%s); "
                              "is it the socket of another program?", path,
                              wrong != NULL ? wrong->message :
                              answer->len == 0 ? "empty" : "not text");
    return NULL;
  }
  failure = JSON_NODE_HOLDS_OBJECT (node) ?
    json_object_get_member (json_node_get_object (node), "error") : NULL;
  if (failure == NULL)
    return node;
  text = JSON_NODE_HOLDS_VALUE (failure) ? json_node_get_string (failure) :
    NULL;
  *error = g_strdup_printf ("%s: %s", path,
                            text != NULL ? text : "unknown error");
  json_node_unref (node);
  return NULL;
}

JsonNode *
state_socket_ask (const char *path, const char *request, gint64 timeout_ns,
                  char **error)
{
  gint64 end_us = g_get_monotonic_time () + timeout_ns / 1000;
  g_autofree char *line = g_strconcat (request, "\n", NULL);
  GString *answer = g_string_new (NULL);
  JsonNode *node = NULL;
  struct sockaddr_un addr;
  int fd = -1, r;

  if (fill_address (path, &addr, error) < 0)
    goto out;
  fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  r = fd == -1 ? -errno : ask_connect (fd, &addr, end_us);
  if (r == 0)
    r = ask_send (fd, line, end_us);
  if (r == 0)
    r = ask_receive (fd, answer, end_us);
  if (r < 0) {
    *error = g_strdup_printf ("%s: %s; %s", path, g_strerror (-r),
                              ask_remedy (r));
    goto out;
  }
  node = parse_answer (path, answer, error);

 out:
  if (fd != -1)
    close (fd);
  g_string_free (answer, TRUE);
  return node;
}
