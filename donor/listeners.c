#include "donor/listeners.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "conf/log.h"
#include "donor/wake.h"

enum {
  ACCEPTS_A_TURN = 32,
  PORT_TRIES = 16,
  ADDRESS_TEXT_MAX = 128,
};

static const int64_t retry_ns = 1000000000;

struct listener {
  struct listeners *home;
  const struct fabric_ops *ops;
  struct fabric_listener *fabric; /* NULL while its device is gone */
  GSource *source;              /* it accepts, or tries again */
};

struct listeners {
  const struct donor_config *config;
  GMainContext *context;
  void (*accept) (struct fabric_request *request, void *data);
  void *data;
  struct sockaddr_storage address;
  socklen_t address_len;
  char text[ADDRESS_TEXT_MAX];
  struct listener of[LISTENERS_MAX];
  unsigned n;
};

static int open_listener (struct listener *l);

static gboolean
try_again (gpointer data)
{
  struct listener *l = data;
  GSource *waited = l->source;

  if (open_listener (l) < 0) {
    wake_at (waited, fabric_now_ns () + retry_ns);
    return G_SOURCE_CONTINUE;
  }
  wake_free (waited);
  log_notice ("listening on %s: %s again", l->home->text, l->ops->name);
  return G_SOURCE_REMOVE;
}

static void
close_listener (struct listener *l)
{
  wake_free (l->source);
  l->source = NULL;
  if (l->fabric)
    fabric_listener_close (l->fabric);
  l->fabric = NULL;
}

static void
await_device (struct listener *l, int error)
{
  log_warning ("listening on %s: no more over %s until its device is back: %s",
               l->home->text, l->ops->name, strerror (-error));
  close_listener (l);
  l->source = wake_new (l->home->context, -1, try_again, l);
  wake_at (l->source, fabric_now_ns () + retry_ns);
}

static gboolean
accept_some (gpointer data)
{
  struct listener *l = data;
  struct fabric_request *request;
  int r;

  for (unsigned i = 0; i < ACCEPTS_A_TURN; i++) {
    r = fabric_listener_accept (l->fabric, &request);
    if (r == -EAGAIN)
      return G_SOURCE_CONTINUE;
    if (r < 0) {
      await_device (l, r);
      return G_SOURCE_REMOVE;
    }
    l->home->accept (request, l->home->data);
  }
  wake_at (l->source, 0);
  return G_SOURCE_CONTINUE;
}

static int
open_listener (struct listener *l)
{
  struct listeners *home = l->home;
  int r;

  r = fabric_available (l->ops);
  if (r == 0)
    r = fabric_listen (l->ops, (struct sockaddr *) &home->address,
                       home->address_len, &l->fabric);
  if (r < 0)
    return r;
  l->source = wake_new (home->context, fabric_listener_fd (l->fabric),
                        accept_some, l);
  return 0;
}

static int
add (struct listeners *home, const struct fabric_ops *ops)
{
  struct listener *l = &home->of[home->n];
  int r;

  *l = (struct listener) { .home = home, .ops = ops };
  r = open_listener (l);
  if (r == 0)
    home->n++;
  return r;
}

static void
format_address (struct listeners *l)
{
  char host[64], port[8];
  const bool ipv6 = l->address.ss_family == AF_INET6;

  if (getnameinfo ((struct sockaddr *) &l->address, l->address_len,
                   host, sizeof host, port, sizeof port,
                   NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    g_strlcpy (host, "?", sizeof host), port[0] = '\0';
  g_snprintf (l->text, sizeof l->text, ipv6 ? "[%s]:%s" : "%s:%s", host, port);
}

/* A port that is free now; whoever takes it first has it. */
static int
pick_port (struct sockaddr_storage *address, socklen_t len)
{
  const int fd = socket (address->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int r = 0;

  if (fd == -1)
    return -errno;
  if (bind (fd, (struct sockaddr *) address, len) == -1
      || getsockname (fd, (struct sockaddr *) address, &len) == -1)
    r = -errno;
  close (fd);
  return r;
}

/* The first fabric also chooses the port, where that is left open. */
static int
add_first (struct listeners *l, const struct fabric_ops *ops)
{
  const struct sockaddr_in *any = (struct sockaddr_in *) &l->address;
  bool choose;
  int r, tries = 0;

  do {
    l->address = l->config->listen;
    l->address_len = l->config->listen_len;
    choose = any->sin_port == 0; /* sin6_port lies there too */
    r = choose ? pick_port (&l->address, l->address_len) : 0;
    if (r == 0)
      r = add (l, ops);
  } while (choose && r == -EADDRINUSE && ++tries < PORT_TRIES);
  format_address (l);
  return r;
}

static void
add_verbs (struct listeners *l)
{
  const int r = add (l, &fabric_verbs);

  if (r < 0)
    log_warning ("listening on %s: tcp, without verbs: %s", l->text,
                 strerror (-r));
  else
    log_notice ("listening on %s: tcp and verbs", l->text);
}

struct listeners *
listeners_new (const struct donor_config *config, GMainContext *context,
               void (*accept) (struct fabric_request *request, void *data),
               void *data, char **error)
{
  const struct fabric_ops *first =
    config->fabric == DONOR_FABRIC_VERBS ? &fabric_verbs : &fabric_tcp;
  struct listeners *l = g_new0 (struct listeners, 1);
  int r;

  l->config = config;
  l->context = context;
  l->accept = accept;
  l->data = data;
  r = add_first (l, first);
  if (r < 0) {
    *error = g_strdup_printf ("cannot listen on %s (%s): %s", l->text,
                              first->name, strerror (-r));
    g_free (l);
    return NULL;
  }
  if (config->fabric == DONOR_FABRIC_AUTO)
    add_verbs (l);
  return l;
}

void
listeners_stop (struct listeners *l)
{
  for (unsigned i = 0; l && i < l->n; i++) {
    wake_free (l->of[i].source);
    l->of[i].source = NULL;
  }
}

void
listeners_free (struct listeners *l)
{
  if (l == NULL)
    return;
  for (unsigned i = 0; i < l->n; i++)
    close_listener (&l->of[i]);
  g_free (l);
}

const char *
listeners_text (const struct listeners *l)
{
  return l->text;
}

const struct sockaddr *
listeners_address (const struct listeners *l, socklen_t *len)
{
  *len = l->address_len;
  return (const struct sockaddr *) &l->address;
}

void
listeners_fabrics (const struct listeners *l,
                   const char *names[LISTENERS_MAX + 1])
{
  unsigned n = 0;

  for (unsigned i = 0; i < l->n; i++)
    if (l->of[i].fabric)
      names[n++] = l->of[i].ops->name;
  names[n] = NULL;
}
