/* Histograms: the bounds of buckets, sums, quantiles, many threads. */

#include <check.h>
#include <pthread.h>
#include <stdlib.h>

#include "conf/histogram.h"

enum { THREADS = 4, NOTES = 100000 };

static const int64_t US = 1000;

static struct histogram_sums
sums_of (const struct histogram *h)
{
  struct histogram_sums sums;

  histogram_read (h, &sums);
  return sums;
}

/* The only octave that one value counts in first; HISTOGRAM_OCTAVES + 1
 * if it is above all.
 */
static unsigned
octave_of (int64_t ns)
{
  struct histogram *h = histogram_new ();
  struct histogram_sums sums;
  unsigned i;

  histogram_note (h, ns, 1);
  sums = sums_of (h);
  histogram_free (h);
  ck_assert_uint_eq (sums.count, 1);
  for (i = 0; i <= HISTOGRAM_OCTAVES; i++)
    if (histogram_octave_count (&sums, i) > 0)
      break;
  for (unsigned j = i; j <= HISTOGRAM_OCTAVES; j++)
    ck_assert_uint_eq (histogram_octave_count (&sums, j), 1);
  return i;
}

/* A bound belongs to its octave, as `le` says. */
START_TEST (bounds_are_inclusive)
{
  ck_assert_uint_eq (octave_of (-5), 0);
  ck_assert_uint_eq (octave_of (0), 0);
  ck_assert_uint_eq (octave_of (1), 0);
  for (unsigned i = 0; i <= HISTOGRAM_OCTAVES; i++) {
    const int64_t bound = US << i;

    ck_assert_double_eq_tol (histogram_octave_seconds (i) * 1e9,
                             (double) bound, 1e-3);
    ck_assert_uint_eq (octave_of (bound), i);
    ck_assert_uint_eq (octave_of (bound + 1), i + 1);
  }
  ck_assert_uint_eq (octave_of (INT64_MAX), HISTOGRAM_OCTAVES + 1);
}
END_TEST

START_TEST (sums_are_of_all)
{
  struct histogram *h = histogram_new ();
  struct histogram_sums sums = sums_of (h);

  ck_assert_uint_eq (sums.count, 0);
  ck_assert_uint_eq (sums.sum_ns, 0);
  histogram_note (h, 1500, 3);
  histogram_note (h, -7, 1);
  histogram_note (h, 20 * US, 2);
  sums = sums_of (h);
  ck_assert_uint_eq (sums.count, 6);
  ck_assert_uint_eq (sums.sum_ns, 3 * 1500 + 2 * 20000);
  ck_assert_uint_eq (histogram_octave_count (&sums, 0), 1);
  ck_assert_uint_eq (histogram_octave_count (&sums, 1), 4);
  ck_assert_uint_eq (histogram_octave_count (&sums, 4), 4);
  ck_assert_uint_eq (histogram_octave_count (&sums, 5), 6);
  histogram_free (h);
  histogram_free (NULL);
}
END_TEST

/* As exact as a quarter of an octave: 25 % at worst, where all that a
 * bucket has lies at one end.
 */
START_TEST (quantiles_are_near)
{
  static const double parts[] = { 0.01, 0.5, 0.9, 0.99, 1 };
  struct histogram *h = histogram_new ();
  struct histogram_sums sums;

  for (int64_t us = 1; us <= 100000; us++)
    histogram_note (h, us * US, 1);
  sums = sums_of (h);
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    ck_assert_double_eq_tol (histogram_quantile_us (&sums, parts[i]),
                             100000 * parts[i], 100000 * parts[i] * 0.15);
  histogram_free (h);
}
END_TEST

START_TEST (quantile_of_one_value_is_in_its_bucket)
{
  for (int64_t us = 1; us < 1 << HISTOGRAM_OCTAVES; us = us * 5 / 4 + 1) {
    struct histogram *h = histogram_new ();
    struct histogram_sums sums;

    histogram_note (h, us * US, 7);
    sums = sums_of (h);
    ck_assert_double_ge (histogram_quantile_us (&sums, 1), us);
    ck_assert_double_le (histogram_quantile_us (&sums, 1), us * 1.25 + 1);
    ck_assert_double_ge (histogram_quantile_us (&sums, 0.01), us * 0.75 - 1);
    ck_assert_double_lt (histogram_quantile_us (&sums, 0.01), us);
    histogram_free (h);
  }
}
END_TEST

START_TEST (quantiles_at_the_ends)
{
  struct histogram *h = histogram_new ();
  struct histogram_sums sums = sums_of (h);

  ck_assert_double_eq (histogram_quantile_us (&sums, 0.5), 0);
  histogram_note (h, INT64_MAX / 4, 1);
  sums = sums_of (h);
  ck_assert_double_eq (histogram_quantile_us (&sums, 0.5),
                       1 << HISTOGRAM_OCTAVES);
  histogram_free (h);
}
END_TEST

static void *
note_many (void *h)
{
  for (int i = 0; i < NOTES; i++)
    histogram_note (h, i % 64 * US, 1);
  return NULL;
}

START_TEST (threads_lose_nothing)
{
  struct histogram *h = histogram_new ();
  struct histogram_sums sums;
  pthread_t threads[THREADS];
  uint64_t last = 0;

  for (int i = 0; i < THREADS; i++)
    ck_assert_int_eq (pthread_create (&threads[i], NULL, note_many, h), 0);
  do {
    sums = sums_of (h);
    ck_assert_uint_ge (sums.count, last);
    last = sums.count;
  } while (last < NOTES);
  for (int i = 0; i < THREADS; i++)
    pthread_join (threads[i], NULL);
  sums = sums_of (h);
  ck_assert_uint_eq (sums.count, THREADS * NOTES);
  ck_assert_uint_eq (histogram_octave_count (&sums, 6), THREADS * NOTES);
  histogram_free (h);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("histogram");
  TCase *c = tcase_create ("histogram");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_add_test (c, bounds_are_inclusive);
  tcase_add_test (c, sums_are_of_all);
  tcase_add_test (c, quantiles_are_near);
  tcase_add_test (c, quantile_of_one_value_is_in_its_bucket);
  tcase_add_test (c, quantiles_at_the_ends);
  tcase_add_test (c, threads_lose_nothing);
  suite_add_tcase (suite, c);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
