/* The HTTP server of metrics: what is answered, and that no client can
 * hold it or its thread up.
 */

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conf/address.h"
#include "conf/metrics_server.h"

enum { CLIENTS_MAX = 16, PER_ADDRESS = 8, BIG = 8 << 20, PATIENCE_MS = 300 };

static const char get[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

/* A server in a thread and a context of its own. */
struct server {
  struct metrics_server *metrics;
  GMainContext *context;
  pthread_t thread;
  atomic_bool stop, big;
  atomic_uint rounds;           /* of the loop */
};

static void
collect (struct exposition *e, void *data)
{
  struct server *s = data;
  g_autofree char *filler = g_strnfill (BIG, 'x');

  exposition_gauge (e, "a", "b", 1);
  if (atomic_load (&s->big))
    exposition_gauge (e, "c", filler, 1);
}

static void *
run (void *data)
{
  struct server *s = data;

  while (!atomic_load (&s->stop)) {
    g_main_context_iteration (s->context, TRUE);
    atomic_fetch_add (&s->rounds, 1);
  }
  return NULL;
}

static void
server_start (struct server *s, const char *address, unsigned patience_ms)
{
  char *error = NULL;

  *s = (struct server) { .context = g_main_context_new () };
  s->metrics = metrics_server_bind (address, &error);
  ck_assert_msg (s->metrics != NULL, "%s", error);
  if (patience_ms > 0)
    metrics_server_set_patience (s->metrics, patience_ms);
  ck_assert_int_eq (metrics_server_serve (s->metrics, s->context, collect, s),
                    0);
  ck_assert_int_eq (pthread_create (&s->thread, NULL, run, s), 0);
}

static void
server_stop (struct server *s)
{
  atomic_store (&s->stop, true);
  g_main_context_wakeup (s->context);
  ck_assert_int_eq (pthread_join (s->thread, NULL), 0);
  metrics_server_close (s->metrics);
  g_main_context_unref (s->context);
}

/* From 127.0.0.N, so that there are many addresses. */
static int
client_from (struct server *s, unsigned n)
{
  struct sockaddr_in own = { .sin_family = AF_INET,
                             .sin_addr.s_addr = htonl (0x7f000000 + n) };
  int fd = socket (AF_INET, SOCK_STREAM, 0);
  struct sockaddr_storage to;
  socklen_t len;

  ck_assert (address_parse_listen (metrics_server_address (s->metrics), &to,
                                   &len));
  if (to.ss_family == AF_INET)
    ck_assert_int_eq (bind (fd, (struct sockaddr *) &own, sizeof own), 0);
  else {
    close (fd);
    fd = socket (AF_INET6, SOCK_STREAM, 0);
  }
  ck_assert_int_eq (connect (fd, (struct sockaddr *) &to, len), 0);
  return fd;
}

static void
client_send (int fd, const char *text)
{
  ck_assert_int_eq (send (fd, text, strlen (text), MSG_NOSIGNAL),
                    strlen (text));
}

/* All up to the end of the connection. */
static char *
client_receive (int fd)
{
  GString *text = g_string_new (NULL);
  char buf[65536];
  ssize_t n;

  while ((n = recv (fd, buf, sizeof buf, 0)) > 0)
    g_string_append_len (text, buf, n);
  close (fd);
  return g_string_free (text, FALSE);
}

static void
expect_answer (struct server *s, const char *request, const char *expected)
{
  int fd = client_from (s, 1);
  g_autofree char *text = NULL;

  client_send (fd, request);
  text = client_receive (fd);
  ck_assert_msg (strstr (text, expected) != NULL, "%s", text);
}

static void
expect_served (struct server *s)
{
  expect_answer (s, get, "\na 1\n");
}

START_TEST (only_metrics_are_served)
{
  struct server s;

  server_start (&s, "127.0.0.1:0", 0);
  expect_answer (&s, get, "HTTP/1.1 200 ");
  expect_answer (&s, get, "Content-Type: text/plain; version=0.0.4; "
                 "charset=utf-8\r\n");
  expect_answer (&s, get, "\r\n\r\n# HELP a b\n# TYPE a gauge\na 1\n");
  expect_answer (&s, "GET /metrics?x=y HTTP/1.0\r\n\r\n", "\na 1\n");
  expect_answer (&s, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                 "HTTP/1.1 200 ");
  expect_answer (&s, "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                 "HTTP/1.1 404 ");
  expect_answer (&s, "GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n",
                 "Only /metrics is here.\n");
  expect_answer (&s, "POST /metrics HTTP/1.1\r\nHost: x\r\n"
                 "Content-Length: 1000000\r\n\r\n", "HTTP/1.1 405 ");
  expect_answer (&s, "DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                 "Allow: GET, HEAD\r\n");
  server_stop (&s);
}
END_TEST

START_TEST (also_over_ipv6)
{
  struct server s;
  int fd = socket (AF_INET6, SOCK_STREAM, 0);
  const struct sockaddr_in6 own = { .sin6_family = AF_INET6,
                                    .sin6_addr = IN6ADDR_LOOPBACK_INIT };

  if (fd == -1 || bind (fd, (struct sockaddr *) &own, sizeof own) == -1)
    return;                     /* this machine has none */
  close (fd);
  server_start (&s, "[::1]:0", 0);
  ck_assert (g_str_has_prefix (metrics_server_address (s.metrics), "[::1]:"));
  expect_served (&s);
  server_stop (&s);
}
END_TEST

static void
expect_refused (const char *address, const char *why)
{
  char *error = NULL;

  ck_assert_ptr_null (metrics_server_bind (address, &error));
  ck_assert_msg (strstr (error, why) != NULL, "%s", error);
  ck_assert_msg (strstr (error, address) != NULL, "%s", error);
  ck_assert_ptr_null (strchr (error, '\n'));
  g_free (error);
}

START_TEST (bad_addresses_are_refused)
{
  struct server s;

  server_start (&s, "127.0.0.1:0", 0);
  expect_refused (metrics_server_address (s.metrics),
                  "Address already in use; choose another port");
  expect_refused (":9400", "must be ADDR:PORT");
  expect_refused ("9400", "must be ADDR:PORT");
  expect_refused ("", "must be ADDR:PORT");
  expect_refused ("192.0.2.1:9400", "give an address of this machine");
  expect_served (&s);
  server_stop (&s);
}
END_TEST

START_TEST (a_port_serves_again_at_once)
{
  g_autofree char *address = NULL;
  struct server s;

  server_start (&s, "127.0.0.1:0", 0);
  address = g_strdup (metrics_server_address (s.metrics));
  expect_served (&s);
  server_stop (&s);
  server_start (&s, address, 0);
  expect_served (&s);
  server_stop (&s);
}
END_TEST

START_TEST (serves_after_a_fork)
{
  char *error = NULL;
  struct server s = { .metrics = metrics_server_bind ("127.0.0.1:0",
                                                      &error) };
  pid_t pid;
  int status;

  ck_assert_msg (s.metrics != NULL, "%s", error);
  pid = fork ();
  ck_assert_int_ne (pid, -1);
  if (pid == 0) {
    s.context = g_main_context_new ();
    if (metrics_server_serve (s.metrics, s.context, collect, &s) != 0)
      _exit (1);
    run (&s);
  }
  expect_served (&s);
  kill (pid, SIGKILL);
  waitpid (pid, &status, 0);
  metrics_server_close (s.metrics);
  metrics_server_close (NULL);
}
END_TEST

/* Until the server ends the connection; how long that took. */
static gint64
wait_for_end (int fd)
{
  const gint64 begin_us = g_get_monotonic_time ();

  g_free (client_receive (fd));
  return (g_get_monotonic_time () - begin_us) / 1000;
}

START_TEST (silent_clients_are_dropped)
{
  struct server s;
  int fd;

  server_start (&s, "127.0.0.1:0", PATIENCE_MS);
  fd = client_from (&s, 1);
  client_send (fd, "GET /met");
  expect_served (&s);
  ck_assert_int_le (wait_for_end (fd), 3 * PATIENCE_MS);
  expect_served (&s);
  server_stop (&s);
}
END_TEST

START_TEST (default_patience_is_five_seconds)
{
  struct server s;
  gint64 ms;

  server_start (&s, "127.0.0.1:0", 0);
  ms = wait_for_end (client_from (&s, 1));
  ck_assert_int_ge (ms, 4900);
  ck_assert_int_le (ms, 15000);
  server_stop (&s);
}
END_TEST

/* A byte now and then is no progress. */
START_TEST (dribbling_clients_are_dropped)
{
  const gint64 begin_us = g_get_monotonic_time ();
  struct server s;
  int fd;

  server_start (&s, "127.0.0.1:0", PATIENCE_MS);
  fd = client_from (&s, 1);
  client_send (fd, "GET /metrics HTTP/1.1\r\nX: ");
  while (send (fd, "x", 1, MSG_NOSIGNAL) == 1) {
    struct pollfd p = { .fd = fd, .events = POLLIN };

    if (poll (&p, 1, 10) != 0)
      break;
  }
  ck_assert_int_le ((g_get_monotonic_time () - begin_us) / 1000,
                    3 * PATIENCE_MS);
  close (fd);
  expect_served (&s);
  server_stop (&s);
}
END_TEST

/* It asks for much and takes nothing. */
START_TEST (clients_that_do_not_read_are_dropped)
{
  const int least = 1;
  struct server s;
  g_autofree char *text = NULL;
  int fd;

  server_start (&s, "127.0.0.1:0", PATIENCE_MS);
  atomic_store (&s.big, true);
  fd = client_from (&s, 1);
  setsockopt (fd, SOL_SOCKET, SO_RCVBUF, &least, sizeof least);
  client_send (fd, get);
  /* The connection ends, whatever of the answer waits in front of that. */
  for (struct pollfd p = { .fd = fd, .events = POLLRDHUP };
       (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) == 0; )
    ck_assert_int_eq (poll (&p, 1, 10 * PATIENCE_MS), 1);
  text = client_receive (fd);
  ck_assert_uint_lt (strlen (text), BIG);
  atomic_store (&s.big, false);
  expect_served (&s);
  server_stop (&s);
}
END_TEST

START_TEST (long_heads_are_refused)
{
  g_autofree char *filler = g_strnfill (100000, 'x');
  g_autofree char *text = NULL;
  struct server s;
  int fd;

  server_start (&s, "127.0.0.1:0", 0);
  fd = client_from (&s, 1);
  client_send (fd, "GET /metrics HTTP/1.1\r\nX: ");
  send (fd, filler, strlen (filler), MSG_NOSIGNAL);
  text = client_receive (fd);
  ck_assert_msg (text[0] == '\0' || strstr (text, "HTTP/1.1 4") != NULL,
                 "%s", text);
  expect_served (&s);
  server_stop (&s);
}
END_TEST

/* One address cannot take all places. */
START_TEST (an_address_has_its_share)
{
  int fds[4 * CLIENTS_MAX];
  struct server s;

  server_start (&s, "127.0.0.1:0", 0);
  for (size_t i = 0; i < G_N_ELEMENTS (fds); i++)
    fds[i] = client_from (&s, 2);
  /* Those beyond the share are closed, */
  for (size_t i = PER_ADDRESS; i < G_N_ELEMENTS (fds); i++)
    ck_assert_int_lt (wait_for_end (fds[i]), 5000);
  expect_served (&s);
  /* and the others are not. */
  for (size_t i = 0; i < PER_ADDRESS; i++) {
    struct pollfd p = { .fd = fds[i], .events = POLLIN };

    ck_assert_int_eq (poll (&p, 1, 0), 0);
    close (fds[i]);
  }
  server_stop (&s);
}
END_TEST

/* Callers beyond the limit wait until others are dropped. */
START_TEST (clients_are_limited)
{
  int fds[3 * CLIENTS_MAX];
  struct server s;

  server_start (&s, "127.0.0.1:0", PATIENCE_MS);
  for (size_t i = 0; i < G_N_ELEMENTS (fds); i++)
    fds[i] = client_from (&s, 2 + i);
  expect_served (&s);
  for (size_t i = 0; i < G_N_ELEMENTS (fds); i++)
    wait_for_end (fds[i]);
  expect_served (&s);
  server_stop (&s);
}
END_TEST

/* The loop must rest while nothing happens. */
START_TEST (the_loop_is_left_alone)
{
  int fds[CLIENTS_MAX];
  struct server s;
  unsigned rounds;

  server_start (&s, "127.0.0.1:0", 0);
  atomic_store (&s.big, true);
  for (size_t i = 0; i < G_N_ELEMENTS (fds); i++) {
    fds[i] = client_from (&s, 2 + i);
    client_send (fds[i], i % 2 ? get : "GET /");
  }
  g_usleep (500000);
  rounds = atomic_load (&s.rounds);
  g_usleep (500000);
  ck_assert_uint_lt (atomic_load (&s.rounds) - rounds, 50);
  for (size_t i = 0; i < G_N_ELEMENTS (fds); i++)
    close (fds[i]);
  server_stop (&s);
}
END_TEST

/* Take all descriptors below a limit; returns how many were taken. */
static size_t
take_descriptors (int fds[], size_t most)
{
  struct rlimit limit;
  size_t n = 0;

  ck_assert_int_eq (getrlimit (RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = most;
  ck_assert_int_eq (setrlimit (RLIMIT_NOFILE, &limit), 0);
  while ((fds[n] = dup (STDERR_FILENO)) != -1)
    n++;
  ck_assert_int_eq (errno, EMFILE);
  return n;
}

/* It waits then, and neither spins nor gives up. */
START_TEST (descriptors_run_out)
{
  int fds[256], caller;
  struct sockaddr_storage to;
  g_autofree char *text = NULL;
  struct server s;
  socklen_t len;
  unsigned rounds;
  size_t n;

  server_start (&s, "127.0.0.1:0", 0);
  ck_assert (address_parse_listen (metrics_server_address (s.metrics), &to,
                                   &len));
  caller = socket (AF_INET, SOCK_STREAM, 0);
  n = take_descriptors (fds, G_N_ELEMENTS (fds));
  ck_assert_int_eq (connect (caller, (struct sockaddr *) &to, len), 0);
  client_send (caller, get);
  rounds = atomic_load (&s.rounds);
  g_usleep (300000);
  ck_assert_uint_lt (atomic_load (&s.rounds) - rounds, 50);
  while (n > 0)
    close (fds[--n]);
  text = client_receive (caller);
  ck_assert_msg (strstr (text, "\na 1\n") != NULL, "%s", text);
  server_stop (&s);
}
END_TEST

START_TEST (closing_ends_the_clients)
{
  struct server s;
  int fd;

  server_start (&s, "127.0.0.1:0", 0);
  fd = client_from (&s, 1);
  client_send (fd, "GET /");
  expect_served (&s);
  server_stop (&s);
  ck_assert_int_lt (wait_for_end (fd), 4000);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("metrics_server");
  TCase *c = tcase_create ("metrics_server");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (c, 60);
  tcase_add_test (c, only_metrics_are_served);
  tcase_add_test (c, also_over_ipv6);
  tcase_add_test (c, bad_addresses_are_refused);
  tcase_add_test (c, a_port_serves_again_at_once);
  tcase_add_test (c, serves_after_a_fork);
  tcase_add_test (c, silent_clients_are_dropped);
  tcase_add_test (c, default_patience_is_five_seconds);
  tcase_add_test (c, dribbling_clients_are_dropped);
  tcase_add_test (c, clients_that_do_not_read_are_dropped);
  tcase_add_test (c, long_heads_are_refused);
  tcase_add_test (c, an_address_has_its_share);
  tcase_add_test (c, clients_are_limited);
  tcase_add_test (c, the_loop_is_left_alone);
  tcase_add_test (c, descriptors_run_out);
  tcase_add_test (c, closing_ends_the_clients);
  suite_add_tcase (suite, c);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
