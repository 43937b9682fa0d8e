/* Listening: over tcp, and over verbs that come and go. */

#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "donor/listeners.h"

/* In the place of the real one. */
static struct {
  struct fabric_listener listener;
  int fd;
  bool gone;
  unsigned open;
} device;

static int
verbs_available (void)
{
  return device.gone ? -ENODEV : 0;
}

static int
verbs_listen (const struct sockaddr *addr, socklen_t len,
              struct fabric_listener **ret)
{
  (void) addr;
  (void) len;
  device.fd = eventfd (0, EFD_NONBLOCK | EFD_CLOEXEC);
  device.listener.ops = &fabric_verbs;
  device.open++;
  *ret = &device.listener;
  return 0;
}

static int
verbs_fd (struct fabric_listener *l)
{
  (void) l;
  return device.fd;
}

static int
verbs_accept (struct fabric_listener *l, struct fabric_request **ret)
{
  (void) l;
  (void) ret;
  return device.gone ? -ENODEV : -EAGAIN;
}

static void
verbs_close (struct fabric_listener *l)
{
  (void) l;
  close (device.fd);
  device.open--;
}

const struct fabric_ops fabric_verbs = {
  .name = "verbs", .available = verbs_available, .listen = verbs_listen,
  .listener_fd = verbs_fd, .listener_accept = verbs_accept,
  .listener_close = verbs_close,
};

static GMainContext *context;
static struct donor_config config;

static void
setup (void)
{
  struct sockaddr_in *addr = (struct sockaddr_in *) &config.listen;

  device.gone = false;
  context = g_main_context_new ();
  config = (struct donor_config) { .listen_len = sizeof *addr };
  addr->sin_family = AF_INET;
  addr->sin_addr.s_addr = htonl (INADDR_LOOPBACK);
}

static void
teardown (void)
{
  ck_assert_uint_eq (device.open, 0);
  g_main_context_unref (context);
}

static void
refuse (struct fabric_request *request, void *data)
{
  (void) data;
  fabric_request_reject (request);
}

static struct listeners *
start (enum donor_fabric fabric)
{
  struct listeners *l;
  char *error;

  config.fabric = fabric;
  l = listeners_new (&config, context, refuse, NULL, &error);
  ck_assert_msg (l != NULL, "%s", l ? "" : error);
  return l;
}

static bool
has (const struct listeners *l, const char *names)
{
  const char *of[LISTENERS_MAX + 1];
  char *all;
  bool r;

  listeners_fabrics (l, of);
  all = g_strjoinv (" ", (char **) of);
  r = strcmp (all, names) == 0;
  g_free (all);
  return r;
}

static void
wait_until_has (const struct listeners *l, const char *names)
{
  const int64_t until_ns = fabric_now_ns () + INT64_C (10000000000);

  while (!has (l, names)) {
    ck_assert_int_lt (fabric_now_ns (), until_ns);
    g_main_context_iteration (context, FALSE);
    usleep (1000);
  }
}

START_TEST (a_port_is_chosen_once_for_both)
{
  struct listeners *l = start (DONOR_FABRIC_AUTO);
  const struct sockaddr_in *addr;
  char *text;
  socklen_t len;

  ck_assert (has (l, "tcp verbs"));
  addr = (const struct sockaddr_in *) listeners_address (l, &len);
  ck_assert_uint_eq (len, sizeof *addr);
  ck_assert_uint_ne (addr->sin_port, 0);
  text = g_strdup_printf ("127.0.0.1:%u", ntohs (addr->sin_port));
  ck_assert_str_eq (listeners_text (l), text);
  g_free (text);
  listeners_free (l);
}
END_TEST

START_TEST (without_a_device_it_is_tcp_alone)
{
  struct listeners *l;

  device.gone = true;
  l = start (DONOR_FABRIC_AUTO);
  ck_assert (has (l, "tcp"));
  listeners_free (l);
}
END_TEST

START_TEST (a_device_that_has_to_be_there_is_named)
{
  char *error = NULL;

  device.gone = true;
  config.fabric = DONOR_FABRIC_VERBS;
  ck_assert_ptr_null (listeners_new (&config, context, refuse, NULL, &error));
  ck_assert_ptr_nonnull (strstr (error, "(verbs): No such device"));
  g_free (error);
}
END_TEST

START_TEST (a_device_that_goes_is_listened_on_when_it_is_back)
{
  struct listeners *l = start (DONOR_FABRIC_AUTO);

  device.gone = true;
  eventfd_write (device.fd, 1);
  wait_until_has (l, "tcp");
  ck_assert_uint_eq (device.open, 0);
  for (int i = 0; i < 15; i++) {        /* it is tried, without it */
    g_main_context_iteration (context, FALSE);
    usleep (100000);
  }
  ck_assert (has (l, "tcp"));
  device.gone = false;
  wait_until_has (l, "tcp verbs");
  ck_assert_uint_eq (device.open, 1);
  listeners_free (l);
}
END_TEST

START_TEST (one_may_stop_while_a_device_is_gone)
{
  struct listeners *l = start (DONOR_FABRIC_VERBS);

  device.gone = true;
  eventfd_write (device.fd, 1);
  wait_until_has (l, "");
  listeners_stop (l);
  g_main_context_iteration (context, FALSE);
  listeners_free (l);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("listeners");
  TCase *tc = tcase_create ("listeners");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_add_checked_fixture (tc, setup, teardown);
  tcase_add_test (tc, a_port_is_chosen_once_for_both);
  tcase_add_test (tc, without_a_device_it_is_tcp_alone);
  tcase_add_test (tc, a_device_that_has_to_be_there_is_named);
  tcase_add_test (tc, a_device_that_goes_is_listened_on_when_it_is_back);
  tcase_add_test (tc, one_may_stop_while_a_device_is_gone);
  tcase_set_timeout (tc, 60);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
