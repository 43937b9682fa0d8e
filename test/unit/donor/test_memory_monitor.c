/* Reading the node's memory by name, and averaging its use. */

#include <check.h>
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/cgroup.h"
#include "donor/memory_monitor.h"

static const uint64_t mib = 1 << 20;

static char *path;

static void
make_path (void)
{
  const int fd = g_file_open_tmp ("meminfo-XXXXXX", &path, NULL);

  ck_assert_int_ge (fd, 0);
  g_close (fd, NULL);
}

static void
remove_path (void)
{
  g_unlink (path);
  g_free (path);
}

static int
sample_of (struct memory_monitor *m, const char *text, uint64_t held_bytes)
{
  ck_assert (g_file_set_contents (path, text, -1, NULL));
  return memory_monitor_sample (m, held_bytes);
}

START_TEST (reads_by_name)
{
  struct memory_monitor m;

  memory_monitor_init (&m, path, NULL, 0.5);
  ck_assert_int_eq (sample_of (&m, "MemTotal:       1024 kB\n"
                               "MemFree:           1 kB\n"
                               "MemAvailable:    512 kB\n"
                               "HugePages_Total:   0\n", 0), 0);
  ck_assert_uint_eq (m.total_bytes, mib);
  ck_assert_uint_eq (m.available_bytes, mib / 2);
  ck_assert_uint_eq (m.used_bytes, mib / 2);

  ck_assert_int_eq (sample_of (&m, "XMemTotal: 1 kB\n"
                               "MemTotalX: 2 kB\n"
                               "MemAvailable: 1024 kB\n"
                               "Other: MemTotal: 3 kB\n"
                               "MemTotal: 2048 kB", 0), 0);
  ck_assert_uint_eq (m.total_bytes, 2 * mib);
  ck_assert_uint_eq (m.available_bytes, mib);
}
END_TEST

START_TEST (missing_fields_are_errors)
{
  struct memory_monitor m;

  memory_monitor_init (&m, path, NULL, 0.5);
  ck_assert_int_eq (sample_of (&m, "MemTotal: 1024 kB\n", 0), -ENOENT);
  ck_assert_int_eq (sample_of (&m, "MemAvailable: 1024 kB\n", 0), -ENOENT);
  ck_assert_int_eq (sample_of (&m, "", 0), -ENOENT);
  ck_assert (!m.sampled);
  m.path = "/nonexistent/meminfo";
  ck_assert_int_eq (memory_monitor_sample (&m, 0), -ENOENT);
}
END_TEST

static const char *const malformed[] = {
  "MemTotal: kB\nMemAvailable: 1 kB\n",
  "MemTotal: -1 kB\nMemAvailable: 1 kB\n",
  "MemTotal: 1 MB\nMemAvailable: 1 kB\n",
  "MemTotal: 1\nMemAvailable: 1 kB\n",
  "MemTotal: 1 kBx\nMemAvailable: 1 kB\n",
  "MemTotal: 1x kB\nMemAvailable: 1 kB\n",
  "MemTotal: 99999999999999999999 kB\nMemAvailable: 1 kB\n",
  "MemTotal: 18014398509481984 kB\nMemAvailable: 1 kB\n",
  "MemTotal: 11111111111111111111111111111111 kB\nMemAvailable: 1 kB\n",
};

START_TEST (malformed_fields_are_errors)
{
  struct memory_monitor m;

  memory_monitor_init (&m, path, NULL, 0.5);
  ck_assert_int_eq (sample_of (&m, malformed[_i], 0), -EBADMSG);
  ck_assert (!m.sampled);
}
END_TEST

START_TEST (what_the_donor_holds_is_not_use)
{
  struct memory_monitor m;

  memory_monitor_init (&m, path, NULL, 0.2);
  ck_assert_int_eq (sample_of (&m, "MemTotal: 10240 kB\n"
                               "MemAvailable: 4096 kB\n", 4 * mib), 0);
  ck_assert_uint_eq (m.used_bytes, 2 * mib);
}
END_TEST

START_TEST (use_is_averaged)
{
  struct memory_monitor m;

  memory_monitor_init (&m, path, NULL, 0.25);
  sample_of (&m, "MemTotal: 8192 kB\nMemAvailable: 4096 kB\n", 0);
  ck_assert_double_eq_tol (m.used_average_bytes, 4 * mib, 1);
  ck_assert_uint_eq (memory_monitor_worse_bytes (&m), 4 * mib);

  /* Between the seconds, samples leave it alone. */
  sample_of (&m, "MemTotal: 8192 kB\nMemAvailable: 0 kB\n", 0);
  ck_assert_double_eq_tol (m.used_average_bytes, 4 * mib, 1);
  ck_assert_uint_eq (memory_monitor_worse_bytes (&m), 8 * mib);
  memory_monitor_step (&m);
  ck_assert_double_eq_tol (m.used_average_bytes, 5 * mib, 1);
  sample_of (&m, "MemTotal: 8192 kB\nMemAvailable: 6144 kB\n", 0);
  ck_assert_uint_eq (memory_monitor_worse_bytes (&m), 5 * mib);

  /* A sample that fails leaves all as it was. */
  ck_assert_int_lt (sample_of (&m, "MemTotal: 1 kB\n", 0), 0);
  ck_assert_double_eq_tol (m.used_average_bytes, 5 * mib, 1);
  ck_assert_uint_eq (m.total_bytes, 8 * mib);
}
END_TEST

/* Not the first rise, and not for ever. */
START_TEST (a_rise_that_comes_again_counts_ahead)
{
  struct memory_monitor m;

  memory_monitor_init (&m, path, NULL, 0.25);
  sample_of (&m, "MemTotal: 8192 kB\nMemAvailable: 6144 kB\n", 0);
  ck_assert_uint_eq (memory_monitor_worse_bytes (&m), 2 * mib);
  sample_of (&m, "MemTotal: 8192 kB\nMemAvailable: 5120 kB\n", 0);
  ck_assert_uint_eq (memory_monitor_worse_bytes (&m), 3 * mib);
  sample_of (&m, "MemTotal: 8192 kB\nMemAvailable: 4096 kB\n", 0);
  ck_assert_uint_eq (memory_monitor_worse_bytes (&m), 5 * mib);
  ck_assert_uint_eq (m.used_bytes, 4 * mib);
  for (int i = 0; i < HEADROOM_SAMPLES; i++)
    sample_of (&m, "MemTotal: 8192 kB\nMemAvailable: 4096 kB\n", 0);
  ck_assert_uint_eq (memory_monitor_worse_bytes (&m), 4 * mib);
}
END_TEST

static void
put (const char *folder, const char *name, const char *text)
{
  g_autofree char *file = g_build_filename (folder, name, NULL);

  ck_assert (g_file_set_contents (file, text, -1, NULL));
}

/* A cgroup, below the folder; self is the path of the file that names it. */
static struct cgroup *
make_cgroup (const char *folder, const char *self)
{
  g_autofree char *mounts = g_build_filename (folder, "mounts", NULL);
  g_autofree char *box = g_build_filename (folder, "box", NULL);
  g_autofree char *mount =
    g_strdup_printf ("31 22 0:27 / %s rw - cgroup2 cgroup2 rw\n", folder);
  struct cgroup *c;

  put (folder, "self", "0::/box\n");
  put (folder, "mounts", mount);
  ck_assert_int_eq (g_mkdir (box, 0700), 0);
  c = cgroup_new (self, mounts);
  ck_assert_ptr_nonnull (c);
  return c;
}

static void
remove_cgroup (const char *folder)
{
  static const char *const names[] = { "box/memory.max", "box/memory.current",
    "box/memory.stat", "box", "self", "mounts", "." };

  for (size_t i = 0; i < G_N_ELEMENTS (names); i++) {
    g_autofree char *file = g_build_filename (folder, names[i], NULL);

    ck_assert_int_eq (g_remove (strcmp (names[i], ".") ? file : folder), 0);
  }
}

/* 1 GiB of which half is available, and 100 MiB are left in the cgroup:
 * what the donor may hold is limited by that.
 */
START_TEST (a_limit_of_the_cgroup_counts)
{
  static const char *const meminfo =
    "MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n";
  g_autofree char *folder = g_dir_make_tmp ("monitor-XXXXXX", NULL);
  g_autofree char *self = g_build_filename (folder, "self", NULL);
  struct cgroup *c = make_cgroup (folder, self);
  struct memory_monitor m;

  memory_monitor_init (&m, path, c, 1);
  ck_assert_int_eq (sample_of (&m, meminfo, 0), 0);
  ck_assert_uint_eq (m.available_bytes, 512 * mib);

  put (folder, "box/memory.max", "209715200\n");
  put (folder, "box/memory.current", "157286400\n");
  put (folder, "box/memory.stat",
       "inactive_file 26214400\nactive_file 26214400\n");
  ck_assert_int_eq (memory_monitor_sample (&m, 60 * mib), 0);
  ck_assert_uint_eq (m.total_bytes, 1024 * mib);
  ck_assert_uint_eq (m.available_bytes, 100 * mib);
  ck_assert_uint_eq (m.used_bytes, (1024 - 100 - 60) * mib);

  put (folder, "box/memory.max", "x\n");
  ck_assert_int_eq (memory_monitor_sample (&m, 0), -EBADMSG);
  ck_assert_uint_eq (m.available_bytes, 100 * mib);
  cgroup_free (c);
  remove_cgroup (folder);
}
END_TEST

START_TEST (reads_the_real_one)
{
  struct memory_monitor m;

  memory_monitor_init (&m, "/proc/meminfo", NULL, 0.2);
  ck_assert_int_eq (memory_monitor_sample (&m, 0), 0);
  ck_assert_uint_gt (m.total_bytes, m.available_bytes);
  ck_assert_uint_gt (m.available_bytes, 0);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("memory_monitor");
  TCase *tc = tcase_create ("meminfo");
  SRunner *sr;
  int failed;

  tcase_add_checked_fixture (tc, make_path, remove_path);
  tcase_add_test (tc, reads_by_name);
  tcase_add_test (tc, missing_fields_are_errors);
  tcase_add_loop_test (tc, malformed_fields_are_errors,
                       0, G_N_ELEMENTS (malformed));
  tcase_add_test (tc, what_the_donor_holds_is_not_use);
  tcase_add_test (tc, use_is_averaged);
  tcase_add_test (tc, a_rise_that_comes_again_counts_ahead);
  tcase_add_test (tc, a_limit_of_the_cgroup_counts);
  tcase_add_test (tc, reads_the_real_one);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
