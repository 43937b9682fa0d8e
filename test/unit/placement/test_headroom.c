/* How much a donor may lend. */

#include <check.h>
#include <stdlib.h>

#include "placement/activity.h"
#include "placement/headroom.h"

static const uint64_t gib = UINT64_C (1) << 30;

START_TEST (use_is_what_neither_is_free_nor_ours)
{
  ck_assert_uint_eq (headroom_used_by_others (64 * gib, 40 * gib, 10 * gib),
                     14 * gib);
  ck_assert_uint_eq (headroom_used_by_others (64 * gib, 64 * gib, 0), 0);
  ck_assert_uint_eq (headroom_used_by_others (64 * gib, 0, 0), 64 * gib);
}
END_TEST

/* Two figures that were not read at the same instant. */
START_TEST (use_is_never_negative)
{
  ck_assert_uint_eq (headroom_used_by_others (64 * gib, 65 * gib, 0), 0);
  ck_assert_uint_eq (headroom_used_by_others (64 * gib, 60 * gib, 5 * gib), 0);
  ck_assert_uint_eq (headroom_used_by_others (0, UINT64_MAX, UINT64_MAX), 0);
  ck_assert_uint_eq (headroom_used_by_others (UINT64_MAX, 0, UINT64_MAX), 0);
  ck_assert_uint_eq (headroom_used_by_others (UINT64_MAX, UINT64_MAX,
                                              UINT64_MAX), 0);
}
END_TEST

START_TEST (holds_what_is_above_use_and_headroom)
{
  ck_assert_uint_eq (headroom_may_hold (64 * gib, 14 * gib, 8 * gib,
                                        UINT64_MAX), 42 * gib);
  ck_assert_uint_eq (headroom_may_hold (64 * gib, 14 * gib, 8 * gib,
                                        40 * gib), 40 * gib);
  ck_assert_uint_eq (headroom_may_hold (64 * gib, 14 * gib, 8 * gib, 0), 0);
  ck_assert_uint_eq (headroom_may_hold (64 * gib, 0, 0, UINT64_MAX),
                     64 * gib);
}
END_TEST

START_TEST (holds_nothing_where_nothing_is_left)
{
  ck_assert_uint_eq (headroom_may_hold (64 * gib, 56 * gib, 8 * gib,
                                        UINT64_MAX), 0);
  ck_assert_uint_eq (headroom_may_hold (64 * gib, 56 * gib + 1, 8 * gib,
                                        UINT64_MAX), 0);
  ck_assert_uint_eq (headroom_may_hold (64 * gib, 70 * gib, 0, UINT64_MAX), 0);
  ck_assert_uint_eq (headroom_may_hold (64 * gib, 0, UINT64_MAX, UINT64_MAX),
                     0);
  ck_assert_uint_eq (headroom_may_hold (64 * gib, UINT64_MAX, UINT64_MAX,
                                        UINT64_MAX), 0);
  ck_assert_uint_eq (headroom_may_hold (0, 0, 0, UINT64_MAX), 0);
}
END_TEST

static uint64_t
foresee (uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
  return headroom_foresee ((uint64_t[HEADROOM_SAMPLES]) { e, d, c, b, a });
}

START_TEST (a_rise_that_comes_again_is_foreseen)
{
  ck_assert_uint_eq (foresee (10, 12, 14, 16, 18), 20);
  ck_assert_uint_eq (foresee (10, 10, 10, 13, 18), 21);
  ck_assert_uint_eq (foresee (10, 10, 10, 15, 18), 21);
  /* By fits and starts, and just after that. */
  ck_assert_uint_eq (foresee (10, 12, 12, 14, 14), 16);
  ck_assert_uint_eq (foresee (10, 12, 14, 14, 14), 16);
  ck_assert_uint_eq (foresee (10, 15, 12, 16, 16), 20);
  ck_assert_uint_eq (foresee (0, 0, UINT64_MAX - 8, UINT64_MAX - 5,
                              UINT64_MAX - 2), UINT64_MAX);
  ck_assert_uint_eq (foresee (0, 0, 1, UINT64_MAX - 1, UINT64_MAX - 1),
                     UINT64_MAX);
}
END_TEST

START_TEST (nothing_else_is_foreseen)
{
  ck_assert_uint_eq (foresee (0, 0, 0, 0, 0), 0);
  ck_assert_uint_eq (foresee (14, 14, 14, 14, 14), 14);
  ck_assert_uint_eq (foresee (10, 10, 10, 10, 14), 14);
  ck_assert_uint_eq (foresee (10, 14, 14, 14, 14), 14);
  ck_assert_uint_eq (foresee (14, 13, 12, 11, 10), 10);
  ck_assert_uint_eq (foresee (20, 10, 14, 13, 12), 12);
}
END_TEST

/* What the donor itself holds must not look like use by others. */
START_TEST (holding_more_leaves_use_as_it_was)
{
  for (uint64_t held = 0; held <= 40 * gib; held += gib / 2)
    ck_assert_uint_eq (headroom_used_by_others (64 * gib, 50 * gib - held,
                                                held), 14 * gib);
}
END_TEST

/* A node that suddenly needs 30 GiB: the donor's share shrinks with the
 * average, second by second, to what that leaves.
 */
START_TEST (share_follows_the_average_of_use)
{
  double average = 10.0 * gib;
  uint64_t before = headroom_may_hold (64 * gib, average, 8 * gib,
                                       UINT64_MAX);

  ck_assert_uint_eq (before, 46 * gib);
  for (int second = 0; second < 60; second++) {
    uint64_t now;

    average = activity_step (average, 40.0 * gib, 0.2);
    now = headroom_may_hold (64 * gib, average, 8 * gib, UINT64_MAX);
    ck_assert_uint_le (now, before);
    before = now;
    if (second == 0)
      ck_assert_uint_eq (now, 40 * gib);
  }
  ck_assert_uint_ge (before, 16 * gib);
  ck_assert_uint_lt (before, 16 * gib + gib / 1000);
}
END_TEST

START_TEST (stalls_count_near_the_headroom)
{
  ck_assert (headroom_stalls_count (0, 8 * gib));
  ck_assert (headroom_stalls_count (16 * gib - 1, 8 * gib));
  ck_assert (!headroom_stalls_count (16 * gib, 8 * gib));
  ck_assert (!headroom_stalls_count (0, 0));
  ck_assert (headroom_stalls_count (UINT64_MAX, UINT64_MAX));
}
END_TEST

START_TEST (lending_falls_at_once_and_rises_late)
{
  struct headroom_lending l;

  headroom_lending_begin (&l, 10 * gib);
  ck_assert_uint_eq (l.bytes, 10 * gib);
  headroom_lending_step (&l, 7 * gib, 4);
  ck_assert_uint_eq (l.bytes, 7 * gib);

  /* The least of four in a row. */
  headroom_lending_step (&l, 9 * gib, 4);
  headroom_lending_step (&l, 8 * gib, 4);
  headroom_lending_step (&l, 12 * gib, 4);
  ck_assert_uint_eq (l.bytes, 7 * gib);
  headroom_lending_step (&l, 11 * gib, 4);
  ck_assert_uint_eq (l.bytes, 8 * gib);

  /* A fall in between begins anew. */
  for (int i = 0; i < 3; i++)
    headroom_lending_step (&l, 12 * gib, 4);
  headroom_lending_step (&l, 6 * gib, 4);
  for (int i = 0; i < 3; i++) {
    headroom_lending_step (&l, 12 * gib, 4);
    ck_assert_uint_eq (l.bytes, 6 * gib);
  }
  headroom_lending_step (&l, 12 * gib, 4);
  ck_assert_uint_eq (l.bytes, 12 * gib);

  headroom_lending_step (&l, 0, 1);
  headroom_lending_step (&l, UINT64_MAX, 1);
  ck_assert_uint_eq (l.bytes, UINT64_MAX);
}
END_TEST

/* Use that swings around the edge of a slab: lending does not follow. */
START_TEST (lending_does_not_swing)
{
  struct headroom_lending l;
  unsigned rises = 0;

  headroom_lending_begin (&l, 10 * gib);
  for (int i = 0; i < 1000; i++) {
    const uint64_t before = l.bytes;

    headroom_lending_step (&l, 10 * gib - (i % 19 == 0), 20);
    ck_assert_uint_le (l.bytes, 10 * gib - (i % 19 == 0));
    rises += l.bytes > before;
  }
  ck_assert_uint_eq (rises, 0);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("headroom");
  TCase *tc = tcase_create ("headroom");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_add_test (tc, use_is_what_neither_is_free_nor_ours);
  tcase_add_test (tc, use_is_never_negative);
  tcase_add_test (tc, holds_what_is_above_use_and_headroom);
  tcase_add_test (tc, holds_nothing_where_nothing_is_left);
  tcase_add_test (tc, a_rise_that_comes_again_is_foreseen);
  tcase_add_test (tc, nothing_else_is_foreseen);
  tcase_add_test (tc, holding_more_leaves_use_as_it_was);
  tcase_add_test (tc, share_follows_the_average_of_use);
  tcase_add_test (tc, stalls_count_near_the_headroom);
  tcase_add_test (tc, lending_falls_at_once_and_rises_late);
  tcase_add_test (tc, lending_does_not_swing);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
