#include <string.h>

#include "ctl/sockets.h"

static gint
compare_paths (gconstpointer a, gconstpointer b)
{
  return strcmp (*(char *const *) a, *(char *const *) b);
}

static void
explain (const char *folder, const GError *wrong, const char *command,
         FILE *err)
{
  if (wrong != NULL &&
      !g_error_matches (wrong, G_FILE_ERROR, G_FILE_ERROR_NOENT))
    fprintf (err, "infiniswapctl: %s; run as root, or name a socket: "
             "infiniswapctl %s SOCKET\n", wrong->message, command);
  else
    fprintf (err, "infiniswapctl: there is no %s/*.sock; start the plugin "
             "with state=PATH or the donor with --state PATH, or name a "
             "socket: infiniswapctl %s SOCKET\n", folder, command);
}

GPtrArray *
sockets_find (char *const *named, const char *folder, const char *command,
              FILE *err)
{
  GPtrArray *paths = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GError) wrong = NULL;
  g_autoptr (GDir) dir = NULL;
  const char *name;

  if (named != NULL && named[0] != NULL) {
    for (; *named != NULL; named++)
      g_ptr_array_add (paths, g_strdup (*named));
    return paths;
  }
  dir = g_dir_open (folder, 0, &wrong);
  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL)
    if (g_str_has_suffix (name, ".sock"))
      g_ptr_array_add (paths, g_build_filename (folder, name, NULL));
  if (paths->len > 0) {
    g_ptr_array_sort (paths, compare_paths);
    return paths;
  }
  if (err != NULL)
    explain (folder, wrong, command, err);
  g_ptr_array_unref (paths);
  return NULL;
}
