#include <check.h>
#include <stdlib.h>

#include "donor/recent.h"

START_TEST (of_none_there_is_no_median)
{
  struct recent r = { .count = 0 };

  ck_assert_int_eq (recent_median (&r), 0);
  ck_assert_int_eq (recent_greatest (&r), 0);
}
END_TEST

START_TEST (the_median_does_not_heed_the_order)
{
  struct recent r = { .count = 0 };

  recent_note (&r, 90);
  ck_assert_int_eq (recent_median (&r), 90);
  recent_note (&r, 10);
  recent_note (&r, 20);
  ck_assert_int_eq (recent_median (&r), 20);
  recent_note (&r, 30);
  ck_assert_int_eq (recent_median (&r), 30);
  ck_assert_int_eq (recent_greatest (&r), 90);
}
END_TEST

START_TEST (old_values_are_forgotten)
{
  struct recent r = { .count = 0 };

  recent_note (&r, 1000000);
  for (int i = 0; i < RECENT_MAX; i++)
    recent_note (&r, 7);
  ck_assert_int_eq (recent_median (&r), 7);
  ck_assert_int_eq (recent_greatest (&r), 7);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("recent");
  TCase *tc = tcase_create ("recent");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_add_test (tc, of_none_there_is_no_median);
  tcase_add_test (tc, the_median_does_not_heed_the_order);
  tcase_add_test (tc, old_values_are_forgotten);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
