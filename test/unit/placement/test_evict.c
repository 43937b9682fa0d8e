/* Batch eviction: whom it compares, whom it takes, and how often that
 * spares the busy.
 */

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "placement/evict.h"
#include "seeded.h"

/* Each of the outcomes must come as often as any other: chi-square, as
 * a standard normal deviate (Wilson and Hilferty), which is above 4.9
 * once in two million fair tests.
 */
static void
check_even (const unsigned *counts, size_t n, double draws)
{
  double expected = draws / n, sum = 0, f = n - 1;

  for (size_t i = 0; i < n; i++)
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  ck_assert_double_lt ((cbrt (sum / f) - 1 + 2 / (9 * f)) / sqrt (2 / (9 * f)),
                       4.9);
}

START_TEST (sample_sizes)
{
  ck_assert_uint_eq (evict_sample_size (10, 0, 1000), 10);
  ck_assert_uint_eq (evict_sample_size (10, 5, 1000), 15);
  ck_assert_uint_eq (evict_sample_size (10, 10, 1000), 20);
  ck_assert_uint_eq (evict_sample_size (10, 11, 1000), 20);
  ck_assert_uint_eq (evict_sample_size (10, SIZE_MAX, 1000), 20);
  ck_assert_uint_eq (evict_sample_size (10, 10, 20), 20);
  ck_assert_uint_eq (evict_sample_size (10, 10, 19), 19);
  ck_assert_uint_eq (evict_sample_size (10, 10, 10), 10);
  ck_assert_uint_eq (evict_sample_size (10, 10, 9), 9);
  ck_assert_uint_eq (evict_sample_size (10, 10, 0), 0);
  ck_assert_uint_eq (evict_sample_size (0, 10, 1000), 0);
  ck_assert_uint_eq (evict_sample_size (SIZE_MAX, SIZE_MAX, 5), 5);
  ck_assert_uint_eq (evict_sample_size (SIZE_MAX - 1, SIZE_MAX, SIZE_MAX),
                     SIZE_MAX);
}
END_TEST

START_TEST (samples_are_distinct_and_complete)
{
  enum { MAX = 60 };
  struct seeded s;

  seeded_init (&s, __func__);
  for (int round = 0; round < 20000; round++) {
    const size_t n = seeded_next (&s) % MAX, k = seeded_next (&s) % MAX;
    size_t out[MAX];
    bool drawn[MAX] = { false };

    ck_assert_uint_eq (evict_sample (n, k, &s.random, out), n < k ? n : k);
    for (size_t i = 0; i < (n < k ? n : k); i++) {
      ck_assert_uint_lt (out[i], n);
      ck_assert (!drawn[out[i]]);
      drawn[out[i]] = true;
    }
  }
}
END_TEST

/* All 210 sets of 4 of 10. */
START_TEST (every_subset_is_equally_likely)
{
  enum { N = 10, K = 4, SUBSETS = 210, DRAWS = 210000 };
  unsigned by_mask[1 << N] = { 0 }, counts[SUBSETS], subsets = 0;
  struct seeded s;

  seeded_init (&s, __func__);
  for (int d = 0; d < DRAWS; d++) {
    size_t out[K], mask = 0;

    ck_assert_uint_eq (evict_sample (N, K, &s.random, out), K);
    for (size_t i = 0; i < K; i++)
      mask |= (size_t) 1 << out[i];
    by_mask[mask]++;
  }
  for (size_t mask = 0; mask < 1 << N; mask++)
    if (by_mask[mask] > 0) {
      ck_assert_uint_lt (subsets, SUBSETS);
      counts[subsets++] = by_mask[mask];
    }
  ck_assert_uint_eq (subsets, SUBSETS);
  check_even (counts, SUBSETS, DRAWS);
}
END_TEST

START_TEST (the_least_active_go)
{
  const double activity[] = { 5, 0.5, 9, 0, 7, 1e300, 0.25 };
  size_t out[7];
  struct seeded s;

  seeded_init (&s, __func__);
  ck_assert_uint_eq (evict_least_active (activity, 7, 3, &s.random, out), 3);
  ck_assert_uint_eq (out[0], 1);
  ck_assert_uint_eq (out[1], 3);
  ck_assert_uint_eq (out[2], 6);
  ck_assert_uint_eq (evict_least_active (activity, 7, 1, &s.random, out), 1);
  ck_assert_uint_eq (out[0], 3);
  ck_assert_uint_eq (evict_least_active (activity, 7, 7, &s.random, out), 7);
  ck_assert_uint_eq (evict_least_active (activity, 7, 99, &s.random, out), 7);
  ck_assert_uint_eq (out[5], 5);
  out[0] = 77;
  ck_assert_uint_eq (evict_least_active (activity, 7, 0, &s.random, out), 0);
  ck_assert_uint_eq (evict_least_active (NULL, 0, 3, &s.random, out), 0);
  ck_assert_uint_eq (out[0], 77);
}
END_TEST

/* Against any mix: as many as wanted, and nobody spared is less active. */
START_TEST (nobody_spared_is_less_active)
{
  enum { MAX = 40 };
  struct seeded s;

  seeded_init (&s, __func__);
  for (int round = 0; round < 20000; round++) {
    const size_t n = seeded_next (&s) % MAX, evict = seeded_next (&s) % MAX;
    double activity[MAX], most = -1;
    size_t out[MAX], got;
    bool goes[MAX] = { false };

    for (size_t i = 0; i < n; i++)
      activity[i] = seeded_next (&s) % (round % 2 ? 4 : 1000);
    got = evict_least_active (activity, n, evict, &s.random, out);
    ck_assert_uint_eq (got, n < evict ? n : evict);
    for (size_t i = 0; i < got; i++) {
      ck_assert_uint_lt (out[i], n);
      ck_assert (!goes[out[i]]);
      goes[out[i]] = true;
      most = fmax (most, activity[out[i]]);
    }
    for (size_t i = 0; i < n; i++)
      ck_assert (goes[i] || activity[i] >= most);
  }
}
END_TEST

/* Two of four tied ones go, with one less active: six outcomes. */
START_TEST (ties_are_broken_evenly)
{
  enum { DRAWS = 60000 };
  const double activity[] = { 3, 9, 3, 1, 3, 3 };
  unsigned by_mask[1 << 6] = { 0 }, counts[6], outcomes = 0;
  struct seeded s;

  seeded_init (&s, __func__);
  for (int d = 0; d < DRAWS; d++) {
    size_t out[3], mask = 0;

    ck_assert_uint_eq (evict_least_active (activity, 6, 3, &s.random, out), 3);
    for (size_t i = 0; i < 3; i++)
      mask |= (size_t) 1 << out[i];
    ck_assert_uint_eq (mask & (1 << 1 | 1 << 3), 1 << 3);
    by_mask[mask]++;
  }
  for (size_t mask = 0; mask < 1 << 6; mask++)
    if (by_mask[mask] > 0) {
      ck_assert_uint_lt (outcomes, 6);
      counts[outcomes++] = by_mask[mask];
    }
  ck_assert_uint_eq (outcomes, 6);
  check_even (counts, 6, DRAWS);
}
END_TEST

enum { SLABS = 10000, EVICT = 10, TRIALS = 40000 };

/* The paper's section 4.4: of E + E' drawn, at least E must be idle.
 * With `without` the exact chance where nothing is drawn twice, from
 * `busy` of SLABS; without it the paper's formula, p = busy / SLABS.
 */
static double
chance_of_sparing (unsigned extra, unsigned busy, bool without)
{
  const unsigned drawn = EVICT + extra;
  double sum = 0;

  for (unsigned idle = EVICT; idle <= drawn; idle++) {
    double term = exp (lgamma (drawn + 1) - lgamma (idle + 1)
                       - lgamma (drawn - idle + 1));

    for (unsigned i = 0; i < drawn; i++) {
      const unsigned left = without ? SLABS - i : SLABS;
      const unsigned of_kind = i < idle
        ? SLABS - busy - (without ? i : 0)
        : busy - (without ? i - idle : 0);

      term *= (double) of_kind / left;
    }
    sum += term;
  }
  return sum;
}

/* One eviction; slabs below `busy` are busy, some less than others. */
static bool
spares_the_busy (struct seeded *s, unsigned extra, unsigned busy)
{
  const size_t size = evict_sample_size (EVICT, extra, SLABS);
  size_t sample[2 * EVICT], least[EVICT];
  double activity[2 * EVICT];

  ck_assert_uint_eq (evict_sample (SLABS, size, &s->random, sample), size);
  for (size_t i = 0; i < size; i++)
    activity[i] = sample[i] < busy ? 20 + sample[i] % 1000 : sample[i] % 20;
  ck_assert_uint_eq (evict_least_active (activity, size, EVICT, &s->random,
                                         least), EVICT);
  for (size_t i = 0; i < EVICT; i++)
    if (sample[least[i]] < busy)
      return false;
  return true;
}

/* The measured chance may be off by four standard deviations of TRIALS
 * trials and one trial more (where less than one is expected), from the
 * exact chance; from the formula also by what drawing without putting
 * back makes.
 */
START_TEST (busy_slabs_are_spared_as_the_paper_says)
{
  static const unsigned extras[] = { 0, 5, 10 };
  struct seeded s;

  seeded_init (&s, __func__);
  printf ("E = %d of %d slabs, %d trials: chance of evicting no busy one\n"
          "%4s %4s %9s %9s\n", EVICT, SLABS, TRIALS, "E'", "p", "formula",
          "measured");
  for (size_t e = 0; e < 3; e++)
    for (unsigned tenths = 1; tenths <= 7; tenths++) {
      const unsigned busy = tenths * SLABS / 10;
      const double formula = chance_of_sparing (extras[e], busy, false);
      const double exact = chance_of_sparing (extras[e], busy, true);
      const double tolerance = 4 * sqrt (exact * (1 - exact) / TRIALS)
        + 1.0 / TRIALS;
      double measured;
      unsigned spared = 0;

      for (int trial = 0; trial < TRIALS; trial++)
        spared += spares_the_busy (&s, extras[e], busy);
      measured = (double) spared / TRIALS;
      printf ("%4u %4.1f %9.6f %9.6f\n", extras[e], tenths / 10.0, formula,
              measured);
      ck_assert_double_eq_tol (formula, exact, 0.001);
      ck_assert_double_eq_tol (measured, exact, tolerance);
      ck_assert_double_eq_tol (measured, formula, tolerance + 0.001);
    }
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("evict");
  TCase *tc = tcase_create ("evict");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 120);
  tcase_add_test (tc, sample_sizes);
  tcase_add_test (tc, samples_are_distinct_and_complete);
  tcase_add_test (tc, every_subset_is_equally_likely);
  tcase_add_test (tc, the_least_active_go);
  tcase_add_test (tc, nobody_spared_is_less_active);
  tcase_add_test (tc, ties_are_broken_evenly);
  tcase_add_test (tc, busy_slabs_are_spared_as_the_paper_says);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
