/* Which cgroups' limits are in a swap server's way, from a made-up tree. */

#include <check.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/protection.h"

static const uint64_t node_bytes = UINT64_C (8) << 30;

static char *folder, *self_path, *mountinfo_path;

static void
put (const char *path, const char *text)
{
  g_autofree char *parent = g_path_get_dirname (path);

  ck_assert_int_eq (g_mkdir_with_parents (parent, 0700), 0);
  ck_assert (g_file_set_contents (path, text, -1, NULL));
}

/* A file of one cgroup. */
static void
limit (const char *cgroup, const char *name, const char *text)
{
  g_autofree char *path = g_build_filename (folder, cgroup, name, NULL);

  put (path, text);
}

static void
set_up (void)
{
  g_autofree char *mountinfo = NULL;

  folder = g_dir_make_tmp ("protection-XXXXXX", NULL);
  self_path = g_build_filename (folder, "self", NULL);
  mountinfo_path = g_build_filename (folder, "mountinfo", NULL);
  mountinfo = g_strdup_printf ("31 22 0:27 / %s rw - cgroup2 cgroup2 rw\n",
                               folder);
  put (mountinfo_path, mountinfo);
  put (self_path, "0::/outer/inner\n");
  limit ("outer/inner", "memory.current", "4096\n");
  limit ("outer", "memory.current", "4096\n");
  limit ("outer/inner", "memory.stat", "inactive_file 0\nactive_file 0\n");
  limit ("outer", "memory.stat", "inactive_file 0\nactive_file 0\n");
}

static void
remove_tree (const char *path)
{
  g_autoptr (GDir) dir = g_dir_open (path, 0, NULL);
  const char *name;

  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL) {
    g_autofree char *child = g_build_filename (path, name, NULL);

    remove_tree (child);
  }
  g_remove (path);
}

static void
tear_down (void)
{
  remove_tree (folder);
  g_free (folder);
  g_free (self_path);
  g_free (mountinfo_path);
}

/* part NULL: nothing is in the way. */
static void
expect (const char *part)
{
  g_autofree char *problem = protection_check_cgroup (
    self_path, mountinfo_path, node_bytes);

  if (part == NULL)
    ck_assert_msg (problem == NULL, "%s", problem);
  else {
    ck_assert_ptr_nonnull (problem);
    ck_assert_msg (strstr (problem, part) != NULL, "%s", problem);
    ck_assert_ptr_null (strchr (problem, '\n'));
  }
}

START_TEST (no_limit)
{
  expect (NULL);
  limit ("outer/inner", "memory.max", "max\n");
  limit ("outer/inner", "memory.high", "max\n");
  expect (NULL);
}
END_TEST

START_TEST (a_limit_of_its_own)
{
  limit ("outer/inner", "memory.max", "1073741824\n");
  expect ("memory limit of 1G");
}
END_TEST

START_TEST (a_limit_above)
{
  limit ("outer", "memory.high", "2147483648\n");
  expect ("memory limit of 2G");
}
END_TEST

START_TEST (what_the_node_has_is_no_limit)
{
  limit ("outer", "memory.max", "8589934592\n");
  expect (NULL);
  limit ("outer", "memory.max", "8589930496\n");
  expect ("memory limit of");
}
END_TEST

START_TEST (what_cannot_be_read_is_not_allowed)
{
  limit ("outer", "memory.max", "plenty\n");
  expect ("cannot read the limits of this cgroup");
}
END_TEST

START_TEST (no_cgroup2)
{
  put (mountinfo_path, "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
  expect (NULL);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("protection");
  TCase *tests = tcase_create ("protection");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_add_checked_fixture (tests, set_up, tear_down);
  tcase_add_test (tests, no_limit);
  tcase_add_test (tests, a_limit_of_its_own);
  tcase_add_test (tests, a_limit_above);
  tcase_add_test (tests, what_the_node_has_is_no_limit);
  tcase_add_test (tests, what_cannot_be_read_is_not_allowed);
  tcase_add_test (tests, no_cgroup2);
  suite_add_tcase (suite, tests);
  srunner_run_all (runner, CK_ENV);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed > 0;
}
