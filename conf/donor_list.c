#include "conf/donor_list.h"

#include <stdbool.h>
#include <string.h>

#include "conf/text_file.h"

static const char srv[] = "srv:";

static void
free_address (gpointer a)
{
  address_free (a);
}

void
donor_list_free (struct donor_list *l)
{
  if (l == NULL)
    return;
  g_ptr_array_unref (l->addresses);
  g_ptr_array_unref (l->services);
  g_free (l);
}

/* A list being read, and what is in it already. */
struct collection {
  struct donor_list *list;
  GHashTable *seen;
};

static void
collection_begin (struct collection *c)
{
  c->list = g_new (struct donor_list, 1);
  c->list->addresses = g_ptr_array_new_with_free_func (free_address);
  c->list->services = g_ptr_array_new_with_free_func (g_free);
  c->seen = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
}

/* A label of a name in DNS (RFC 1035, 2782), of this length. */
static bool
is_label (const char *label, size_t len)
{
  static const char characters[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

  return len > 0 && len <= 63 && strspn (label, characters) >= len;
}

/* NULL, or what is wrong with it. */
static const char *
check_service (const char *name)
{
  unsigned labels = 0;
  size_t len;

  if (strlen (name) > 253)
    return "it is longer than 253 characters";
  for (const char *label = name; ; label += len + 1) {
    len = strcspn (label, ".");
    if (len == 0 && label[0] == '\0' && labels > 2)
      return NULL;              /* the root's dot */
    if (!is_label (label, len))
      return len > 63 ? "a part is longer than 63 characters" : len == 0 ?
        "a part is empty" : "a character is neither letter, digit, - nor _";
    if (labels++ < 2 && (label[0] != '_' || len == 1))
      return labels == 1 ? "the service does not begin with _" :
        "the protocol does not begin with _";
    if (label[len] == '\0')
      return labels > 2 ? NULL : "the domain is missing";
  }
}

static bool
add_service (struct collection *c, const char *text, char **error)
{
  const char *name = text + strlen (srv);
  const char *wrong = check_service (name);
  char *canonical;

  if (wrong != NULL) {
    g_autofree char *shown = g_strescape (text, NULL);

    *error = g_strdup_printf ("service \"%s\": %s (allowed: "
                              "srv:_SERVICE._PROTOCOL.DOMAIN, such as "
                              "srv:_infiniswap._tcp.example.org)",
                              shown, wrong);
    return false;
  }
  canonical = g_ascii_strdown (name, -1);
  if (g_str_has_suffix (canonical, "."))
    canonical[strlen (canonical) - 1] = '\0';
  g_ptr_array_add (c->list->services, g_strdup (canonical));
  return g_hash_table_add (c->seen, canonical);
}

static bool
add_address (struct collection *c, const char *text, char **error)
{
  struct address *a = address_parse (text, error);

  if (a == NULL)
    return false;
  g_ptr_array_add (c->list->addresses, a);
  return g_hash_table_add (c->seen, address_canonical (a));
}

static bool
collection_add (struct collection *c, const char *text, char **error)
{
  const bool is_service = g_str_has_prefix (text, srv);

  *error = NULL;
  if (is_service ? add_service (c, text, error) :
      add_address (c, text, error))
    return true;
  if (*error == NULL)
    *error = g_strdup_printf ("%s \"%s\" is there twice",
                              is_service ? "service" : "address", text);
  return false;
}

static struct donor_list *
collection_end (struct collection *c, bool ok)
{
  g_hash_table_unref (c->seen);
  if (ok)
    return c->list;
  donor_list_free (c->list);
  return NULL;
}

struct donor_list *
donor_list_parse (const char *text, char **error)
{
  g_auto (GStrv) items = g_strsplit (text, ",", -1);
  struct collection c;
  bool ok = true;

  if (items[0] == NULL) {
    *error = g_strdup_printf ("the list of donors is empty "
                              "(allowed: HOST:PORT,HOST:PORT,...)");
    return NULL;
  }
  collection_begin (&c);
  for (char **item = items; ok && *item != NULL; item++)
    ok = collection_add (&c, *item, error);
  return collection_end (&c, ok);
}

struct donor_list *
donor_list_read_file (const char *path, char **error)
{
  g_autofree char *text = text_file_read (path, error);
  g_auto (GStrv) lines = NULL;
  struct collection c;
  bool ok = true;

  if (text == NULL)
    return NULL;
  lines = g_strsplit (text, "\n", -1);
  collection_begin (&c);
  for (unsigned i = 0; ok && lines[i] != NULL; i++) {
    g_autofree char *why = NULL;

    lines[i][strcspn (lines[i], "#")] = '\0';
    g_strstrip (lines[i]);
    if (lines[i][0] == '\0')
      continue;
    ok = collection_add (&c, lines[i], &why);
    if (!ok)
      *error = g_strdup_printf ("%s, line %u: %s", path, i + 1, why);
  }
  return collection_end (&c, ok);
}

static void
append (GString *s, const char *prefix, const char *item)
{
  g_string_append_printf (s, "%s%s%s", s->len > 0 ? "," : "", prefix, item);
}

char *
donor_list_to_string (const struct donor_list *l)
{
  GString *s = g_string_new (NULL);

  for (guint i = 0; i < l->addresses->len; i++) {
    g_autofree char *one = address_to_string (l->addresses->pdata[i]);
    append (s, "", one);
  }
  for (guint i = 0; i < l->services->len; i++)
    append (s, srv, l->services->pdata[i]);
  return g_string_free (s, FALSE);
}
