#include "nbdkit-plugin/donor_pool.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "conf/log.h"

/* A session that lasted so long proves that its donor works. */
enum { PROVEN_SECONDS = 5 };

enum { DELAY_MIN_MS = 100, DELAY_MAX_MS = 2000 };

static void try_later (struct donor *d);

const char *
donor_state_name (enum donor_state state)
{
  static const char *const names[] = {
    [DONOR_WAITING] = "waiting", [DONOR_RESOLVING] = "resolving",
    [DONOR_CONNECTING] = "connecting", [DONOR_CONNECTED] = "connected",
    [DONOR_ENDED] = "ended",
  };
  return names[state];
}

bool
donor_is_usable (const struct donor *d)
{
  return d->state == DONOR_CONNECTED && !d->leaving &&
    !atomic_load (session_ended (d->session));
}

/* Log what is news, not every repetition. */
static void
note (struct donor *d, char **last, const char *what, const char *reason)
{
  if (g_strcmp0 (*last, reason) == 0)
    return;
  g_free (*last);
  *last = g_strdup (reason);
  log_limited (LOG_LEVEL_WARNING, "donor %s: %s%s", d->name, what, reason);
}

void
donor_note_refusal (struct donor *d, const char *reason)
{
  note (d, &d->last_refusal, "lends no slab: ", reason);
}

void
donor_note_loss (struct donor *d)
{
  g_autofree char *reason = NULL;

  if (!session_welcomed (d->session))
    return;                     /* a try that failed, not a loss */
  if (d->leaving && d->slabs == 0)
    return;                     /* donor_pool_dismiss ended it */
  reason = g_strdup_printf ("%s; it had %" G_GUINT64_FORMAT " slabs",
                            session_reason (d->session), d->slabs);
  log_limited (LOG_LEVEL_WARNING, "donor %s: session ended: %s", d->name,
               reason);
  g_free (d->last_error);
  d->last_error = g_strdup (session_reason (d->session));
}

static void
on_welcome (void *data)
{
  struct donor *d = data;

  d->state = DONOR_CONNECTED;
  d->skip_verbs = false;
  g_clear_pointer (&d->last_error, g_free);
  log_limited (LOG_LEVEL_NOTICE, "donor %s: connected over %s", d->name,
               d->ops->name);
  d->pool->events.connected (d->pool->data, d);
}

static void
on_message (void *data, const struct message *m)
{
  struct donor *d = data;

  d->pool->events.message (d->pool->data, d, m);
}

static void
on_lanes_ready (void *data)
{
  struct donor *d = data;

  d->pool->events.lanes_ready (d->pool->data, d);
}

static const struct session_events session_events = {
  .welcome = on_welcome, .message = on_message,
  .lanes_ready = on_lanes_ready,
};

static void
stop_timer (struct donor *d)
{
  if (d->timer) {
    g_source_destroy (d->timer);
    g_source_unref (d->timer);
    d->timer = NULL;
  }
}

/* auto: verbs first; after that failed, tcp, and verbs again next time. */
static const struct fabric_ops *
pick_fabric (struct donor *d)
{
  if (d->pool->fabric == FABRIC_ONLY_VERBS)
    return &fabric_verbs;
  if (d->pool->fabric == FABRIC_ONLY_TCP || d->skip_verbs ||
      fabric_available (&fabric_verbs) < 0) {
    d->skip_verbs = false;
    return &fabric_tcp;
  }
  return &fabric_verbs;
}

static void
failed (struct donor *d, const char *reason)
{
  d->failures++;
  note (d, &d->last_error, "", reason);
  try_later (d);
}

/* The next try goes to another of its addresses. */
static void
not_reached (struct donor *d, const char *reason)
{
  d->turn++;
  failed (d, reason);
}

static void
connect_to (struct donor *d, GInetAddress *inet)
{
  struct sockaddr_storage addr;
  GSocketAddress *gaddr = g_inet_socket_address_new (inet, d->address->port);
  socklen_t len = g_socket_address_get_native_size (gaddr);
  int error = -EINVAL;

  if (g_socket_address_to_native (gaddr, &addr, sizeof addr, NULL)) {
    d->ops = pick_fabric (d);
    d->session = session_start (d->pool->params, d->ops,
                                (struct sockaddr *) &addr, len,
                                &session_events, d, &error);
  }
  g_object_unref (gaddr);
  if (d->session)
    d->state = DONOR_CONNECTING;
  else
    not_reached (d, strerror (-error));
}

static void
on_resolved (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (GError) error = NULL;
  GList *found =
    g_resolver_lookup_by_name_finish (G_RESOLVER (source), result, &error);
  struct donor *d = data;

  /* After a cancellation the donor is gone. */
  if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    return;
  g_clear_object (&d->resolving);
  if (found)
    connect_to (d, g_list_nth_data (found, d->turn % g_list_length (found)));
  else
    failed (d, error->message);
  g_resolver_free_addresses (found);
}

static void
try_now (struct donor *d)
{
  GInetAddress *inet = g_inet_address_new_from_string (d->address->host);

  if (inet) {
    connect_to (d, inet);
    g_object_unref (inet);
    return;
  }

  GResolver *resolver = g_resolver_get_default ();
  d->state = DONOR_RESOLVING;
  d->resolving = g_cancellable_new ();
  g_resolver_lookup_by_name_async (resolver, d->address->host, d->resolving,
                                   on_resolved, d);
  g_object_unref (resolver);
}

static gboolean
on_delay (gpointer data)
{
  struct donor *d = data;

  stop_timer (d);
  try_now (d);
  return G_SOURCE_REMOVE;
}

static void
try_later (struct donor *d)
{
  d->state = DONOR_WAITING;
  d->timer = g_timeout_source_new (d->delay_ms);
  g_source_set_callback (d->timer, on_delay, d, NULL);
  g_source_attach (d->timer, d->pool->params->context);
  d->delay_ms = MIN (d->delay_ms * 2, DELAY_MAX_MS);
}

static void
donor_free (gpointer data)
{
  struct donor *d = data;

  stop_timer (d);
  if (d->resolving) {
    g_cancellable_cancel (d->resolving);
    g_object_unref (d->resolving);
  }
  if (d->session)
    session_free (d->session);
  g_free (d->name);
  g_free (d->last_error);
  g_free (d->last_refusal);
  g_free (d->address->host);
  g_free (d->address);
  g_free (d);
}

struct donor_pool *
donor_pool_new (const struct session_params *params,
                enum fabric_choice fabric,
                const struct donor_pool_events *events, void *data)
{
  struct donor_pool *p = g_new0 (struct donor_pool, 1);

  p->params = params;
  p->fabric = fabric;
  p->events = *events;
  p->data = data;
  p->donors = g_ptr_array_new_with_free_func (donor_free);
  return p;
}

void
donor_pool_free (struct donor_pool *p)
{
  g_ptr_array_unref (p->donors);
  g_free (p);
}

static struct donor *
find (struct donor_pool *p, const char *name)
{
  for (guint i = 0; i < p->donors->len; i++) {
    struct donor *d = p->donors->pdata[i];
    if (strcmp (d->name, name) == 0)
      return d;
  }
  return NULL;
}

static void
add (struct donor_pool *p, const struct address *address, char *name)
{
  struct donor *d = g_new0 (struct donor, 1);

  d->pool = p;
  d->name = name;
  d->address = g_new (struct address, 1);
  d->address->host = g_strdup (address->host);
  d->address->port = address->port;
  d->delay_ms = DELAY_MIN_MS;
  g_ptr_array_add (p->donors, d);
  try_now (d);
}

static void
mark_leaving (struct donor *d)
{
  d->leaving = true;
  d->leaving_ns = fabric_now_ns ();
  log_notice ("donor %s: no longer listed; %" G_GUINT64_FORMAT " slabs are to "
              "leave it", d->name, d->slabs);
}

static void
mark_wanted (struct donor *d)
{
  if (d->leaving)
    log_notice ("donor %s: listed again", d->name);
  d->leaving = false;
}

void
donor_pool_set (struct donor_pool *p, GPtrArray *addresses)
{
  g_autoptr (GHashTable) names =
    g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);

  for (guint i = 0; i < addresses->len; i++) {
    char *name = address_to_string (addresses->pdata[i]);
    struct donor *d = find (p, name);

    g_hash_table_add (names, name);
    if (d)
      mark_wanted (d);
    else
      add (p, addresses->pdata[i], g_strdup (name));
  }
  for (guint i = 0; i < p->donors->len; i++) {
    struct donor *d = p->donors->pdata[i];

    if (!d->leaving && !g_hash_table_contains (names, d->name))
      mark_leaving (d);
  }
}

static void
forget (struct donor *d)
{
  log_notice ("donor %s: no longer used", d->name);
  g_ptr_array_remove (d->pool->donors, d);
}

void
donor_pool_dismiss (struct donor_pool *p)
{
  /* From the end, since some are removed. */
  for (guint i = p->donors->len; i-- > 0; ) {
    struct donor *d = p->donors->pdata[i];

    if (!d->leaving)
      continue;
    if (!d->session)
      forget (d);
    else if (d->slabs == 0)
      session_end (d->session, -ECANCELED);
  }
}

static void
check (struct donor *d)
{
  if (!d->session || d->state == DONOR_ENDED ||
      !atomic_load (session_ended (d->session)))
    return;
  d->state = DONOR_ENDED;
  d->pool->events.ended (d->pool->data, d);
}

void
donor_pool_check (struct donor_pool *p)
{
  /* From the end: `ended` may let go, and so remove a leaving donor. */
  for (guint i = p->donors->len; i-- > 0; )
    check (p->donors->pdata[i]);
}

void
donor_pool_let_go (struct donor *d)
{
  struct session *s = d->session;
  bool welcomed = session_welcomed (s);
  bool no_verbs = d->ops == &fabric_verbs && !welcomed &&
    !session_refused (s);
  char *reason = g_strdup (session_reason (s));

  if (session_age_seconds (s) >= PROVEN_SECONDS)
    d->delay_ms = DELAY_MIN_MS;
  d->session = NULL;
  d->free_bytes = 0;
  session_free (s);
  if (d->leaving)
    forget (d);
  else if (no_verbs && d->pool->fabric == FABRIC_AUTO) {
    d->skip_verbs = true;
    d->state = DONOR_WAITING;
    try_now (d);
  }
  else if (welcomed)
    failed (d, reason);
  else
    not_reached (d, reason);
  g_free (reason);
}
