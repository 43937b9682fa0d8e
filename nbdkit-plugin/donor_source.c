#include "nbdkit-plugin/donor_source.h"

#include <string.h>
#include <sys/stat.h>

#include <gio/gio.h>

#include "conf/log.h"

/* After a failure DNS is asked again so soon, and then twice as late each
 * time, up to the interval.
 */
enum { RETRY_MS = 1000 };

enum { FILE_CHECK_MS = 1000 };

struct service {
  struct donor_source *source;
  char *name;
  GPtrArray *found;             /* struct address *; the last good answer */
  char *error;                  /* of the last try; NULL: it was good */
  unsigned retry_ms;
  GSource *timer;
  GCancellable *asking;         /* while a question is under way */
};

struct donor_source {
  struct donor_source_params params;
  struct donor_list *read;      /* from the file; NULL: not yet again */
  GPtrArray *services;          /* struct service * */
  GSource *file_timer;
  struct timespec file_time;
};

static void ask (struct service *v);

static const struct donor_list *
list (const struct donor_source *s)
{
  return s->read ? s->read : s->params.list;
}

/* ---- the present list ---- */

static void
add_new (GPtrArray *all, GHashTable *seen, const GPtrArray *addresses)
{
  for (guint i = 0; i < addresses->len; i++)
    if (g_hash_table_add (seen, address_canonical (addresses->pdata[i])))
      g_ptr_array_add (all, addresses->pdata[i]);
}

static void
tell (struct donor_source *s)
{
  g_autoptr (GHashTable) seen =
    g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  g_autoptr (GPtrArray) all = g_ptr_array_new ();

  add_new (all, seen, list (s)->addresses);
  for (guint i = 0; i < s->services->len; i++)
    add_new (all, seen, ((struct service *) s->services->pdata[i])->found);
  s->params.changed (s->params.data, all);
}

/* ---- DNS ---- */

static void
stop_timer (GSource **timer)
{
  if (*timer) {
    g_source_destroy (*timer);
    g_source_unref (*timer);
    *timer = NULL;
  }
}

static GSource *
start_timer (struct donor_source *s, unsigned ms, GSourceFunc f, void *data)
{
  GSource *timer = g_timeout_source_new (ms);

  g_source_set_callback (timer, f, data, NULL);
  g_source_attach (timer, s->params.context);
  return timer;
}

static gboolean
on_timer (gpointer data)
{
  struct service *v = data;

  stop_timer (&v->timer);
  ask (v);
  return G_SOURCE_REMOVE;
}

static unsigned
interval_ms (const struct donor_source *s)
{
  return s->params.resolve_interval_ns / 1000000;
}

static void
ask_again (struct service *v)
{
  const unsigned interval = interval_ms (v->source);
  unsigned ms = interval;

  if (v->error) {
    ms = MIN (v->retry_ms, interval);
    v->retry_ms = MIN (v->retry_ms * 2, interval);
  }
  else
    v->retry_ms = RETRY_MS;
  v->timer = start_timer (v->source, ms, on_timer, v);
}

/* An answer is anybody's text: what is no address is left out.  A target of
 * "." means that there is no such service (RFC 2782).
 */
static struct address *
address_of (GSrvTarget *target)
{
  g_autofree char *host =
    g_ascii_strdown (g_srv_target_get_hostname (target), -1);
  const size_t len = strlen (host);
  g_autofree char *text = NULL;
  g_autofree char *error = NULL;

  if (len > 1 && host[len - 1] == '.')
    host[len - 1] = '\0';
  text = g_strdup_printf (strchr (host, ':') ? "[%s]:%u" : "%s:%u", host,
                          g_srv_target_get_port (target));
  return address_parse (text, &error);
}

static GPtrArray *
addresses_of (GList *targets)
{
  GPtrArray *found =
    g_ptr_array_new_with_free_func ((GDestroyNotify) address_free);

  for (GList *t = targets; t; t = t->next) {
    struct address *a = address_of (t->data);

    if (a)
      g_ptr_array_add (found, a);
  }
  return found;
}

/* The donors stay as they were. */
static void
note_failure (struct service *v, const char *error)
{
  if (!v->error)
    log_warning ("service %s: DNS gives no donors, the %u known stay: %s",
                 v->name, v->found->len, error);
  g_free (v->error);
  v->error = g_strdup (error);
}

static void
note_answer (struct service *v, GPtrArray *found)
{
  if (v->error)
    log_notice ("service %s: DNS gives donors again: %u", v->name,
                found->len);
  g_clear_pointer (&v->error, g_free);
  g_ptr_array_unref (v->found);
  v->found = found;
  tell (v->source);
}

static void
on_answer (GObject *resolver, GAsyncResult *result, gpointer data)
{
  g_autoptr (GError) error = NULL;
  GList *targets =
    g_resolver_lookup_service_finish (G_RESOLVER (resolver), result, &error);
  GPtrArray *found;
  struct service *v = data;

  /* After a cancellation the service is gone. */
  if (g_error_matches (error, G_IO_ERROR, G_IO_ERROR_CANCELLED)) {
    g_resolver_free_targets (targets);
    return;
  }
  g_clear_object (&v->asking);
  found = addresses_of (targets);
  g_resolver_free_targets (targets);
  if (found->len > 0)
    note_answer (v, found);
  else {
    note_failure (v, error ? error->message : "the answer names none");
    g_ptr_array_unref (found);
  }
  ask_again (v);
}

static void
ask (struct service *v)
{
  g_auto (GStrv) parts = g_strsplit (v->name, ".", 3);
  GResolver *resolver = g_resolver_get_default ();

  v->asking = g_cancellable_new ();
  g_resolver_lookup_service_async (resolver, parts[0] + 1, parts[1] + 1,
                                   parts[2], v->asking, on_answer, v);
  g_object_unref (resolver);
}

/* ---- the services of the list ---- */

static void
service_free (gpointer data)
{
  struct service *v = data;

  stop_timer (&v->timer);
  if (v->asking) {
    g_cancellable_cancel (v->asking);
    g_object_unref (v->asking);
  }
  g_ptr_array_unref (v->found);
  g_free (v->name);
  g_free (v->error);
  g_free (v);
}

static gboolean
names_equal (gconstpointer a, gconstpointer b)
{
  return strcmp (a, b) == 0;
}

static gboolean
service_is (gconstpointer service, gconstpointer name)
{
  return strcmp (((const struct service *) service)->name, name) == 0;
}

static void
add_service (struct donor_source *s, const char *name)
{
  struct service *v = g_new0 (struct service, 1);

  v->source = s;
  v->name = g_strdup (name);
  v->found = g_ptr_array_new ();
  v->retry_ms = RETRY_MS;
  g_ptr_array_add (s->services, v);
  ask (v);
}

/* Ask for those of the list, and for no others; what is known of one that
 * stays, stays.
 */
static void
set_services (struct donor_source *s, GPtrArray *names)
{
  for (guint i = s->services->len; i-- > 0; ) {
    struct service *v = s->services->pdata[i];

    if (!g_ptr_array_find_with_equal_func (names, v->name, names_equal,
                                           NULL))
      g_ptr_array_remove_index (s->services, i);
  }
  for (guint i = 0; i < names->len; i++)
    if (!g_ptr_array_find_with_equal_func (s->services, names->pdata[i],
                                           service_is, NULL))
      add_service (s, names->pdata[i]);
}

/* ---- the file ---- */

/* One that cannot be read now leaves the donors as they are. */
static gboolean
check_file (gpointer data)
{
  struct donor_source *s = data;
  g_autofree char *error = NULL;
  struct donor_list *read;
  struct stat st;

  if (stat (s->params.file, &st) == -1 ||
      memcmp (&st.st_mtim, &s->file_time, sizeof st.st_mtim) == 0)
    return G_SOURCE_CONTINUE;
  s->file_time = st.st_mtim;
  read = donor_list_read_file (s->params.file, &error);
  if (!read) {
    log_warning ("%s (the donors stay as they are)", error);
    return G_SOURCE_CONTINUE;
  }
  donor_list_free (s->read);
  s->read = read;
  set_services (s, read->services);
  tell (s);
  return G_SOURCE_CONTINUE;
}

/* ---- beginning and end ---- */

struct donor_source *
donor_source_new (const struct donor_source_params *params)
{
  struct donor_source *s = g_new0 (struct donor_source, 1);

  s->params = *params;
  s->services = g_ptr_array_new_with_free_func (service_free);
  if (params->file)
    s->file_timer = start_timer (s, FILE_CHECK_MS, check_file, s);
  tell (s);
  set_services (s, params->list->services);
  return s;
}

void
donor_source_free (struct donor_source *s)
{
  if (!s)
    return;
  stop_timer (&s->file_timer);
  g_ptr_array_unref (s->services);
  donor_list_free (s->read);
  g_free (s);
}

guint
donor_source_services (const struct donor_source *s)
{
  return s->services->len;
}

void
donor_source_get_service (const struct donor_source *s, guint i,
                          struct donor_source_service *ret)
{
  const struct service *v = s->services->pdata[i];

  *ret = (struct donor_source_service) {
    .name = v->name, .donors = v->found->len, .error = v->error,
  };
}
