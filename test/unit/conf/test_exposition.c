/* The text that Prometheus reads. */

#include <check.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conf/exposition.h"

static void
expect (struct exposition *e, const char *expected)
{
  size_t len;
  g_autofree char *text = exposition_end (e, &len);

  ck_assert_str_eq (text, expected);
  ck_assert_uint_eq (len, strlen (text));
}

START_TEST (families_and_samples)
{
  struct exposition e;

  exposition_begin (&e);
  exposition_counter (&e, "a_total", "Some.", 3);
  exposition_gauge (&e, "b", "Others.", 0.25);
  exposition_family (&e, EXPOSITION_GAUGE, "c", "Many.");
  exposition_sample (&e, 1, "x", "1", NULL);
  exposition_sample (&e, 2, "x", "2", "y", "z", NULL);
  expect (&e,
          "# HELP a_total Some.\n"
          "# TYPE a_total counter\n"
          "a_total 3\n"
          "# HELP b Others.\n"
          "# TYPE b gauge\n"
          "b 0.25\n"
          "# HELP c Many.\n"
          "# TYPE c gauge\n"
          "c{x=\"1\"} 1\n"
          "c{x=\"2\",y=\"z\"} 2\n");
}
END_TEST

START_TEST (special_characters_are_escaped)
{
  struct exposition e;

  exposition_begin (&e);
  exposition_family (&e, EXPOSITION_GAUGE, "a", "back\\slash \"and\"\nline");
  exposition_sample (&e, 1, "x", "back\\slash \"and\"\nline", "y", "", "z",
                     "{}=,", NULL);
  exposition_sample (&e, 2, "x", "\xc3\xa4 \xff", NULL);
  expect (&e,
          "# HELP a back\\\\slash \"and\"\\nline\n"
          "# TYPE a gauge\n"
          "a{x=\"back\\\\slash \\\"and\\\"\\nline\",y=\"\",z=\"{}=,\"} 1\n"
          "a{x=\"\xc3\xa4 \xef\xbf\xbd\"} 2\n");
}
END_TEST

static const struct {
  double value;
  const char *text;
} numbers[] = {
  { 0, "0" }, { 0.1, "0.1" }, { 1e-6, "1e-06" }, { 16.777216, "16.777216" },
  { 9007199254740991.0, "9007199254740991" }, { -1.5, "-1.5" },
  { NAN, "NaN" }, { INFINITY, "+Inf" }, { -INFINITY, "-Inf" },
};

START_TEST (numbers_are_exact)
{
  g_autofree char *expected =
    g_strdup_printf ("# HELP a b\n# TYPE a gauge\na %s\n", numbers[_i].text);
  struct exposition e;

  /* Where it is there, it has a decimal comma. */
  setlocale (LC_ALL, "de_DE.UTF-8");
  exposition_begin (&e);
  exposition_gauge (&e, "a", "b", numbers[_i].value);
  expect (&e, expected);
}
END_TEST

/* The octaves, cumulative; the rest as promtool wants it. */
START_TEST (histogram_has_its_parts)
{
  struct histogram *h = histogram_new ();
  struct histogram_sums sums;
  struct exposition e;
  g_autofree char *text = NULL;
  size_t len, lines = 0;

  histogram_note (h, 1000, 1);
  histogram_note (h, 3000, 2);
  histogram_note (h, 100000000000, 1);
  histogram_read (h, &sums);
  histogram_free (h);
  exposition_begin (&e);
  exposition_family (&e, EXPOSITION_HISTOGRAM, "a_seconds", "b");
  exposition_histogram (&e, &sums, "x", "y", NULL);
  exposition_histogram (&e, &sums, NULL);
  text = exposition_end (&e, &len);
  for (const char *c = text; *c != '\0'; c++)
    lines += *c == '\n';
  ck_assert_uint_eq (lines, 2 + 2 * (HISTOGRAM_OCTAVES + 1 + 3));
  ck_assert_ptr_nonnull (strstr (text, "# TYPE a_seconds histogram\n"
    "a_seconds_bucket{x=\"y\",le=\"1e-06\"} 1\n"
    "a_seconds_bucket{x=\"y\",le=\"2e-06\"} 1\n"
    "a_seconds_bucket{x=\"y\",le=\"4e-06\"} 3\n"));
  ck_assert_ptr_nonnull (strstr (text,
    "a_seconds_bucket{x=\"y\",le=\"16.777216\"} 3\n"
    "a_seconds_bucket{x=\"y\",le=\"+Inf\"} 4\n"
    "a_seconds_sum{x=\"y\"} 100.000007\n"
    "a_seconds_count{x=\"y\"} 4\n"
    "a_seconds_bucket{le=\"1e-06\"} 1\n"));
  ck_assert (g_str_has_suffix (text, "a_seconds_sum 100.000007\n"
                               "a_seconds_count 4\n"));
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("exposition");
  TCase *c = tcase_create ("exposition");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_add_test (c, families_and_samples);
  tcase_add_test (c, special_characters_are_escaped);
  tcase_add_loop_test (c, numbers_are_exact, 0, G_N_ELEMENTS (numbers));
  tcase_add_test (c, histogram_has_its_parts);
  suite_add_tcase (suite, c);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
