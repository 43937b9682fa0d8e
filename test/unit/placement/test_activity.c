/* The moving averages, and the threshold that wakes the mapper. */

#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "placement/activity.h"
#include "seeded.h"

START_TEST (steps_are_exact)
{
  ck_assert_double_eq (activity_step (0, 100, 0.25), 25);
  ck_assert_double_eq (activity_step (25, 100, 0.25), 43.75);
  ck_assert_double_eq (activity_step (100, 0, 0.25), 75);
  ck_assert_double_eq (activity_step (8, 1e9, 0), 8);
  ck_assert_double_eq (activity_step (1e9, 8, 1), 8);
  ck_assert_double_eq_tol (activity_step (10, 60, 0.2), 20, 1e-12);
}
END_TEST

START_TEST (averages_converge)
{
  double rising = 0, falling = 1e6;

  for (int i = 0; i < 200; i++) {
    double before = rising;

    rising = activity_step (rising, 300, 0.2);
    falling = activity_step (falling, 300, 0.2);
    ck_assert_double_ge (rising, before);
    ck_assert_double_le (rising, 300 + 1e-9);
  }
  ck_assert_double_eq_tol (rising, 300, 1e-9);
  ck_assert_double_eq_tol (falling, 300, 1e-6);
}
END_TEST

START_TEST (known_thresholds)
{
  ck_assert_uint_eq (activity_pages_to_hot (0, 20, 0.2), 100);
  ck_assert_uint_eq (activity_pages_to_hot (20, 20, 0.25), 20);
  ck_assert_uint_eq (activity_pages_to_hot (40, 20, 0.5), 0);
  ck_assert_uint_eq (activity_pages_to_hot (39, 20, 0.5), 1);
  ck_assert_uint_eq (activity_pages_to_hot (0, 20.5, 1), 21);
  ck_assert_uint_eq (activity_pages_to_hot (1e9, 20, 1), 20);
}
END_TEST

START_TEST (threshold_edges)
{
  ck_assert_uint_eq (activity_pages_to_hot (0, 0, 0.2), 0);
  ck_assert_uint_eq (activity_pages_to_hot (0, 0, 0), 0);
  ck_assert_uint_eq (activity_pages_to_hot (0, 0, 1), 0);
  ck_assert_uint_eq (activity_pages_to_hot (19, 20, 0), UINT64_MAX);
  ck_assert_uint_eq (activity_pages_to_hot (20, 20, 0), 0);
  ck_assert_uint_eq (activity_pages_to_hot (0, 1e300, 0.2), UINT64_MAX);
  ck_assert_uint_eq (activity_pages_to_hot (0, INFINITY, 1), UINT64_MAX);
  ck_assert_uint_eq (activity_pages_to_hot (0, 20, 1e-300), UINT64_MAX);
  ck_assert_uint_eq (activity_pages_to_hot (0, 0x1p52, 1), 1ull << 52);
}
END_TEST

START_TEST (threshold_is_the_least_that_suffices)
{
  struct seeded s;

  seeded_init (&s, __func__);
  for (int i = 0; i < 100000; i++) {
    double weight = i % 10 ? seeded_unit (&s) : 0.2;
    double hot = exp (seeded_unit (&s) * 14) - 1;
    double average = seeded_unit (&s) * hot * 1.5;
    uint64_t n;

    if (i % 3 == 0) {
      hot = floor (hot);
      average = floor (average);
    }
    n = activity_pages_to_hot (average, hot, weight);
    if (n < UINT64_MAX)
      ck_assert (activity_step (average, n, weight) >= hot);
    if (n > 0 && n < UINT64_C (1) << 52)
      ck_assert (activity_step (average, n - 1, weight) < hot);
  }
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("activity");
  TCase *tc = tcase_create ("activity");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_test (tc, steps_are_exact);
  tcase_add_test (tc, averages_converge);
  tcase_add_test (tc, known_thresholds);
  tcase_add_test (tc, threshold_edges);
  tcase_add_test (tc, threshold_is_the_least_that_suffices);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
