/* Where slabs go: who is drawn, how evenly, and how well that balances. */

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "seeded.h"

enum { DONORS = 32, SLABS = 10000, TRIALS = 20 };

/* Chi-square of equally likely outcomes, as a standard normal deviate
 * (Wilson and Hilferty): above 4.9 once in two million fair tests.
 */
static double
chi_square_deviate (const unsigned *counts, size_t n, double draws)
{
  double expected = draws / n, sum = 0, f = n - 1;

  for (size_t i = 0; i < n; i++)
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  return (cbrt (sum / f) - 1 + 2 / (9 * f)) / sqrt (2 / (9 * f));
}

START_TEST (every_pair_is_equally_likely)
{
  enum { N = 16, DRAWS = 200000 };
  struct choose_donor donors[N] = { 0 };
  unsigned pairs[N * (N - 1) / 2] = { 0 };
  struct seeded s;

  seeded_init (&s, __func__);
  for (int i = 0; i < N; i++)
    donors[i].usable = true;
  for (int d = 0; d < DRAWS; d++) {
    size_t out[2], low, high;

    ck_assert_uint_eq (choose_probes (donors, N, 2, &s.random, out), 2);
    ck_assert_uint_ne (out[0], out[1]);
    low = out[0] < out[1] ? out[0] : out[1];
    high = out[0] + out[1] - low;
    pairs[high * (high - 1) / 2 + low]++;
  }
  ck_assert_double_lt
    (chi_square_deviate (pairs, N * (N - 1) / 2, DRAWS), 4.9);
}
END_TEST

START_TEST (one_probe_is_uniform_among_the_usable)
{
  enum { N = 13, DRAWS = 130000 };
  struct choose_donor donors[N] = { 0 };
  unsigned counts[N] = { 0 }, usable_counts[N];
  size_t usable = 0, out;
  struct seeded s;

  seeded_init (&s, __func__);
  for (int i = 0; i < N; i++)
    donors[i].usable = i % 3 != 0;
  for (int d = 0; d < DRAWS; d++) {
    ck_assert_uint_eq (choose_probes (donors, N, 1, &s.random, &out), 1);
    counts[out]++;
  }
  for (int i = 0; i < N; i++) {
    if (donors[i].usable)
      usable_counts[usable++] = counts[i];
    else
      ck_assert_uint_eq (counts[i], 0);
  }
  ck_assert_double_lt
    (chi_square_deviate (usable_counts, usable, DRAWS), 4.9);
}
END_TEST

/* Against any mix of donors: distinct, usable, of one class, complete. */
START_TEST (draws_keep_the_rules)
{
  enum { MAX = 40 };
  struct seeded s;

  seeded_init (&s, __func__);
  for (int round = 0; round < 20000; round++) {
    struct choose_donor donors[MAX];
    size_t n = seeded_next (&s) % (MAX + 1);
    size_t probes = seeded_next (&s) % 12;
    size_t out[12], fresh = 0, old = 0, expected, got;
    bool drawn[MAX] = { false };

    for (size_t i = 0; i < n; i++) {
      donors[i].usable = seeded_next (&s) % 4 != 0;
      donors[i].slabs = seeded_next (&s) % 3 == 0 ? 0 :
        seeded_next (&s) % (round % 2 ? 3 : UINT64_MAX);
      if (donors[i].usable)
        donors[i].slabs == 0 ? fresh++ : old++;
    }
    got = choose_probes (donors, n, probes, &s.random, out);
    expected = fresh > 0 ? fresh : old;
    ck_assert_uint_eq (got, expected < probes ? expected : probes);
    for (size_t i = 0; i < got; i++) {
      ck_assert_uint_lt (out[i], n);
      ck_assert (!drawn[out[i]]);
      drawn[out[i]] = true;
      ck_assert (donors[out[i]].usable);
      ck_assert_int_eq (donors[out[i]].slabs == 0, fresh > 0);
    }
  }
}
END_TEST

START_TEST (nothing_to_draw)
{
  struct choose_donor donors[3] = { { false, 0 }, { false, 1 }, { false, 0 } };
  size_t out[2] = { 77, 77 };
  struct seeded s;

  seeded_init (&s, __func__);
  ck_assert_uint_eq (choose_probes (NULL, 0, 2, &s.random, out), 0);
  ck_assert_uint_eq (choose_probes (donors, 3, 2, &s.random, out), 0);
  donors[1].usable = true;
  ck_assert_uint_eq (choose_probes (donors, 3, 0, &s.random, out), 0);
  ck_assert_uint_eq (out[0], 77);
  ck_assert_uint_eq (choose_probes (donors, 3, 2, &s.random, out), 1);
  ck_assert_uint_eq (out[0], 1);
  ck_assert_uint_eq (out[1], 77);
}
END_TEST

START_TEST (most_free_wins)
{
  uint64_t free_bytes[] = { 5, 9, UINT64_MAX, 9, 0 };
  struct seeded s;

  seeded_init (&s, __func__);
  ck_assert_int_eq (choose_most_free (free_bytes, 5, 5, &s.random), 2);
  ck_assert_int_eq (choose_most_free (free_bytes, 2, 5, &s.random), 1);
  ck_assert_int_eq (choose_most_free (free_bytes, 1, 5, &s.random), 0);
  ck_assert_int_eq (choose_most_free (free_bytes, 1, 6, &s.random), -1);
  ck_assert_int_eq (choose_most_free (free_bytes, 0, 0, &s.random), -1);
  ck_assert_int_eq (choose_most_free (NULL, 0, 1, &s.random), -1);
}
END_TEST

START_TEST (ties_are_broken_evenly)
{
  enum { DRAWS = 100000 };
  const uint64_t free_bytes[] = { 7, 3, 7, 7, 1, 7, 7 };
  const size_t tied[] = { 0, 2, 3, 5, 6 };
  unsigned counts[7] = { 0 }, tied_counts[5];
  struct seeded s;

  seeded_init (&s, __func__);
  for (int d = 0; d < DRAWS; d++)
    counts[choose_most_free (free_bytes, 7, 2, &s.random)]++;
  ck_assert_uint_eq (counts[1] + counts[4], 0);
  for (int i = 0; i < 5; i++)
    tied_counts[i] = counts[tied[i]];
  ck_assert_double_lt (chi_square_deviate (tied_counts, 5, DRAWS), 4.9);
}
END_TEST

/* 2^64 is one more than a multiple of 3, so one of the 2^64 numbers has
 * to be drawn again where one of 3 is chosen.
 */
static uint64_t
next_scripted (void *state)
{
  static const uint64_t script[] = { 1, 0, 3 };

  return script[(*(unsigned *) state)++];
}

START_TEST (remainders_are_not_biased)
{
  const uint64_t free_bytes[] = { 1, 1, 1 };
  unsigned calls = 0;
  struct choose_random random = { next_scripted, &calls };

  ck_assert_int_eq (choose_most_free (free_bytes, 3, 1, &random), 2);
  ck_assert_uint_eq (calls, 3);
}
END_TEST

/* The most loaded donor's slabs over the mean, averaged over trials.
 * Each slab belongs to a device of its own.
 */
static double
imbalance (struct seeded *s, size_t probes)
{
  double sum = 0;

  for (int trial = 0; trial < TRIALS; trial++) {
    struct choose_donor donors[DONORS];
    uint64_t held[DONORS] = { 0 }, most = 0;

    for (int i = 0; i < DONORS; i++)
      donors[i] = (struct choose_donor) { .usable = true };
    for (int slab = 0; slab < SLABS; slab++) {
      size_t out[DONORS], n;
      uint64_t free_bytes[DONORS];

      n = choose_probes (donors, DONORS, probes, &s->random, out);
      for (size_t i = 0; i < n; i++)
        free_bytes[i] = SLABS - held[out[i]];
      held[out[choose_most_free (free_bytes, n, 1, &s->random)]]++;
    }
    for (int i = 0; i < DONORS; i++)
      most = held[i] > most ? held[i] : most;
    sum += (double) most / SLABS * DONORS;
  }
  return sum / TRIALS;
}

START_TEST (two_choices_beat_one)
{
  double one, two, four, all;
  struct seeded s;

  seeded_init (&s, __func__);
  one = imbalance (&s, 1);
  two = imbalance (&s, 2);
  four = imbalance (&s, 4);
  all = imbalance (&s, DONORS);
  printf ("%d slabs on %d donors, most loaded over mean: 1 probe %.4f, "
          "2 probes %.4f, 4 probes %.4f, all %.4f\n",
          SLABS, DONORS, one, two, four, all);

  /* mean + sqrt (2 mean ln donors) for one; mean + log log donors / log
   * probes for more.
   */
  ck_assert_double_gt (one, 1.08);
  ck_assert_double_lt (two, 1.02);
  ck_assert_double_lt (four, two);
  ck_assert_double_le (all, four);
  ck_assert_double_lt (all, 1 + 1.0 * DONORS / SLABS);
}
END_TEST

/* One device: a second slab goes to a donor only when all have one. */
START_TEST (a_device_spreads_over_new_donors_first)
{
  struct seeded s;

  seeded_init (&s, __func__);
  for (int trial = 0; trial < 200; trial++) {
    struct choose_donor donors[DONORS];
    size_t out[2];

    for (int i = 0; i < DONORS; i++)
      donors[i] = (struct choose_donor) { .usable = true };
    for (int slab = 0; slab < DONORS; slab++) {
      ck_assert_uint_ge (choose_probes (donors, DONORS, 2, &s.random, out), 1);
      ck_assert_uint_eq (donors[out[0]].slabs, 0);
      donors[out[0]].slabs++;
    }
    ck_assert_uint_eq (choose_probes (donors, DONORS, 2, &s.random, out), 2);
  }
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("choose");
  TCase *tc = tcase_create ("choose");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 120);
  tcase_add_test (tc, every_pair_is_equally_likely);
  tcase_add_test (tc, one_probe_is_uniform_among_the_usable);
  tcase_add_test (tc, draws_keep_the_rules);
  tcase_add_test (tc, nothing_to_draw);
  tcase_add_test (tc, most_free_wins);
  tcase_add_test (tc, ties_are_broken_evenly);
  tcase_add_test (tc, remainders_are_not_biased);
  tcase_add_test (tc, two_choices_beat_one);
  tcase_add_test (tc, a_device_spreads_over_new_donors_first);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
