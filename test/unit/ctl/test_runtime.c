/* The files of an attached device: one owner at a time, and a record that
 * the next one can read.
 */

#include <check.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/runtime.h"

static char *top, *folder;
static struct runtime files;

static void
set_up (void)
{
  top = g_dir_make_tmp ("runtime-XXXXXX", NULL);
  folder = g_build_filename (top, "run", NULL);
  runtime_init (&files, folder, "isw0");
}

static void
tear_down (void)
{
  g_unlink (files.pid_path);
  runtime_clear (&files);
  g_rmdir (folder);
  g_rmdir (top);
  g_free (folder);
  g_free (top);
}

static void
lock (struct runtime *r)
{
  char *error = NULL;

  ck_assert_int_eq (runtime_lock (r, &error), 0);
}

static const char *const config[] = { "donors=a:1,b:2", "size=1G", NULL };

START_TEST (one_owner)
{
  struct runtime other;
  char *error = NULL;

  ck_assert (!runtime_exists (&files));
  lock (&files);
  ck_assert (runtime_exists (&files));
  runtime_init (&other, folder, "isw0");
  ck_assert_int_eq (runtime_lock (&other, &error), -EBUSY);
  runtime_remove (&files);
  ck_assert (!runtime_exists (&files));
  lock (&other);
  runtime_remove (&other);
  runtime_clear (&other);
}
END_TEST

START_TEST (a_record_outlives_its_owner)
{
  const struct runtime_record record = {
    .server = { .pid = 5, .start = UINT64_C (1) << 40 }, .index = 3,
    .plugin = (char *) "infiniswap", .config = (char **) config,
  };
  struct runtime_record found;

  lock (&files);
  ck_assert (!runtime_read (&files, &found));
  ck_assert_int_eq (runtime_write (&files, &record), 0);
  close (files.lock_fd);
  files.lock_fd = -1;

  lock (&files);
  ck_assert (runtime_read (&files, &found));
  ck_assert_int_eq (found.server.pid, 5);
  ck_assert_uint_eq (found.server.start, UINT64_C (1) << 40);
  ck_assert_int_eq (found.index, 3);
  ck_assert_str_eq (found.plugin, "infiniswap");
  ck_assert_uint_eq (g_strv_length (found.config), 2);
  ck_assert_str_eq (found.config[0], config[0]);
  ck_assert_str_eq (found.config[1], config[1]);
  runtime_record_clear (&found);
}
END_TEST

/* Shorter than what it replaces. */
START_TEST (a_record_is_replaced_whole)
{
  struct runtime_record record = {
    .index = 3, .plugin = (char *) "/a/long/path/of/a/plugin.so",
    .config = (char **) config,
  }, found;

  lock (&files);
  ck_assert_int_eq (runtime_write (&files, &record), 0);
  record.plugin = (char *) "x";
  ck_assert_int_eq (runtime_write (&files, &record), 0);
  ck_assert (runtime_read (&files, &found));
  ck_assert_str_eq (found.plugin, "x");
  runtime_record_clear (&found);
}
END_TEST

START_TEST (half_a_record_is_none)
{
  static const char text[] = "[attached]\nsupervisor=5\nserv";
  struct runtime_record found;

  lock (&files);
  ck_assert_int_eq (write (files.lock_fd, text, strlen (text)),
                    strlen (text));
  ck_assert (!runtime_read (&files, &found));
}
END_TEST

START_TEST (no_folder)
{
  struct runtime r;
  g_autofree char *deep = g_build_filename (folder, "deep", NULL);
  g_autofree char *error = NULL;

  runtime_init (&r, deep, "isw0");
  ck_assert_int_eq (runtime_lock (&r, &error), -ENOENT);
  ck_assert_ptr_nonnull (strstr (error, deep));
  runtime_clear (&r);
}
END_TEST

/* A process is told from a later one with the same number. */
START_TEST (processes)
{
  struct runtime_process self = { .pid = getpid () }, none = { .pid = 0 };
  pid_t child;

  ck_assert (runtime_process_start (self.pid, &self.start));
  ck_assert (runtime_process_alive (&self));
  self.start++;
  ck_assert (!runtime_process_alive (&self));
  ck_assert (!runtime_process_alive (&none));

  child = fork ();
  if (child == 0)
    _exit (0);
  ck_assert_int_eq (waitpid (child, NULL, 0), child);
  ck_assert (!runtime_process_start (child, &self.start));
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("runtime");
  TCase *tc = tcase_create ("runtime");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_add_checked_fixture (tc, set_up, tear_down);
  tcase_add_test (tc, one_owner);
  tcase_add_test (tc, a_record_outlives_its_owner);
  tcase_add_test (tc, a_record_is_replaced_whole);
  tcase_add_test (tc, half_a_record_is_none);
  tcase_add_test (tc, no_folder);
  tcase_add_test (tc, processes);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_ENV);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
