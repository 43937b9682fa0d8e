/* Sizes, durations and numbers: tables of what is taken and refused. */

#include <check.h>
#include <errno.h>
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <glib.h>

#include "conf/units.h"

#define KIB UINT64_C (1024)

/* What no parser takes. */
static const char *const never[] = {
  "", " ", "\t", "-", "+", ".", "-1", "+1", "-0", " 1", "1 ", "1\n", "\n1",
  "1 K", "0x10", "0b1", "1e3", "1E3e", "nan", "NaN", "inf", "infinity",
  "abc", "K", "s", "ms", "1..2", "1.2.3", "1,5", "1_000", "1'000", "'1'",
  "\"1\"", "1;", "1#", "\xd9\xa1", "1\xc2\xa0", "１", "%", "1%", "--1",
  ".5", "5.", "5.s", ".5s", "0.", "1.x",
};

START_TEST (no_parser_takes_garbage)
{
  for (size_t i = 0; i < G_N_ELEMENTS (never); i++) {
    uint64_t u = 77;
    int64_t d = 77;
    double f = 77;

    ck_assert_msg (units_parse_uint (never[i], &u) == -EINVAL, "%s",
                   never[i]);
    ck_assert_msg (units_parse_size (never[i], &u) == -EINVAL, "%s",
                   never[i]);
    ck_assert_msg (units_parse_duration (never[i], &d) == -EINVAL, "%s",
                   never[i]);
    ck_assert_msg (units_parse_fraction (never[i], &f) == -EINVAL, "%s",
                   never[i]);
    ck_assert_uint_eq (u, 77);
    ck_assert_int_eq (d, 77);
    ck_assert_double_eq (f, 77);
  }
}
END_TEST

START_TEST (numbers)
{
  static const struct { const char *text; int r; uint64_t value; } table[] = {
    { "0", 0, 0 }, { "1", 0, 1 }, { "007", 0, 7 },
    { "18446744073709551615", 0, UINT64_MAX },
    { "18446744073709551616", -ERANGE, 0 },
    { "18446744073709551620", -ERANGE, 0 },
    { "99999999999999999999999999", -ERANGE, 0 },
    { "1K", -EINVAL, 0 }, { "1.0", -EINVAL, 0 },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    uint64_t value = 77;

    ck_assert_msg (units_parse_uint (table[i].text, &value) == table[i].r,
                   "%s", table[i].text);
    ck_assert_uint_eq (value, table[i].r == 0 ? table[i].value : 77);
  }
}
END_TEST

START_TEST (sizes)
{
  static const struct { const char *text; int r; uint64_t value; } table[] = {
    { "0", 0, 0 }, { "4096", 0, 4096 }, { "0K", 0, 0 },
    { "64K", 0, 64 * KIB }, { "64k", 0, 64 * KIB }, { "64KB", 0, 64 * KIB },
    { "64KiB", 0, 64 * KIB }, { "64kiB", 0, 64 * KIB },
    { "16M", 0, 16 * KIB * KIB }, { "16m", 0, 16 * KIB * KIB },
    { "1G", 0, KIB * KIB * KIB }, { "1GiB", 0, KIB * KIB * KIB },
    { "8T", 0, 8 * KIB * KIB * KIB * KIB }, { "2P", 0, UINT64_C (1) << 51 },
    { "15E", 0, UINT64_C (15) << 60 },
    { "18446744073709551615", 0, UINT64_MAX },
    { "16E", -ERANGE, 0 }, { "16777216T", -ERANGE, 0 },
    { "16777215T", 0, UINT64_C (16777215) << 40 },
    { "18014398509481984K", -ERANGE, 0 },
    { "18446744073709551616", -ERANGE, 0 },
    { "1.5G", 0, UINT64_C (3) << 29 }, { "0.5K", 0, 512 },
    { "1.000K", 0, 1024 }, { "0.0009765625K", 0, 1 },
    { "0.1K", -ERANGE, 0 }, { "1.5", -ERANGE, 0 },
    { "15.9375E", 0, UINT64_C (255) << 56 }, { "16.5E", -ERANGE, 0 },
    { "1.G", -EINVAL, 0 }, { ".5G", -EINVAL, 0 }, { "1,5G", -EINVAL, 0 },
    { "1.5G5", -EINVAL, 0 }, { "1B", -EINVAL, 0 }, { "1iB", -EINVAL, 0 },
    { "1Ki", -EINVAL, 0 }, { "1Kb", -EINVAL, 0 }, { "1KIB", -EINVAL, 0 },
    { "1KK", -EINVAL, 0 }, { "1KBx", -EINVAL, 0 }, { "1G ", -EINVAL, 0 },
    { "1Z", -EINVAL, 0 }, { "-1G", -EINVAL, 0 }, { "1s", -EINVAL, 0 },
    { "G1", -EINVAL, 0 },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    uint64_t value = 77;

    ck_assert_msg (units_parse_size (table[i].text, &value) == table[i].r,
                   "%s", table[i].text);
    ck_assert_uint_eq (value, table[i].r == 0 ? table[i].value : 77);
  }
}
END_TEST

START_TEST (durations)
{
  static const struct { const char *text; int r; int64_t ns; } table[] = {
    { "0", 0, 0 }, { "0s", 0, 0 }, { "2", 0, 2000000000 },
    { "2s", 0, 2000000000 }, { "500ms", 0, 500000000 },
    { "100us", 0, 100000 }, { "20ns", 0, 20 }, { "1m", 0, 60000000000 },
    { "1h", 0, 3600000000000 }, { "1.5s", 0, 1500000000 },
    { "1.5", 0, 1500000000 }, { "0.1m", 0, 6000000000 },
    { "1.5ms", 0, 1500000 }, { "0.000000001s", 0, 1 },
    { "1.500000000000000000000000s", 0, 1500000000 },
    { "0.0000000005s", -ERANGE, 0 }, { "0.5ns", -ERANGE, 0 },
    { "0.33333333333333333333s", -ERANGE, 0 },
    { "9223372036s", 0, 9223372036000000000 },
    { "9223372036.854775807", 0, INT64_MAX },
    { "9223372036.854775808", -ERANGE, 0 },
    { "9223372037s", -ERANGE, 0 }, { "9223372036854775807ns", 0, INT64_MAX },
    { "9223372036854775808ns", -ERANGE, 0 },
    { "18446744073709551615s", -ERANGE, 0 },
    { "18446744073709551616s", -ERANGE, 0 },
    { "2562047h", 0, 9223369200000000000 }, { "2562048h", -ERANGE, 0 },
    { "1d", -EINVAL, 0 }, { "1S", -EINVAL, 0 }, { "1M", -EINVAL, 0 },
    { "1sec", -EINVAL, 0 }, { "1s1ms", -EINVAL, 0 }, { "1 s", -EINVAL, 0 },
    { "1s ", -EINVAL, 0 }, { "-1s", -EINVAL, 0 }, { "1,5s", -EINVAL, 0 },
    { "1K", -EINVAL, 0 },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    int64_t ns = 77;

    ck_assert_msg (units_parse_duration (table[i].text, &ns) == table[i].r,
                   "%s", table[i].text);
    ck_assert_int_eq (ns, table[i].r == 0 ? table[i].ns : 77);
  }
}
END_TEST

static void
check_fractions (void)
{
  static const struct { const char *text; int r; double value; } table[] = {
    { "0", 0, 0 }, { "0.2", 0, 0.2 }, { "20", 0, 20 }, { "1.0", 0, 1 },
    { "000.250", 0, 0.25 }, { "123456.789", 0, 123456.789 },
    { "1e3", -EINVAL, 0 }, { "0x1p3", -EINVAL, 0 }, { "1.5s", -EINVAL, 0 },
    { "0,2", -EINVAL, 0 }, { "0.2 ", -EINVAL, 0 }, { "-0.2", -EINVAL, 0 },
  };
  g_autofree char *huge = g_strnfill (400, '9');
  double value = 77;

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    value = 77;
    ck_assert_msg (units_parse_fraction (table[i].text, &value) == table[i].r,
                   "%s", table[i].text);
    ck_assert_double_eq (value, table[i].r == 0 ? table[i].value : 77);
  }
  value = 77;
  ck_assert_int_eq (units_parse_fraction (huge, &value), -ERANGE);
  ck_assert_double_eq (value, 77);
}

START_TEST (fractions)
{
  check_fractions ();
}
END_TEST

/* With a comma as the decimal point. */
START_TEST (fractions_in_another_locale)
{
  static const char *const locales[] = { "de_DE.UTF-8", "de_DE.utf8",
    "de_DE", "fr_FR.UTF-8" };
  bool found = false;

  for (size_t i = 0; !found && i < G_N_ELEMENTS (locales); i++)
    found = setlocale (LC_ALL, locales[i]) != NULL;
  if (!found) {
    printf ("fractions_in_another_locale: skipped: no locale with a comma "
            "as the decimal point (de_DE.UTF-8) is installed\n");
    return;
  }
  check_fractions ();
}
END_TEST

START_TEST (formatted_sizes)
{
  static const struct { uint64_t bytes; const char *text; } table[] = {
    { 0, "0" }, { 1, "1" }, { 1023, "1023" }, { 1024, "1K" },
    { 1025, "1025" }, { 1536, "1.5K" }, { 4096, "4K" },
    { UINT64_C (64) << 30, "64G" }, { UINT64_C (3) << 29, "1.5G" },
    { UINT64_C (1) << 29, "512M" }, { (UINT64_C (1) << 30) + 4096, "1048580K" },
    { UINT64_C (1) << 60, "1E" }, { UINT64_C (15) << 60, "15E" },
    { UINT64_MAX, "18446744073709551615" },
  };
  char text[UNITS_TEXT_MAX];

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    uint64_t back;

    ck_assert_str_eq (units_format_size (table[i].bytes, text),
                      table[i].text);
    ck_assert_int_eq (units_parse_size (text, &back), 0);
    ck_assert_uint_eq (back, table[i].bytes);
    ck_assert_ptr_eq (units_format_size (table[i].bytes, text), text);
  }
}
END_TEST

START_TEST (formatted_durations)
{
  static const struct { int64_t ns; const char *text; } table[] = {
    { 0, "0s" }, { 1, "1ns" }, { 1500, "1.5us" }, { 1501, "1501ns" },
    { 1500000, "1.5ms" }, { 500000000, "500ms" }, { 1250000000, "1250ms" },
    { 2000000000, "2s" }, { 3600000000000, "3600s" },
    { INT64_MAX, "9223372036854775807ns" },
  };
  char text[UNITS_TEXT_MAX];
  int64_t back;

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    ck_assert_str_eq (units_format_duration (table[i].ns, text),
                      table[i].text);
    ck_assert_int_eq (units_parse_duration (text, &back), 0);
    ck_assert_int_eq (back, table[i].ns);
  }
  units_format_duration (INT64_MIN, text);
  ck_assert_str_eq (text, "-9223372036854775808ns");
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("units");
  TCase *tc = tcase_create ("units");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_test (tc, no_parser_takes_garbage);
  tcase_add_test (tc, numbers);
  tcase_add_test (tc, sizes);
  tcase_add_test (tc, durations);
  tcase_add_test (tc, fractions);
  tcase_add_test (tc, fractions_in_another_locale);
  tcase_add_test (tc, formatted_sizes);
  tcase_add_test (tc, formatted_durations);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
