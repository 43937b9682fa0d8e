/* Lists and files of donors. */

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <glib.h>

#include "conf/donor_list.h"
#include "temporary.h"

START_TEST (good_lists)
{
  char *error = NULL;
  struct donor_list *list =
    donor_list_parse ("10.0.0.2:9400,[::1]:9400,n:1", &error);
  const struct address *a;

  ck_assert_ptr_nonnull (list);
  ck_assert_uint_eq (list->addresses->len, 3);
  a = g_ptr_array_index (list->addresses, 1);
  ck_assert_str_eq (a->host, "::1");
  a = g_ptr_array_index (list->addresses, 2);
  ck_assert_str_eq (a->host, "n");
  donor_list_free (list);

  list = donor_list_parse ("n:1,n:2,m:1", &error);
  ck_assert_ptr_nonnull (list);
  donor_list_free (list);
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
    struct donor_list *list = donor_list_parse (table[i].text, &error);

    ck_assert_msg (list == NULL, "%s", table[i].text);
    ck_assert_msg (strstr (error, table[i].why) != NULL, "%s: %s",
                   table[i].text, error);
    g_free (error);
  }
}
END_TEST

START_TEST (services)
{
  static const struct { const char *text, *shown; } table[] = {
    { "srv:_infiniswap._tcp.example.org",
      "srv:_infiniswap._tcp.example.org" },
    { "srv:_Infiniswap._TCP.Example.ORG.",
      "srv:_infiniswap._tcp.example.org" },
    { "srv:_lend._tcp.donors.swap.svc.cluster.local,10.0.0.2:9400",
      "10.0.0.2:9400,srv:_lend._tcp.donors.swap.svc.cluster.local" },
    { "srv:_a._tcp.x,b:1,srv:_b._tcp.x", "b:1,srv:_a._tcp.x,srv:_b._tcp.x" },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    g_autofree char *shown = NULL;
    char *error = NULL;
    struct donor_list *list = donor_list_parse (table[i].text, &error);

    ck_assert_msg (list != NULL, "%s: %s", table[i].text, error);
    shown = donor_list_to_string (list);
    ck_assert_str_eq (shown, table[i].shown);
    donor_list_free (list);
  }
}
END_TEST

static void
expect_refused (const char *text, const char *why)
{
  char *error = NULL;
  struct donor_list *list = donor_list_parse (text, &error);

  ck_assert_msg (list == NULL, "%s", text);
  ck_assert_msg (strstr (error, why) != NULL, "%s: %s", text, error);
  ck_assert_ptr_null (strchr (error, '\n'));
  g_free (error);
}

START_TEST (bad_services)
{
  static const struct { const char *text, *why; } table[] = {
    { "srv:", "a part is empty" },
    { "srv:infiniswap._tcp.x", "service does not begin with _" },
    { "srv:_._tcp.x", "service does not begin with _" },
    { "srv:_infiniswap.tcp.x", "protocol does not begin with _" },
    { "srv:_infiniswap", "domain is missing" },
    { "srv:_infiniswap._tcp", "domain is missing" },
    { "srv:_infiniswap._tcp.", "a part is empty" },
    { "srv:_infiniswap._tcp..x", "a part is empty" },
    { "srv:_infiniswap._tcp.x..", "a part is empty" },
    { "srv:_infiniswap._tcp.x:9400", "a character" },
    { "srv: _infiniswap._tcp.x", "a character" },
    { "srv:_infiniswap._tcp.x\ny", "a character" },
    { "srv:_infiniswap._tcp.\xc3\xa4", "a character" },
    { "srv:_a._tcp.x,srv:_A._tcp.x.", "twice" },
    { "_infiniswap._tcp.x", "no port" },
    { "SRV:_infiniswap._tcp.x", "the port is not" },
  };
  g_autofree char *part = g_strnfill (64, 'x');
  g_autofree char *long_part = g_strdup_printf ("srv:_a._tcp.%s", part);
  g_autofree char *parts = g_strnfill (250, '.');
  g_autofree char *long_name = NULL;

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++)
    expect_refused (table[i].text, table[i].why);
  expect_refused (long_part, "a part is longer");
  for (size_t i = 0; i < 250; i += 2)
    parts[i] = 'x';
  long_name = g_strdup_printf ("srv:_a._tcp.%s", parts);
  expect_refused (long_name, "longer than 253");
}
END_TEST

static struct donor_list *
read_text (const char *text, size_t len, char **error)
{
  g_autofree char *path = temporary_file ("donors", text, len);

  return donor_list_read_file (path, error);
}

START_TEST (good_files)
{
  static const struct { const char *text; unsigned n; } table[] = {
    { "", 0 }, { "\n\n", 0 }, { "# none\n", 0 }, { "a:1", 1 },
    { "a:1\n", 1 }, { "a:1\r\nb:1\r\n", 2 }, { "  a:1\t\n\n\tb:1", 2 },
    { "# rack 1\na:1 # first\n#b:1\n[::1]:1#x\n", 2 },
    { "a:1\n  # a comment\n \t \nb:1\n", 2 },
    { "a:1\n srv:_s._tcp.x # more\nb:1\n", 2 },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    char *error = NULL;
    struct donor_list *list = read_text (table[i].text, strlen (table[i].text),
                                 &error);

    ck_assert_msg (list != NULL, "%s: %s", table[i].text, error);
    ck_assert_uint_eq (list->addresses->len, table[i].n);
    donor_list_free (list);
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
    { "a:1\nsrv:x\n", "line 2: service \"srv:x\"" },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    char *error = NULL;
    struct donor_list *list = read_text (table[i].text, strlen (table[i].text),
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

  ck_assert_ptr_null (donor_list_read_file (path, &error));
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
  struct donor_list *list = donor_list_read_file ("conf/donors.example", &error);

  ck_assert_msg (list != NULL, "%s", error);
  ck_assert_uint_eq (list->addresses->len, 4);
  ck_assert_uint_eq (list->services->len, 1);
  donor_list_free (list);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("donor_list");
  TCase *tc = tcase_create ("donor_list");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_checked_fixture (tc, temporary_setup, temporary_teardown);
  tcase_add_test (tc, good_lists);
  tcase_add_test (tc, bad_lists);
  tcase_add_test (tc, services);
  tcase_add_test (tc, bad_services);
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
