#include "scratch.h"

#include <check.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>

static char *folder;
static GPtrArray *paths;

void
scratch_setup (void)
{
  folder = g_strdup ("/var/tmp/isw-unit-XXXXXX");
  ck_assert_ptr_nonnull (g_mkdtemp (folder));
  paths = g_ptr_array_new_with_free_func (g_free);
}

void
scratch_teardown (void)
{
  for (guint i = 0; i < paths->len; i++)
    g_remove (paths->pdata[i]);
  g_rmdir (folder);
  g_ptr_array_unref (paths);
  g_clear_pointer (&folder, g_free);
}

const char *
scratch_path (const char *name)
{
  char *path = g_build_filename (folder, name, NULL);

  g_ptr_array_add (paths, path);
  return path;
}
