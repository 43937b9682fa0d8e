/* Options kept in a key file. */

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "conf/key_file.h"
#include "temporary.h"

static GPtrArray *
read_text (const char *text, char **error)
{
  g_autofree char *path = temporary_file ("donor.conf", text, strlen (text));

  *error = NULL;
  return key_file_read (path, "donor", error);
}

START_TEST (entries_come_in_order_as_written)
{
  static const struct { const char *name, *value; unsigned line; } expected[]
    = { { "memory", "-1", 4 }, { "listen", "[::1]:9400", 5 },
        { "empty", "", 7 }, { "state", "/run/a b=c.sock", 8 },
        { "ready", "18446744073709551616 # x", 9 },
        { "back", "a\\sb\\", 10 } };
  char *error;
  GPtrArray *list = read_text ("# top\n\n[donor]\nmemory=-1\n"
                               "listen =  [::1]:9400  \n#no=1\nempty=\n"
                               "state=/run/a b=c.sock\r\n"
                               "  ready = 18446744073709551616 # x\n"
                               "back=a\\sb\\\n", &error);

  ck_assert_msg (list != NULL, "%s", error);
  ck_assert_uint_eq (list->len, G_N_ELEMENTS (expected));
  for (guint i = 0; i < list->len; i++) {
    const struct key_file_entry *e = g_ptr_array_index (list, i);

    ck_assert_str_eq (e->name, expected[i].name);
    ck_assert_str_eq (e->value, expected[i].value);
    ck_assert_uint_eq (e->line, expected[i].line);
  }
  g_ptr_array_unref (list);
}
END_TEST

START_TEST (empty_files_are_empty)
{
  static const char *const table[] = { "", "\n", "# x\n", "[donor]\n",
    "[donor]\n#a=1\n", "[donor]\n[donor]\n" };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    char *error;
    GPtrArray *list = read_text (table[i], &error);

    ck_assert_msg (list != NULL, "%s: %s", table[i], error);
    ck_assert_uint_eq (list->len, 0);
    g_ptr_array_unref (list);
  }
}
END_TEST

START_TEST (bad_files)
{
  static const struct { const char *text, *why; } table[] = {
    { "memory=1\n", "group" }, { "[donr]\nmemory=1\n", "[donr]" },
    { "[donor]\na=1\n[other]\n", "[other]" },
    { "[donor]\nready=1\nmemory=1\n ready = 2\n", "line 4: \"ready\"" },
    { "[donor]\nready=1\n[donor]\nready=2\n", "line 4: \"ready\"" },
    { "[donor]\nready\n", "ready" }, { "[donor]\n=1\n", "=1" },
    { "[donor\na=1\n", "donor" }, { "[donor]\nb\xff=1\n", "UTF-8" },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    char *error;
    GPtrArray *list = read_text (table[i].text, &error);

    ck_assert_msg (list == NULL, "%s", table[i].text);
    ck_assert_msg (strstr (error, table[i].why) != NULL, "%s: %s",
                   table[i].text, error);
    ck_assert_ptr_nonnull (strstr (error, "/donor.conf"));
    g_free (error);
  }
}
END_TEST

START_TEST (missing_file)
{
  g_autofree char *path = temporary_path ("missing");
  char *error = NULL;

  ck_assert_ptr_null (key_file_read (path, "donor", &error));
  ck_assert_ptr_nonnull (strstr (error, path));
  g_free (error);
}
END_TEST

/* With its comments taken away, the example has every option. */
START_TEST (example_file)
{
  static const char *const names[] = { "listen", "fabric", "memory",
    "headroom", "ready", "slab-size", "max-borrowers", "max-per-borrower",
    "smoothing", "evict-extra", "deadline", "lock", "state", "metrics" };
  g_autofree char *text = NULL;
  g_autoptr (GRegex) comment = g_regex_new ("^#(?=[a-z-]+ = )",
                                            G_REGEX_MULTILINE, 0, NULL);
  g_autofree char *active = NULL;
  GPtrArray *list;
  char *error;

  ck_assert (g_file_get_contents ("conf/donor.conf.example", &text, NULL,
                                  NULL));
  list = read_text (text, &error);
  ck_assert_msg (list != NULL, "%s", error);
  ck_assert_uint_eq (list->len, 0);
  g_ptr_array_unref (list);

  active = g_regex_replace (comment, text, -1, 0, "", 0, NULL);
  list = read_text (active, &error);
  ck_assert_msg (list != NULL, "%s", error);
  ck_assert_uint_eq (list->len, G_N_ELEMENTS (names));
  for (guint i = 0; i < list->len; i++) {
    const struct key_file_entry *e = g_ptr_array_index (list, i);

    ck_assert_str_eq (e->name, names[i]);
  }
  g_ptr_array_unref (list);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("key_file");
  TCase *tc = tcase_create ("key_file");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_checked_fixture (tc, temporary_setup, temporary_teardown);
  tcase_add_test (tc, entries_come_in_order_as_written);
  tcase_add_test (tc, empty_files_are_empty);
  tcase_add_test (tc, bad_files);
  tcase_add_test (tc, missing_file);
  tcase_add_test (tc, example_file);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
