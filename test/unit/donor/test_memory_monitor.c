/* Reading the node's memory by name, and averaging its use. */

#include <check.h>
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>

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
  tcase_add_test (tc, reads_the_real_one);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
