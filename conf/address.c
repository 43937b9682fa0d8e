#include <arpa/inet.h>
#include <stdbool.h>
#include <string.h>

#include "conf/address.h"
#include "conf/text_file.h"
#include "conf/units.h"

static const char allowed[] =
  "HOST:PORT with a port from 1 to 65535, IPv6 as [::1]:9400";

void
address_free (struct address *a)
{
  if (a == NULL)
    return;
  g_free (a->host);
  g_free (a);
}

/* An IPv6 number, perhaps with a scope: fe80::1%eth0. */
static bool
is_ipv6 (const char *host)
{
  struct in6_addr addr;
  size_t len = strcspn (host, "%");
  g_autofree char *number = g_strndup (host, len);

  if (host[len] == '%' &&
      (host[len + 1] == '\0' || strpbrk (host + len + 1, "%[]/ \t") != NULL))
    return false;
  return inet_pton (AF_INET6, number, &addr) == 1;
}

/* A name, or a whole IPv4 number: not one of inet_aton's short forms. */
static bool
is_name_or_ipv4 (const char *host)
{
  static const char name_characters[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
  struct in_addr addr;
  size_t len = strlen (host);

  if (len == 0 || len > 253 || strspn (host, name_characters) != len ||
      host[0] == '-' || host[0] == '.')
    return false;
  if (strspn (host, "0123456789.") == len)
    return inet_pton (AF_INET, host, &addr) == 1;
  return true;
}

/* NULL, or what is wrong with it. */
static const char *
split (const char *text, char **host, uint64_t *port)
{
  const char *colon = strrchr (text, ':');
  bool bracket = text[0] == '[';
  size_t len;

  if (bracket && strchr (text, ']') == NULL)
    return "the closing bracket is missing";
  if (colon == NULL || (bracket && colon[-1] != ']'))
    return "there is no port";
  len = colon - text;
  if (!bracket && memchr (text, ':', len) != NULL)
    return "an IPv6 address needs brackets";
  *host = bracket ? g_strndup (text + 1, len - 2) : g_strndup (text, len);
  if (bracket ? !is_ipv6 (*host) : !is_name_or_ipv4 (*host))
    return bracket ? "no valid IPv6 address is in the brackets" :
      "no valid host name or address is before the port";
  if (units_parse_uint (colon + 1, port) != 0 ||
      *port == 0 || *port > UINT16_MAX)
    return "the port is not a number from 1 to 65535";
  return NULL;
}

struct address *
address_parse (const char *text, char **error)
{
  g_autofree char *host = NULL;
  g_autofree char *shown = NULL;
  struct address *a;
  const char *wrong;
  uint64_t port;

  wrong = split (text, &host, &port);
  if (wrong != NULL) {
    shown = g_strescape (text, NULL);
    *error = g_strdup_printf ("address \"%s\": %s (allowed: %s)",
                              shown, wrong, allowed);
    return NULL;
  }
  a = g_new (struct address, 1);
  a->host = g_steal_pointer (&host);
  a->port = port;
  return a;
}

char *
address_to_string (const struct address *a)
{
  return g_strdup_printf (strchr (a->host, ':') ? "[%s]:%u" : "%s:%u",
                          a->host, a->port);
}

/* The same for every way of writing an address, so that duplicates are
 * found.
 */
static char *
canonical (const struct address *a)
{
  char number[INET6_ADDRSTRLEN];
  struct in6_addr addr;
  g_autofree char *host = NULL;

  if (inet_pton (AF_INET6, a->host, &addr) == 1) {
    inet_ntop (AF_INET6, &addr, number, sizeof number);
    return g_strdup_printf ("[%s]:%u", number, a->port);
  }
  host = g_ascii_strdown (a->host, -1);
  return g_strdup_printf ("%s:%u", host, a->port);
}

static void
free_element (gpointer a)
{
  address_free (a);
}

/* A list being read, and what is in it already. */
struct collection {
  GPtrArray *list;
  GHashTable *seen;
};

static void
collection_begin (struct collection *c)
{
  c->list = g_ptr_array_new_with_free_func (free_element);
  c->seen = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
}

static bool
collection_add (struct collection *c, const char *text, char **error)
{
  struct address *a = address_parse (text, error);

  if (a == NULL)
    return false;
  g_ptr_array_add (c->list, a);
  if (!g_hash_table_add (c->seen, canonical (a))) {
    *error = g_strdup_printf ("address \"%s\" is there twice", text);
    return false;
  }
  return true;
}

static GPtrArray *
collection_end (struct collection *c, bool ok)
{
  g_hash_table_unref (c->seen);
  if (ok)
    return c->list;
  g_ptr_array_unref (c->list);
  return NULL;
}

GPtrArray *
address_parse_list (const char *text, char **error)
{
  g_auto (GStrv) items = g_strsplit (text, ",", -1);
  struct collection c;
  bool ok = true;

  if (items[0] == NULL) {
    *error = g_strdup_printf ("the list of addresses is empty "
                              "(allowed: HOST:PORT,HOST:PORT,...)");
    return NULL;
  }
  collection_begin (&c);
  for (char **item = items; ok && *item != NULL; item++)
    ok = collection_add (&c, *item, error);
  return collection_end (&c, ok);
}

GPtrArray *
address_read_file (const char *path, char **error)
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
