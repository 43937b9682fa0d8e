#include <errno.h>
#include <string.h>

#include <gio/gio.h>
#include <json-glib/json-glib.h>

#include "conf/address.h"
#include "conf/units.h"
#include "ctl/donors.h"
#include "ctl/page.h"
#include "ctl/probe.h"

struct run;

struct donor {
  struct run *run;
  char *name;
  const struct address *address;
  char *found;                  /* what the name stands for, or NULL */
  GCancellable *resolving;      /* NULL: not, or done */
  char *failure;                /* of resolving */
  struct probe *probes[DONORS_FABRICS];
  struct probe_result results[DONORS_FABRICS];
};

struct run {
  const struct donors_options *o;
  GPtrArray *donors;            /* struct donor * */
  guint pending;                /* resolutions and probes under way */
  bool late;
  int64_t end_us;
};

static void
on_probed (void *data)
{
  struct donor *d = data;

  d->run->pending--;
}

static void
probe (struct donor *d, GInetAddress *inet)
{
  const struct donors_options *o = d->run->o;
  g_autoptr (GSocketAddress) address =
    g_inet_socket_address_new (inet, d->address->port);
  struct sockaddr_storage native = { 0 };
  socklen_t len = g_socket_address_get_native_size (address);
  int64_t left_ns = (d->run->end_us - g_get_monotonic_time ()) * 1000;

  if (!g_socket_address_to_native (address, &native, sizeof native, NULL)) {
    d->failure = g_strdup ("no address of this machine's kind");
    return;
  }
  for (int i = 0; i < DONORS_FABRICS; i++)
    if (o->fabrics[i] != NULL && fabric_available (o->fabrics[i]) == 0) {
      d->run->pending++;
      d->probes[i] = probe_start (o->fabrics[i], (struct sockaddr *) &native,
                                  len, MAX (left_ns, 1), NULL, on_probed, d);
    }
}

static void
on_resolved (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (GError) wrong = NULL;
  GList *found = g_resolver_lookup_by_name_finish (G_RESOLVER (source),
                                                   result, &wrong);
  struct donor *d = data;

  d->run->pending--;
  g_clear_object (&d->resolving);
  if (found != NULL) {
    d->found = g_inet_address_to_string (found->data);
    probe (d, found->data);
  }
  else if (!g_error_matches (wrong, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    d->failure = g_strdup (wrong->message);
  g_resolver_free_addresses (found);
}

static void
begin (struct donor *d)
{
  g_autoptr (GInetAddress) inet =
    g_inet_address_new_from_string (d->address->host);
  g_autoptr (GResolver) resolver = NULL;

  if (inet != NULL) {
    probe (d, inet);
    return;
  }
  resolver = g_resolver_get_default ();
  d->resolving = g_cancellable_new ();
  d->run->pending++;
  g_resolver_lookup_by_name_async (resolver, d->address->host, d->resolving,
                                   on_resolved, d);
}

static gboolean
on_late (gpointer data)
{
  struct run *r = data;

  r->late = true;
  return G_SOURCE_CONTINUE;
}

/* What has no answer by now has none: keep what there is. */
static void
settle (struct donor *d)
{
  g_autofree char *late = NULL;
  char text[UNITS_TEXT_MAX];

  late = g_strdup_printf ("no answer within %s", units_format_duration
                          (d->run->o->timeout_ns, text));
  if (d->resolving != NULL) {
    g_cancellable_cancel (d->resolving);
    d->failure = g_strdup_printf ("the name has no address within %s", text);
  }
  for (int i = 0; i < DONORS_FABRICS; i++) {
    struct probe_result *result = &d->results[i];

    if (d->probes[i] == NULL)
      continue;
    *result = *probe_result (d->probes[i]);
    if (result->state == PROBE_GOING) {
      result->state = PROBE_FAILED;
      g_strlcpy (result->reason, late, sizeof result->reason);
    }
  }
}

static void
ask_all (struct run *r)
{
  GSource *timer;

  r->end_us = g_get_monotonic_time () + r->o->timeout_ns / 1000;
  for (guint i = 0; i < r->donors->len; i++)
    begin (r->donors->pdata[i]);
  timer = g_timeout_source_new (MIN (r->o->timeout_ns / 1000000 + 1,
                                     G_MAXINT));
  g_source_set_callback (timer, on_late, r, NULL);
  g_source_attach (timer, NULL);
  while (r->pending > 0 && !r->late)
    g_main_context_iteration (NULL, TRUE);
  g_source_destroy (timer);
  g_source_unref (timer);
  for (guint i = 0; i < r->donors->len; i++)
    settle (r->donors->pdata[i]);
  /* Cancelled look-ups report once more. */
  for (guint i = 0; i < r->donors->len; i++)
    while (((struct donor *) r->donors->pdata[i])->resolving != NULL)
      g_main_context_iteration (NULL, TRUE);
}

/* The one that a borrower would use, or NULL. */
static const struct probe_result *
best (const struct donor *d)
{
  for (int i = 0; i < DONORS_FABRICS; i++)
    if (d->probes[i] != NULL && d->results[i].state == PROBE_ANSWERED)
      return &d->results[i];
  return NULL;
}

static const char *
state_name (const struct donor *d)
{
  if (best (d) != NULL)
    return "reachable";
  for (int i = 0; i < DONORS_FABRICS; i++)
    if (d->probes[i] != NULL && d->results[i].state == PROBE_REFUSED)
      return "refused";
  return "unreachable";
}

/* ---- the table ---- */

static const char *
round_trip (struct page *p, const struct donor *d, int i)
{
  int64_t ns = d->results[i].round_trip_ns;

  if (d->probes[i] == NULL || d->results[i].state != PROBE_ANSWERED)
    return "-";
  return ns < 10000000 ? page_format (p, "%.0fus", ns / 1e3) :
    page_format (p, "%.0fms", ns / 1e6);
}

static void
add_notes (struct page *p, struct page_table *t, const struct donor *d)
{
  if (d->failure != NULL)
    page_table_note (t, page_printable (p, d->failure));
  for (int i = 0; i < DONORS_FABRICS; i++)
    if (d->probes[i] != NULL && d->results[i].state != PROBE_ANSWERED)
      page_table_note (t, page_format (p, "%s%s%s: %s%s",
                                       d->run->o->fabrics[i]->name,
                                       d->found ? " to " : "",
                                       d->found ? : "",
                                       d->results[i].state == PROBE_REFUSED ?
                                       "refused: " : "",
                                       page_printable
                                       (p, d->results[i].reason)));
}

static void
add_row (struct page *p, struct page_table *t, const struct donor *d)
{
  const struct probe_result *b = best (d);

  page_table_row (t, page_printable (p, d->name), state_name (d),
                  b ? page_bytes (p, b->free_bytes) : "-",
                  b ? page_bytes (p, (double) b->slabs_lent *
                                  b->slab_size_bytes) : "-",
                  b ? page_format (p, "%" G_GUINT64_FORMAT, b->slabs_ready) :
                  "-",
                  b ? page_bytes (p, b->slab_size_bytes) : "-",
                  round_trip (p, d, 0), round_trip (p, d, 1));
  add_notes (p, t, d);
}

static void
print_table (const struct run *r, FILE *out)
{
  g_autofree char *text = NULL;
  struct page_table t;
  struct page p;

  page_begin (&p);
  page_table_begin (&t, "llrrrrrr", "DONOR", "STATE", "FREE", "LENT", "READY",
                    "SLAB", "VERBS", "TCP");
  for (guint i = 0; i < r->donors->len; i++)
    add_row (&p, &t, r->donors->pdata[i]);
  page_table_end (&t, &p);
  text = page_end (&p);
  fputs (text, out);
  for (int i = 0; i < DONORS_FABRICS; i++)
    if (r->o->fabrics[i] != NULL && fabric_available (r->o->fabrics[i]) < 0)
      fprintf (out, "Not over %s: this machine has no device for it\n",
               r->o->fabrics[i]->name);
}

/* ---- JSON ---- */

static void
add_string (JsonBuilder *b, const char *name, const char *value)
{
  g_autofree char *valid = g_utf8_make_valid (value, -1);

  json_builder_set_member_name (b, name);
  json_builder_add_string_value (b, valid);
}

static void
add_int (JsonBuilder *b, const char *name, uint64_t value)
{
  json_builder_set_member_name (b, name);
  json_builder_add_int_value (b, MIN (value, G_MAXINT64));
}

static void
build_fabric (JsonBuilder *b, const struct probe_result *result)
{
  static const char *const names[] = {
    [PROBE_ANSWERED] = "answered", [PROBE_REFUSED] = "refused",
    [PROBE_FAILED] = "failed",
  };

  json_builder_begin_object (b);
  add_string (b, "state", names[result->state]);
  if (result->state == PROBE_ANSWERED) {
    json_builder_set_member_name (b, "round_trip_us");
    json_builder_add_double_value (b, result->round_trip_ns / 1e3);
  }
  else
    add_string (b, "reason", result->reason);
  json_builder_end_object (b);
}

static void
build_donor (JsonBuilder *b, const struct donor *d)
{
  const struct probe_result *result = best (d);

  json_builder_begin_object (b);
  add_string (b, "address", d->name);
  add_string (b, "state", state_name (d));
  if (d->failure != NULL)
    add_string (b, "reason", d->failure);
  if (result != NULL) {
    add_int (b, "slab_size_bytes", result->slab_size_bytes);
    add_int (b, "free_bytes", result->free_bytes);
    add_int (b, "slabs_ready", result->slabs_ready);
    add_int (b, "slabs_lent", result->slabs_lent);
  }
  json_builder_set_member_name (b, "fabrics");
  json_builder_begin_object (b);
  for (int i = 0; i < DONORS_FABRICS; i++)
    if (d->probes[i] != NULL) {
      json_builder_set_member_name (b, d->run->o->fabrics[i]->name);
      build_fabric (b, &d->results[i]);
    }
  json_builder_end_object (b);
  json_builder_end_object (b);
}

static void
print_json (const struct run *r, FILE *out)
{
  g_autoptr (JsonBuilder) b = json_builder_new ();
  g_autofree char *text = NULL;
  JsonNode *node;

  json_builder_begin_array (b);
  for (guint i = 0; i < r->donors->len; i++)
    build_donor (b, r->donors->pdata[i]);
  json_builder_end_array (b);
  node = json_builder_get_root (b);
  text = json_to_string (node, TRUE);
  json_node_unref (node);
  fprintf (out, "%s\n", text);
}

static void
free_donor (gpointer data)
{
  struct donor *d = data;

  for (int i = 0; i < DONORS_FABRICS; i++)
    g_clear_pointer (&d->probes[i], probe_free);
  g_free (d->failure);
  g_free (d->found);
  g_free (d->name);
  g_free (d);
}

int
donors_run (const struct donors_options *o, FILE *out)
{
  struct run r = {
    .o = o,
    .donors = g_ptr_array_new_with_free_func (free_donor),
  };
  int status = 0;

  for (guint i = 0; i < o->addresses->len; i++) {
    struct donor *d = g_new0 (struct donor, 1);

    d->run = &r;
    d->address = o->addresses->pdata[i];
    d->name = address_to_string (d->address);
    g_ptr_array_add (r.donors, d);
  }
  ask_all (&r);
  if (o->json)
    print_json (&r, out);
  else
    print_table (&r, out);
  for (guint i = 0; i < r.donors->len; i++)
    if (best (r.donors->pdata[i]) == NULL)
      status = 1;
  g_ptr_array_unref (r.donors);
  return status;
}
