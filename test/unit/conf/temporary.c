#include <check.h>
#include <glib.h>
#include <glib/gstdio.h>

#include "temporary.h"

static char *folder;

void
temporary_setup (void)
{
  folder = g_dir_make_tmp ("isw-conf-XXXXXX", NULL);
  ck_assert_ptr_nonnull (folder);
}

void
temporary_teardown (void)
{
  GDir *dir = g_dir_open (folder, 0, NULL);
  const char *name;

  while ((name = g_dir_read_name (dir)) != NULL) {
    g_autofree char *path = g_build_filename (folder, name, NULL);

    g_remove (path);
  }
  g_dir_close (dir);
  g_rmdir (folder);
  g_clear_pointer (&folder, g_free);
}

char *
temporary_path (const char *name)
{
  return g_build_filename (folder, name, NULL);
}

char *
temporary_file (const char *name, const char *text, size_t len)
{
  char *path = temporary_path (name);

  ck_assert (g_file_set_contents (path, text, len, NULL));
  return path;
}
