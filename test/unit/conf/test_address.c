/* Addresses, lists of them, and files of them. */

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <glib.h>

#include "conf/address.h"
#include "temporary.h"

START_TEST (good_addresses)
{
  static const struct { const char *text, *host; unsigned port; } table[] = {
    { "10.0.0.2:9400", "10.0.0.2", 9400 }, { "[::1]:9400", "::1", 9400 },
    { "node7:9400", "node7", 9400 }, { "a.b-c_d.example:1", "a.b-c_d.example",
      1 }, { "Node7:65535", "Node7", 65535 }, { "[fe80::1%eth0]:9400",
      "fe80::1%eth0", 9400 }, { "[::ffff:10.0.0.2]:9400",
      "::ffff:10.0.0.2", 9400 }, { "7node:9400", "7node", 9400 },
    { "node.:9400", "node.", 9400 },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    char *error = NULL;
    struct address *a = address_parse (table[i].text, &error);
    g_autofree char *back = NULL;

    ck_assert_msg (a != NULL, "%s: %s", table[i].text, error);
    ck_assert_str_eq (a->host, table[i].host);
    ck_assert_uint_eq (a->port, table[i].port);
    back = address_to_string (a);
    ck_assert_str_eq (back, table[i].text);
    address_free (a);
  }
  address_free (NULL);
}
END_TEST

START_TEST (bad_addresses)
{
  static const struct { const char *text, *why; } table[] = {
    { "", "no port" }, { ":", "host name" }, { ":9400", "host name" },
    { "node7", "no port" }, { "node7:", "port is not" },
    { "node7:0", "port is not" }, { "node7:65536", "port is not" },
    { "node7:18446744073709551617", "port is not" },
    { "node7:-1", "port is not" }, { "node7:+1", "port is not" },
    { "node7: 1", "port is not" }, { "node7:1 ", "port is not" },
    { "node7:0x50", "port is not" }, { "node7:http", "port is not" },
    { " node7:9400", "host name" }, { "no de:9400", "host name" },
    { "::1:9400", "brackets" }, { "::1", "brackets" },
    { "fe80::1:9400", "brackets" }, { "a:1:2", "brackets" },
    { "[::1:9400", "bracket is missing" }, { "[::1", "bracket is missing" },
    { "::1]:9400", "brackets" }, { "[::1]", "no port" },
    { "[::1]9400", "no port" }, { "[::1]x:9400", "no port" },
    { "[::1]:", "port is not" }, { "[::1]:0", "port is not" },
    { "[]:9400", "valid IPv6" }, { "[10.0.0.2]:9400", "valid IPv6" },
    { "[node7]:9400", "valid IPv6" }, { "[::g]:9400", "valid IPv6" },
    { "[::1%]:9400", "valid IPv6" }, { "[[::1]]:9400", "valid IPv6" },
    { "[::1][::1]:9400", "valid IPv6" },
    { "10.0.0:9400", "host name" }, { "10.0.0.256:9400", "host name" },
    { "10.0.0.2.3:9400", "host name" }, { "1:9400", "host name" },
    { "-node:9400", "host name" },
    { ".node:9400", "host name" }, { "n\xc3\xb6" "de:9400", "host name" },
    { "node7:9400/x", "port is not" }, { "node,7:9400", "host name" },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    char *error = NULL;
    struct address *a = address_parse (table[i].text, &error);

    ck_assert_msg (a == NULL, "%s", table[i].text);
    ck_assert_msg (strstr (error, table[i].why) != NULL, "%s: %s",
                   table[i].text, error);
    ck_assert_ptr_nonnull (strstr (error, "1 to 65535"));
    ck_assert_ptr_null (strchr (error, '\n'));
    g_free (error);
  }
}
END_TEST

START_TEST (errors_stay_on_one_line)
{
  char *error = NULL;

  ck_assert_ptr_null (address_parse ("a\nb\x1b[31m:9400", &error));
  ck_assert_ptr_nonnull (strstr (error, "a\\nb\\033[31m:9400"));
  ck_assert_ptr_null (strchr (error, '\n'));
  g_free (error);
}
END_TEST

START_TEST (long_hosts)
{
  g_autofree char *host = g_strnfill (254, 'a');
  g_autofree char *text = g_strconcat (host, ":1", NULL);
  char *error = NULL;
  struct address *a;

  ck_assert_ptr_null (address_parse (text, &error));
  g_free (error);
  a = address_parse (text + 1, &error);
  ck_assert_ptr_nonnull (a);
  address_free (a);
}
END_TEST

START_TEST (good_lists)
{
  char *error = NULL;
  GPtrArray *list = address_parse_list ("10.0.0.2:9400,[::1]:9400,n:1",
                                        &error);
  const struct address *a;

  ck_assert_ptr_nonnull (list);
  ck_assert_uint_eq (list->len, 3);
  a = g_ptr_array_index (list, 1);
  ck_assert_str_eq (a->host, "::1");
  a = g_ptr_array_index (list, 2);
  ck_assert_str_eq (a->host, "n");
  g_ptr_array_unref (list);

  list = address_parse_list ("n:1,n:2,m:1", &error);
  ck_assert_ptr_nonnull (list);
  g_ptr_array_unref (list);
}
END_TEST

START_TEST (bad_lists)
{
  static const struct { const char *text, *why; } table[] = {
    { "", "empty" }, { ",", "no port" }, { "a:1,", "no port" },
    { ",a:1", "no port" }, { "a:1,,b:1", "no port" },
    { "a:1, b:1", "host name" }, { "a:1;b:1", "brackets" },
    { "a:1 b:1", "brackets" }, { "a:1,b", "no port" },
    { "a:1,b:1,a:1", "twice" }, { "a:1,A:1", "twice" },
    { "a:1,a:01", "twice" }, { "[::1]:1,[0:0::1]:1", "twice" },
    { "[::A]:1,[::a]:1", "twice" },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    char *error = NULL;
    GPtrArray *list = address_parse_list (table[i].text, &error);

    ck_assert_msg (list == NULL, "%s", table[i].text);
    ck_assert_msg (strstr (error, table[i].why) != NULL, "%s: %s",
                   table[i].text, error);
    g_free (error);
  }
}
END_TEST

static GPtrArray *
read_text (const char *text, size_t len, char **error)
{
  g_autofree char *path = temporary_file ("donors", text, len);

  return address_read_file (path, error);
}

START_TEST (good_files)
{
  static const struct { const char *text; unsigned n; } table[] = {
    { "", 0 }, { "\n\n", 0 }, { "# none\n", 0 }, { "a:1", 1 },
    { "a:1\n", 1 }, { "a:1\r\nb:1\r\n", 2 }, { "  a:1\t\n\n\tb:1", 2 },
    { "# rack 1\na:1 # first\n#b:1\n[::1]:1#x\n", 2 },
    { "a:1\n  # a comment\n \t \nb:1\n", 2 },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    char *error = NULL;
    GPtrArray *list = read_text (table[i].text, strlen (table[i].text),
                                 &error);

    ck_assert_msg (list != NULL, "%s: %s", table[i].text, error);
    ck_assert_uint_eq (list->len, table[i].n);
    g_ptr_array_unref (list);
  }
}
END_TEST

START_TEST (bad_files)
{
  static const struct { const char *text, *why; } table[] = {
    { "a:1\nb\n", "line 2" }, { "a:1\n\n# x\na:1\n", "line 4" },
    { "a:1\n\n# x\na:1\n", "twice" }, { "a:1,b:1\n", "line 1" },
    { "a:1 b:1\n", "line 1" }, { "a:1\rb:1\n", "line 1" },
    { "\xef\xbb\xbf" "a:1\n", "line 1" }, { "donors=a:1\n", "line 1" },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    char *error = NULL;
    GPtrArray *list = read_text (table[i].text, strlen (table[i].text),
                                 &error);

    ck_assert_msg (list == NULL, "%s", table[i].text);
    ck_assert_msg (strstr (error, table[i].why) != NULL, "%s: %s",
                   table[i].text, error);
    ck_assert_ptr_nonnull (strstr (error, "/donors"));
    ck_assert_ptr_null (strchr (error, '\n'));
    g_free (error);
  }
}
END_TEST

static void
expect_unreadable (const char *path, const char *why)
{
  char *error = NULL;

  ck_assert_ptr_null (address_read_file (path, &error));
  ck_assert_msg (strstr (error, path) != NULL, "%s", error);
  ck_assert_msg (strstr (error, why) != NULL, "%s", error);
  g_free (error);
}

START_TEST (unreadable_files)
{
  g_autofree char *missing = temporary_path ("missing");
  g_autofree char *fifo = temporary_path ("fifo");
  g_autofree char *big = g_strnfill ((1 << 20) + 1, '\n');
  g_autofree char *big_path = temporary_file ("big", big, (1 << 20) + 1);
  g_autofree char *binary = temporary_file ("binary", "a:1\n\0b:1\n", 9);

  expect_unreadable (missing, "No such file");
  expect_unreadable ("/", "not a regular file");
  expect_unreadable ("/dev/zero", "not a regular file");
  ck_assert_int_eq (mkfifo (fifo, 0600), 0);
  expect_unreadable (fifo, "not a regular file");
  expect_unreadable (big_path, "larger than 1M");
  expect_unreadable (binary, "UTF-8");
}
END_TEST

START_TEST (example_file)
{
  char *error = NULL;
  GPtrArray *list = address_read_file ("conf/donors.example", &error);

  ck_assert_msg (list != NULL, "%s", error);
  ck_assert_uint_eq (list->len, 4);
  g_ptr_array_unref (list);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("address");
  TCase *tc = tcase_create ("address");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_checked_fixture (tc, temporary_setup, temporary_teardown);
  tcase_add_test (tc, good_addresses);
  tcase_add_test (tc, bad_addresses);
  tcase_add_test (tc, errors_stay_on_one_line);
  tcase_add_test (tc, long_hosts);
  tcase_add_test (tc, good_lists);
  tcase_add_test (tc, bad_lists);
  tcase_add_test (tc, good_files);
  tcase_add_test (tc, bad_files);
  tcase_add_test (tc, unreadable_files);
  tcase_add_test (tc, example_file);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
