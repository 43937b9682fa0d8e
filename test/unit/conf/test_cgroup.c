/* The memory limits of cgroups, from a made-up tree. */

#include <check.h>
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdarg.h>
#include <stdlib.h>

#include "conf/cgroup.h"

static const uint64_t mib = 1 << 20;

static char *folder, *self_path, *mountinfo_path;

static void
write_file (const char *path, const char *format, ...)
{
  g_autofree char *parent = g_path_get_dirname (path);
  g_autofree char *text = NULL;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  ck_assert_int_eq (g_mkdir_with_parents (parent, 0700), 0);
  ck_assert (g_file_set_contents (path, text, -1, NULL));
}

/* A file of one cgroup. */
static void
put (const char *cgroup, const char *name, const char *text)
{
  g_autofree char *path = g_build_filename (folder, "a mount", cgroup, name,
                                            NULL);

  write_file (path, "%s", text);
}

static void
put_use (const char *cgroup, uint64_t current_mib, uint64_t file_mib)
{
  g_autofree char *current = g_strdup_printf ("%llu\n", (unsigned long long)
                                              (current_mib * mib));
  g_autofree char *stat =
    g_strdup_printf ("anon 5\nfile 7\nworkingset_active_file 9\n"
                     "inactive_file %llu\nactive_file %llu\n",
                     (unsigned long long) (file_mib * mib / 2),
                     (unsigned long long) (file_mib * mib / 2));

  put (cgroup, "memory.current", current);
  put (cgroup, "memory.stat", stat);
}

/* Which cgroup is mounted, and which is this process's. */
static void
place (const char *root, const char *self)
{
  write_file (mountinfo_path,
              "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
              "30 22 0:26 / /sys/fs/cgroup/memory rw shared:4 - cgroup "
              "cgroup rw,memory\n"
              "31 22 0:27 %s %s/a\\040mount rw,nosuid shared:5 master:1 - "
              "cgroup2 cgroup2 rw\n", root, folder);
  write_file (self_path, "4:memory:/elsewhere\n0::%s\n", self);
}

static void
set_up (void)
{
  folder = g_dir_make_tmp ("cgroup-XXXXXX", NULL);
  self_path = g_build_filename (folder, "self", NULL);
  mountinfo_path = g_build_filename (folder, "mountinfo", NULL);
  place ("/", "/system.slice/donor.service");
}

static void
remove_tree (const char *path)
{
  g_autoptr (GDir) dir = g_dir_open (path, 0, NULL);
  const char *name;

  while (dir && (name = g_dir_read_name (dir))) {
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

static int
get (struct cgroup_memory *memory)
{
  struct cgroup *c = cgroup_new (self_path, mountinfo_path);
  const int r = cgroup_get_memory (c, memory);

  ck_assert_ptr_nonnull (c);
  cgroup_free (c);
  return r;
}

static void
check (uint64_t limit_bytes, uint64_t available_bytes)
{
  struct cgroup_memory memory;

  ck_assert_int_eq (get (&memory), 0);
  ck_assert_uint_eq (memory.limit_bytes, limit_bytes);
  ck_assert_uint_eq (memory.available_bytes, available_bytes);
}

START_TEST (no_limit)
{
  check (UINT64_MAX, UINT64_MAX);
  put ("system.slice/donor.service", "memory.max", "max\n");
  put ("system.slice/donor.service", "memory.high", "max\n");
  put_use ("system.slice/donor.service", 100, 0);
  check (UINT64_MAX, UINT64_MAX);
}
END_TEST

START_TEST (the_lower_of_max_and_high)
{
  put ("system.slice/donor.service", "memory.max", "1073741824\n");
  put ("system.slice/donor.service", "memory.high", "max\n");
  put_use ("system.slice/donor.service", 100, 0);
  check (1024 * mib, 924 * mib);
  put ("system.slice/donor.service", "memory.high", "536870912\n");
  check (512 * mib, 412 * mib);
}
END_TEST

START_TEST (file_pages_are_available)
{
  put ("system.slice/donor.service", "memory.max", "1073741824\n");
  put_use ("system.slice/donor.service", 1000, 400);
  check (1024 * mib, 424 * mib);
  put_use ("system.slice/donor.service", 100, 400);
  check (1024 * mib, 1024 * mib);
  put_use ("system.slice/donor.service", 2000, 0);
  check (1024 * mib, 0);
}
END_TEST

/* The lowest limit and the least room may be those of different ones. */
START_TEST (every_level_counts)
{
  put ("system.slice/donor.service", "memory.max", "536870912\n");
  put_use ("system.slice/donor.service", 12, 0);
  check (512 * mib, 500 * mib);
  put ("system.slice", "memory.max", "1073741824\n");
  put_use ("system.slice", 1000, 0);
  check (512 * mib, 24 * mib);
  put ("", "memory.high", "2147483648\n");
  put_use ("", 2047, 0);
  check (512 * mib, 1 * mib);
}
END_TEST

/* In a container the mount may show a part of the tree, with or without
 * a namespace of its own.
 */
START_TEST (a_part_of_the_tree_is_mounted)
{
  put ("", "memory.max", "1073741824\n");
  put_use ("", 24, 0);
  place ("/", "/");
  check (1024 * mib, 1000 * mib);
  place ("/box", "/box");
  check (1024 * mib, 1000 * mib);
  put ("in", "memory.max", "1048576\n");
  put_use ("in", 0, 0);
  place ("/box", "/box/in");
  check (mib, mib);

  /* Not below the mount. */
  place ("/box", "/other");
  check (UINT64_MAX, UINT64_MAX);
  place ("/box", "/boxes");
  check (UINT64_MAX, UINT64_MAX);
  place ("/", "/../other");
  check (UINT64_MAX, UINT64_MAX);
}
END_TEST

START_TEST (no_cgroup2)
{
  struct cgroup_memory memory;

  ck_assert_ptr_null (cgroup_new (self_path, "/nonexistent"));
  write_file (mountinfo_path, "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
              "a - cgroup2\n - cgroup2 x\n\n");
  ck_assert_ptr_null (cgroup_new (self_path, mountinfo_path));
  ck_assert_int_eq (cgroup_get_memory (NULL, &memory), 0);
  ck_assert_uint_eq (memory.available_bytes, UINT64_MAX);
}
END_TEST

START_TEST (malformed_files_are_errors)
{
  struct cgroup_memory memory;

  put ("system.slice", "memory.max", "many\n");
  ck_assert_int_eq (get (&memory), -EBADMSG);
  put ("system.slice", "memory.max", "1048576\n");
  ck_assert_int_eq (get (&memory), -ENOENT);
  put ("system.slice", "memory.current", "-1\n");
  ck_assert_int_eq (get (&memory), -EBADMSG);
  put ("system.slice", "memory.current", "4096\n");
  put ("system.slice", "memory.stat", "anon 1\n");
  ck_assert_int_eq (get (&memory), -EBADMSG);
  ck_assert_uint_eq (memory.available_bytes, UINT64_MAX);
}
END_TEST

START_TEST (reads_the_real_ones)
{
  struct cgroup *c = cgroup_new ("/proc/self/cgroup", "/proc/self/mountinfo");
  struct cgroup_memory memory;

  ck_assert_int_eq (cgroup_get_memory (c, &memory), 0);
  ck_assert_uint_le (memory.available_bytes, memory.limit_bytes);
  cgroup_free (c);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("cgroup");
  TCase *tc = tcase_create ("cgroup");
  SRunner *sr;
  int failed;

  tcase_add_checked_fixture (tc, set_up, tear_down);
  tcase_add_test (tc, no_limit);
  tcase_add_test (tc, the_lower_of_max_and_high);
  tcase_add_test (tc, file_pages_are_available);
  tcase_add_test (tc, every_level_counts);
  tcase_add_test (tc, a_part_of_the_tree_is_mounted);
  tcase_add_test (tc, no_cgroup2);
  tcase_add_test (tc, malformed_files_are_errors);
  tcase_add_test (tc, reads_the_real_ones);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
