/* Addresses. */

#include <arpa/inet.h>
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include <glib.h>

#include "conf/address.h"

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

static const struct {
  const char *text;
  int family;                   /* AF_UNSPEC: none */
  uint16_t port;
} listens[] = {
  { "127.0.0.1:9400", AF_INET, 9400 },
  { "0.0.0.0:1", AF_INET, 1 },
  { "127.0.0.1:0", AF_INET, 0 },
  { "[::1]:9400", AF_INET6, 9400 },
  { "[::]:0", AF_INET6, 0 },
  { "", AF_UNSPEC, 0 },
  { "127.0.0.1", AF_UNSPEC, 0 },
  { ":0", AF_UNSPEC, 0 },
  { ":9400", AF_UNSPEC, 0 },
  { "::1:0", AF_UNSPEC, 0 },
  { "127.0.0.1:00", AF_UNSPEC, 0 },
  { "127.0.0.1:65536", AF_UNSPEC, 0 },
  { "127.0.0.1:9400 ", AF_UNSPEC, 0 },
};

START_TEST (addresses_to_listen_on)
{
  struct sockaddr_storage got;
  socklen_t len;

  if (listens[_i].family == AF_UNSPEC) {
    ck_assert (!address_parse_listen (listens[_i].text, &got, &len));
    return;
  }
  ck_assert (address_parse_listen (listens[_i].text, &got, &len));
  ck_assert_int_eq (got.ss_family, listens[_i].family);
  if (got.ss_family == AF_INET) {
    ck_assert_uint_eq (len, sizeof (struct sockaddr_in));
    ck_assert_uint_eq (ntohs (((struct sockaddr_in *) &got)->sin_port),
                       listens[_i].port);
  } else {
    ck_assert_uint_eq (len, sizeof (struct sockaddr_in6));
    ck_assert_uint_eq (ntohs (((struct sockaddr_in6 *) &got)->sin6_port),
                       listens[_i].port);
  }
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
  tcase_add_test (tc, good_addresses);
  tcase_add_test (tc, bad_addresses);
  tcase_add_test (tc, errors_stay_on_one_line);
  tcase_add_test (tc, long_hosts);
  tcase_add_loop_test (tc, addresses_to_listen_on, 0,
                       G_N_ELEMENTS (listens));
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
