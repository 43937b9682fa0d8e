#include <stdbool.h>
#include <string.h>

#include "conf/key_file.h"
#include "conf/text_file.h"

struct reading {
  const char *path;
  const char *group;
  GKeyFile *file;
  GHashTable *seen;             /* GKeyFile lets the last one win */
  GPtrArray *entries;
};

static void
free_entry (gpointer data)
{
  struct key_file_entry *e = data;

  g_free (e->name);
  g_free (e->value);
  g_free (e);
}

static bool
check_groups (const struct reading *r, char **error)
{
  g_auto (GStrv) groups = g_key_file_get_groups (r->file, NULL);

  for (char **g = groups; *g != NULL; g++)
    if (strcmp (*g, r->group) != 0) {
      *error = g_strdup_printf ("%s: unknown group [%s] (allowed: [%s])",
                                r->path, *g, r->group);
      return false;
    }
  return true;
}

/* A line that GKeyFile has accepted. */
static bool
add_line (struct reading *r, const char *text, unsigned line, char **error)
{
  const char *equals = strchr (text, '=');
  g_autofree char *name = NULL;
  struct key_file_entry *e;

  if (strchr ("#[", text[0]) != NULL || equals == NULL)
    return true;
  name = g_strchomp (g_strndup (text, equals - text));
  if (!g_hash_table_add (r->seen, g_strdup (name))) {
    *error = g_strdup_printf ("%s, line %u: \"%s\" is there twice",
                              r->path, line, name);
    return false;
  }
  e = g_new (struct key_file_entry, 1);
  e->value = g_strstrip (g_strdup (equals + 1));
  e->name = g_steal_pointer (&name);
  e->line = line;
  g_ptr_array_add (r->entries, e);
  return true;
}

static bool
read_entries (struct reading *r, const char *text, char **error)
{
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);
  g_autoptr (GError) wrong = NULL;
  bool ok = true;

  if (!g_key_file_load_from_data (r->file, text, strlen (text),
                                  G_KEY_FILE_NONE, &wrong)) {
    *error = g_strdup_printf ("%s: %s", r->path, wrong->message);
    return false;
  }
  if (!check_groups (r, error))
    return false;
  for (unsigned i = 0; ok && lines[i] != NULL; i++)
    ok = add_line (r, g_strstrip (lines[i]), i + 1, error);
  return ok;
}

GPtrArray *
key_file_read (const char *path, const char *group, char **error)
{
  g_autofree char *text = text_file_read (path, error);
  struct reading r = { .path = path, .group = group };
  bool ok;

  if (text == NULL)
    return NULL;
  r.file = g_key_file_new ();
  r.seen = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  r.entries = g_ptr_array_new_with_free_func (free_entry);
  ok = read_entries (&r, text, error);
  g_key_file_free (r.file);
  g_hash_table_unref (r.seen);
  if (!ok) {
    g_ptr_array_unref (r.entries);
    return NULL;
  }
  return r.entries;
}
