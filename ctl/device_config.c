#include <stdlib.h>
#include <string.h>

#include "conf/key_file.h"
#include "conf/units.h"
#include "ctl/device_config.h"

enum { NAME_MAX_LEN = 32 };

struct given {
  char *value;
  char *where;                  /* "FILE, line N: ", or "" */
};

bool
device_config_check_name (const char *name)
{
  size_t len = strlen (name);

  return len > 0 && len <= NAME_MAX_LEN && g_ascii_isalnum (name[0]) &&
    strspn (name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
            "0123456789_.-") == len;
}

/* ---- one kind of value each ---- */

static bool
set_number (const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
  uint64_t v;

  if (units_parse_uint (text, &v) < 0 || v < min || v > max)
    return false;
  *ret = v;
  return true;
}

static bool
set_yes (const char *text, bool *ret)
{
  *ret = strcmp (text, "yes") == 0;
  return *ret || strcmp (text, "no") == 0;
}

static bool
set_device (struct device_config *c, const char *text)
{
  uint64_t n;

  if (!g_str_has_prefix (text, "/dev/nbd") ||
      !set_number (text + strlen ("/dev/nbd"), 0, 1 << 16, &n))
    return false;
  c->index = n;
  return true;
}

static bool
set_connections (struct device_config *c, const char *text)
{
  return set_number (text, 1, 64, &c->connections);
}

static bool
set_threads (struct device_config *c, const char *text)
{
  return set_number (text, 1, 64, &c->threads);
}

static bool
set_dead_timeout (struct device_config *c, const char *text)
{
  const int64_t second = 1000000000;
  int64_t ns;

  if (units_parse_duration (text, &ns) < 0 || ns < second ||
      ns > 3600 * second || ns % second != 0)
    return false;
  c->dead_timeout_s = ns / second;
  return true;
}

static bool
set_swap (struct device_config *c, const char *text)
{
  return set_yes (text, &c->swap);
}

static bool
set_priority (struct device_config *c, const char *text)
{
  return set_number (text, 0, 32767, &c->priority);
}

static bool
set_discard (struct device_config *c, const char *text)
{
  return set_yes (text, &c->discard);
}

static bool
set_allow (struct device_config *c, const char *text)
{
  static const char *const names[] = { "lock", "oom", "cgroup", "donors" };
  g_auto (GStrv) parts = g_strsplit (text, ",", -1);

  G_STATIC_ASSERT (ALLOW_DONORS == 1 << (G_N_ELEMENTS (names) - 1));
  c->allow = 0;
  for (char **part = parts; *part != NULL; part++) {
    size_t i = 0;

    while (i < G_N_ELEMENTS (names) && strcmp (*part, names[i]) != 0)
      i++;
    if (i == G_N_ELEMENTS (names) && strcmp (text, "none") != 0)
      return false;
    c->allow |= i < G_N_ELEMENTS (names) ? 1u << i : 0;
  }
  return parts[0] != NULL;
}

static const struct {
  const char *name;
  bool (*set) (struct device_config *c, const char *text);
  const char *allowed;
} own_keys[] = {
  { "device", set_device, "a device such as /dev/nbd0" },
  { "connections", set_connections, "a number from 1 to 64" },
  { "threads", set_threads, "a number from 1 to 64" },
  { "dead-timeout", set_dead_timeout, "whole seconds from 1s to 1h" },
  { "swap", set_swap, "yes or no" },
  { "priority", set_priority, "a number from 0 to 32767" },
  { "discard", set_discard, "yes or no" },
  { "allow", set_allow, "none, or some of lock,oom,cgroup,donors" },
};

/* ---- what is given ---- */

static void
free_given (gpointer data)
{
  struct given *g = data;

  g_free (g->value);
  g_free (g->where);
  g_free (g);
}

static void
give (GHashTable *all, const char *name, const char *value, char *where)
{
  struct given *g = g_new (struct given, 1);

  g->value = g_strdup (value);
  g->where = where;
  g_hash_table_replace (all, g_strdup (name), g);
}

static bool
read_file (const char *path, GHashTable *all, char **error)
{
  GPtrArray *entries = key_file_read (path, "device", error);

  if (entries == NULL)
    return false;
  for (guint i = 0; i < entries->len; i++) {
    const struct key_file_entry *e = g_ptr_array_index (entries, i);

    give (all, e->name, e->value,
          g_strdup_printf ("%s, line %u: ", path, e->line));
  }
  g_ptr_array_unref (entries);
  return true;
}

static bool
read_overrides (const char *const *overrides, GHashTable *all, char **error)
{
  for (; overrides != NULL && *overrides != NULL; overrides++) {
    const char *equals = strchr (*overrides, '=');
    g_autofree char *name = NULL;

    if (equals == NULL) {
      *error = g_strdup_printf ("\"%s\" is not KEY=VALUE", *overrides);
      return false;
    }
    name = g_strndup (*overrides, equals - *overrides);
    give (all, name, equals + 1, g_strdup (""));
  }
  return true;
}

/* nbdkit would take another word for an option, or for a file. */
static bool
is_key (const char *name)
{
  return g_ascii_islower (name[0]) &&
    strspn (name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen (name);
}

/* Why the plugin may not get this key from the user; NULL if it may. */
static const char *
refuse_plugin_key (const struct device_config *c, const char *name,
                   const char *value)
{
  if (!is_key (name))
    return "this is no key; see infiniswapctl(1)";
  if (strcmp (name, "state") == 0 || strcmp (name, "check-config") == 0 ||
      strcmp (name, "outlive-parent") == 0)
    return "attach sets this key itself; leave it out";
  if (strcmp (name, "lock") == 0 && strcmp (value, "require") != 0 &&
      !(c->allow & ALLOW_LOCK))
    return "must be require, unless there is allow=lock";
  return NULL;
}

/* ---- all together ---- */

/* What was given for attach itself is taken out of all. */
static bool
apply_own (struct device_config *c, GHashTable *all, GPtrArray *strings,
           char **error)
{
  for (size_t i = 0; i < G_N_ELEMENTS (own_keys); i++) {
    const char *name = own_keys[i].name;
    const struct given *g = g_hash_table_lookup (all, name);

    if (g == NULL)
      continue;
    if (!own_keys[i].set (c, g->value)) {
      *error = g_strdup_printf ("%s%s=%s: must be %s", g->where, name,
                                g->value, own_keys[i].allowed);
      return false;
    }
    g_ptr_array_add (strings, g_strdup_printf ("%s=%s", name, g->value));
    g_hash_table_remove (all, name);
  }
  return true;
}

/* Where it means a file, it does so wherever the server runs. */
static char *
plugin_value (const char *name, const char *value)
{
  if ((strcmp (name, "backing") == 0 || strcmp (name, "donors-file") == 0) &&
      value[0] != '\0')
    return g_canonicalize_filename (value, NULL);
  return g_strdup (value);
}

static bool
apply_plugin (struct device_config *c, GHashTable *all, GPtrArray *strings,
              char **error)
{
  GPtrArray *keys = g_ptr_array_new_with_free_func (g_free);
  GHashTableIter iter;
  gpointer name, data;
  bool ok = true;

  g_hash_table_iter_init (&iter, all);
  while (ok && g_hash_table_iter_next (&iter, &name, &data)) {
    const struct given *g = data;
    const char *refusal = refuse_plugin_key (c, name, g->value);
    g_autofree char *value = plugin_value (name, g->value);

    ok = refusal == NULL;
    if (!ok)
      *error = g_strdup_printf ("%s%s=%s: %s", g->where, (char *) name,
                                g->value, refusal);
    g_ptr_array_add (keys, g_strdup_printf ("%s=%s", (char *) name, value));
    g_ptr_array_add (strings,
                     g_strdup_printf ("%s=%s", (char *) name, value));
  }
  g_ptr_array_add (keys, NULL);
  c->plugin_keys = (char **) g_ptr_array_free (keys, FALSE);
  return ok;
}

static int
compare (gconstpointer a, gconstpointer b)
{
  return strcmp (*(char *const *) a, *(char *const *) b);
}

static void
sort (char **strings)
{
  qsort (strings, g_strv_length (strings), sizeof *strings, compare);
}

/* A connection is a queue of the kernel's, and its threads: more of them
 * than processors that are free for it only make each other wait.
 */
static unsigned
default_connections (void)
{
  return CLAMP (g_get_num_processors () / 2, 1, 4);
}

struct device_config *
device_config_read (const char *name, const char *path,
                    const char *const *overrides, char **error)
{
  struct device_config *c = g_new (struct device_config, 1);
  GHashTable *all = g_hash_table_new_full (g_str_hash, g_str_equal, g_free,
                                           free_given);
  GPtrArray *strings = g_ptr_array_new_with_free_func (g_free);
  bool ok;

  *c = (struct device_config) {
    .name = g_strdup (name), .index = -1,
    .connections = default_connections (), .threads = 4, .dead_timeout_s = 60,
    .swap = true, .priority = 100,
  };
  ok = (path == NULL || read_file (path, all, error)) &&
    read_overrides (overrides, all, error) &&
    apply_own (c, all, strings, error) &&
    apply_plugin (c, all, strings, error);
  g_hash_table_unref (all);
  g_ptr_array_add (strings, NULL);
  c->strings = (char **) g_ptr_array_free (strings, FALSE);
  if (!ok) {
    device_config_free (c);
    return NULL;
  }
  sort (c->strings);
  sort (c->plugin_keys);
  return c;
}

void
device_config_free (struct device_config *c)
{
  if (c == NULL)
    return;
  g_free (c->name);
  g_strfreev (c->plugin_keys);
  g_strfreev (c->strings);
  g_free (c);
}
