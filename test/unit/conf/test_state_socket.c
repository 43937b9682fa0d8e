/* The state socket: who may be there, what is answered, and that no
 * client can hold it up.
 */

#include <check.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conf/state_socket.h"
#include "temporary.h"

enum { CLIENTS_MAX = 16, BIG = 4 << 20 };

static const gint64 long_ns = 60 * G_GINT64_CONSTANT (1000000000);

/* A server in a thread and a context of its own. */
struct server {
  char *path;
  struct state_socket *socket;
  GMainContext *context;
  pthread_t thread;
  atomic_bool stop;
  atomic_uint rounds;           /* of the loop */
};

static JsonNode *
answer (const char *request, void *data)
{
  JsonNode *node;

  if (g_str_has_prefix (request, "echo")) {
    node = json_node_new (JSON_NODE_VALUE);
    json_node_set_string (node, request + 4);
    return node;
  }
  if (strcmp (request, "big") == 0) {
    g_autofree char *big = g_strnfill (BIG, 'x');

    node = json_node_new (JSON_NODE_VALUE);
    json_node_set_string (node, big);
    return node;
  }
  if (strcmp (request, "stop") == 0)
    atomic_store ((atomic_bool *) data, true);
  return strcmp (request, "status") != 0 ? NULL :
    json_from_string ("{ \"kind\": \"device\" }", NULL);
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
server_start (struct server *s, unsigned silence_ms)
{
  char *error = NULL;

  s->path = temporary_path ("s.sock");
  s->socket = state_socket_bind (s->path, &error);
  ck_assert_msg (s->socket != NULL, "%s", error);
  s->context = g_main_context_new ();
  atomic_init (&s->stop, false);
  atomic_init (&s->rounds, 0);
  if (silence_ms > 0)
    state_socket_set_silence (s->socket, silence_ms);
  state_socket_serve (s->socket, s->context, answer, &s->stop);
  ck_assert_int_eq (pthread_create (&s->thread, NULL, run, s), 0);
}

static void
server_stop (struct server *s)
{
  atomic_store (&s->stop, true);
  g_main_context_wakeup (s->context);
  ck_assert_int_eq (pthread_join (s->thread, NULL), 0);
  state_socket_close (s->socket);
  g_main_context_unref (s->context);
  ck_assert (!g_file_test (s->path, G_FILE_TEST_EXISTS));
  g_free (s->path);
}

static struct sockaddr_un
address_of (const char *path)
{
  struct sockaddr_un addr = { .sun_family = AF_UNIX };

  ck_assert_uint_lt (strlen (path), sizeof addr.sun_path);
  strcpy (addr.sun_path, path);
  return addr;
}

static int
client_connect (const char *path)
{
  struct sockaddr_un addr = address_of (path);
  int fd = socket (AF_UNIX, SOCK_STREAM, 0);

  ck_assert_int_eq (connect (fd, (struct sockaddr *) &addr, sizeof addr), 0);
  return fd;
}

/* The server may close as soon as it has heard too much. */
static void
client_send (int fd, const char *text, size_t len)
{
  ck_assert_int_ge (send (fd, text, len, MSG_NOSIGNAL), MIN (len, 1026));
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
expect_answer (struct server *s, const char *request, size_t len,
               bool end, const char *expected)
{
  g_autofree char *text = NULL;
  int fd = client_connect (s->path);

  client_send (fd, request, len);
  if (end)
    shutdown (fd, SHUT_WR);
  text = client_receive (fd);
  ck_assert_msg (strstr (text, expected) != NULL, "%s", text);
  ck_assert (g_str_has_suffix (text, "\n"));
}

static void
expect_served (struct server *s)
{
  char *error = NULL;
  JsonNode *node = state_socket_ask (s->path, "echo hello", long_ns, &error);

  ck_assert_msg (node != NULL, "%s", error);
  ck_assert_str_eq (json_node_get_string (node), " hello");
  json_node_unref (node);
}

static void
expect_refused (const char *path, const char *why)
{
  char *error = NULL;

  ck_assert_ptr_null (state_socket_bind (path, &error));
  ck_assert_msg (strstr (error, why) != NULL, "%s", error);
  ck_assert_msg (strstr (error, path) != NULL, "%s", error);
  ck_assert_ptr_null (strchr (error, '\n'));
  g_free (error);
}

static void
expect_no_answer (const char *path, const char *request, gint64 timeout_ns,
                  const char *why)
{
  char *error = NULL;

  ck_assert_ptr_null (state_socket_ask (path, request, timeout_ns, &error));
  ck_assert_msg (strstr (error, why) != NULL, "%s", error);
  ck_assert_msg (strstr (error, path) != NULL, "%s", error);
  ck_assert_ptr_null (strchr (error, '\n'));
  g_free (error);
}

START_TEST (one_request_one_answer)
{
  struct server s;
  char *error = NULL;
  JsonNode *node;

  server_start (&s, 0);
  expect_served (&s);
  node = state_socket_ask (s.path, "status", long_ns, &error);
  ck_assert_msg (node != NULL, "%s", error);
  ck_assert_str_eq (json_object_get_string_member
                    (json_node_get_object (node), "kind"), "device");
  json_node_unref (node);
  expect_no_answer (s.path, "frobnicate", long_ns,
                    "unknown command \"frobnicate\"");
  expect_no_answer (s.path, "", long_ns, "unknown command \"\"");
  server_stop (&s);
}
END_TEST

START_TEST (nobody_else_may_connect)
{
  static const mode_t masks[] = { 0, 022, 0777 };
  g_autofree char *path = temporary_path ("s.sock");
  char *error = NULL;
  struct stat st;

  for (size_t i = 0; i < G_N_ELEMENTS (masks); i++) {
    mode_t mask = umask (masks[i]);
    struct state_socket *s = state_socket_bind (path, &error);

    umask (mask);
    ck_assert_msg (s != NULL, "%s", error);
    ck_assert_int_eq (stat (path, &st), 0);
    ck_assert_uint_eq (st.st_mode & 07777, 0600);
    state_socket_close (s);
    ck_assert (!g_file_test (path, G_FILE_TEST_EXISTS));
  }
  state_socket_close (NULL);
}
END_TEST

START_TEST (stale_socket_is_replaced)
{
  g_autofree char *path = temporary_path ("s.sock");
  struct sockaddr_un addr = address_of (path);
  int fd = socket (AF_UNIX, SOCK_STREAM, 0);
  struct server s;

  ck_assert_int_eq (bind (fd, (struct sockaddr *) &addr, sizeof addr), 0);
  close (fd);
  expect_no_answer (path, "status", long_ns, "Connection refused");
  server_start (&s, 0);
  expect_served (&s);
  server_stop (&s);
}
END_TEST

START_TEST (occupied_paths_are_refused)
{
  g_autofree char *file = temporary_file ("file", "precious", 8);
  g_autofree char *dangling = temporary_path ("link");
  g_autofree char *folder = g_path_get_dirname (file);
  g_autofree char *text = NULL;
  struct server s;

  ck_assert_int_eq (symlink ("/nonexistent/x", dangling), 0);
  server_start (&s, 0);
  expect_refused (s.path, "in use by a running program");
  expect_refused (file, "is not a socket");
  expect_refused (dangling, "is not a socket");
  expect_refused (folder, "is not a socket");
  expect_served (&s);
  server_stop (&s);
  expect_no_answer (file, "status", long_ns, "non-socket");
  ck_assert (g_file_get_contents (file, &text, NULL, NULL));
  ck_assert_str_eq (text, "precious");
}
END_TEST

/* Too many callers at once is no sign that nobody listens. */
START_TEST (busy_program_is_not_stale)
{
  g_autofree char *path = temporary_path ("s.sock");
  struct sockaddr_un addr = address_of (path);
  int listener = socket (AF_UNIX, SOCK_STREAM, 0), fd;

  ck_assert_int_eq (bind (listener, (struct sockaddr *) &addr, sizeof addr),
                    0);
  ck_assert_int_eq (listen (listener, 0), 0);
  do
    fd = socket (AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
  while (connect (fd, (struct sockaddr *) &addr, sizeof addr) == 0);
  ck_assert_int_eq (errno, EAGAIN);
  expect_refused (path, "in use by a running program");
  expect_no_answer (path, "status", 50000000, "timed out");
  close (listener);
}
END_TEST

START_TEST (impossible_paths_are_refused)
{
  g_autofree char *missing = temporary_path ("no/such/s.sock");
  g_autofree char *folder = temporary_path ("no/such");
  g_autofree char *file = temporary_file ("file", "", 0);
  g_autofree char *below_file = g_build_filename (file, "s.sock", NULL);
  g_autofree char *name = g_strnfill (108, 'a');
  g_autofree char *longest = temporary_path (name);
  char *error = NULL;

  expect_refused (missing, "create it");
  expect_refused (missing, folder);
  expect_refused (below_file, "create it");
  expect_refused (longest, "1 to 107");
  expect_refused ("", "1 to 107");
  expect_no_answer (longest, "status", long_ns, "1 to 107");
  ck_assert_ptr_null (state_socket_ask (missing, "status", long_ns, &error));
  ck_assert_ptr_nonnull (strstr (error, "is the program running"));
  g_free (error);
}
END_TEST

START_TEST (longest_path_works)
{
  g_autofree char *folder = temporary_path ("");
  g_autofree char *name = g_strnfill (106 - strlen (folder), 'a');
  g_autofree char *path = temporary_path (name);
  char *error = NULL;
  struct state_socket *s;

  ck_assert_uint_eq (strlen (path), 107);
  s = state_socket_bind (path, &error);
  ck_assert_msg (s != NULL, "%s", error);
  state_socket_close (s);
}
END_TEST

START_TEST (relative_path_survives_a_change_of_folder)
{
  g_autofree char *path = temporary_path ("s.sock");
  g_autofree char *folder = g_path_get_dirname (path);
  char *error = NULL;
  struct state_socket *s;

  ck_assert_int_eq (chdir (folder), 0);
  s = state_socket_bind ("s.sock", &error);
  ck_assert_msg (s != NULL, "%s", error);
  ck_assert_int_eq (chdir ("/"), 0);
  ck_assert (g_file_test (path, G_FILE_TEST_EXISTS));
  state_socket_close (s);
  ck_assert (!g_file_test (path, G_FILE_TEST_EXISTS));
}
END_TEST

/* Bind in one process, serve in its child, as nbdkit does. */
START_TEST (serves_after_a_fork)
{
  g_autofree char *path = temporary_path ("s.sock");
  char *error = NULL;
  struct state_socket *socket = state_socket_bind (path, &error);
  struct server s = { .path = path };
  int status;
  pid_t pid;

  ck_assert_msg (socket != NULL, "%s", error);
  pid = fork ();
  if (pid == 0) {
    s.context = g_main_context_new ();
    state_socket_serve (socket, s.context, answer, &s.stop);
    run (&s);
    state_socket_close (socket);
    _exit (0);
  }
  expect_served (&s);
  ck_assert_ptr_null (state_socket_ask (path, "stop", long_ns, &error));
  g_free (error);
  ck_assert_int_eq (waitpid (pid, &status, 0), pid);
  ck_assert_int_eq (status, 0);
  ck_assert (!g_file_test (path, G_FILE_TEST_EXISTS));
  state_socket_close (socket);
}
END_TEST

START_TEST (requests_end_with_a_line_or_the_stream)
{
  struct server s;

  server_start (&s, 0);
  expect_answer (&s, "echo a\n", 7, false, "\" a\"");
  expect_answer (&s, "echo a\r\n", 8, false, "\" a\"");
  expect_answer (&s, "echo a", 6, true, "\" a\"");
  expect_answer (&s, "echo a\nrest", 11, false, "\" a\"");
  server_stop (&s);
}
END_TEST

START_TEST (requests_are_bounded)
{
  g_autofree char *line = g_strnfill (70000, 'a');
  struct server s;

  memcpy (line, "echo", 4);
  server_start (&s, 0);
  line[1024] = '\n';
  expect_answer (&s, line, 1025, false, "aaa\"");
  line[1024] = 'a';
  expect_answer (&s, line, 1025, false, "longer than 1024");
  line[1025] = '\n';
  expect_answer (&s, line, 1026, false, "longer than 1024");
  line[1025] = 'a';
  expect_answer (&s, line, 70000, false, "longer than 1024");
  line[1024] = '\0';
  expect_no_answer (s.path, line + 5, long_ns, "unknown command");
  line[1024] = 'a';
  line[1030] = '\0';
  expect_no_answer (s.path, line, long_ns, "longer than 1024");
  server_stop (&s);
}
END_TEST

START_TEST (requests_are_text)
{
  struct server s;

  server_start (&s, 0);
  expect_answer (&s, "echo \0\n", 7, false, "not UTF-8");
  expect_answer (&s, "\xff\xfe\n", 3, false, "not UTF-8");
  expect_answer (&s, "x\"\n", 3, false, "unknown command \\\"x\\\"\\\"");
  server_stop (&s);
}
END_TEST

START_TEST (one_client_does_not_keep_another_waiting)
{
  struct server s;
  int silent, half, slow;

  server_start (&s, 0);
  silent = client_connect (s.path);
  half = client_connect (s.path);
  client_send (half, "echo a", 6);
  slow = client_connect (s.path);
  client_send (slow, "big\n", 4);
  expect_served (&s);
  expect_served (&s);

  client_send (half, "b\n", 2);
  g_free (client_receive (half));
  close (silent);
  {
    g_autofree char *big = client_receive (slow);

    ck_assert_uint_eq (strlen (big), BIG + 3);
  }
  server_stop (&s);
}
END_TEST

START_TEST (silent_clients_are_dropped)
{
  g_autofree char *empty = NULL;
  g_autofree char *part = NULL;
  int silent, reads_late;
  struct server s;

  server_start (&s, 100);
  silent = client_connect (s.path);
  reads_late = client_connect (s.path);
  client_send (reads_late, "big\n", 4);

  empty = client_receive (silent);
  ck_assert_str_eq (empty, "");
  /* The hang-up shows before anything is read. */
  {
    struct pollfd p = { .fd = reads_late, .events = POLLRDHUP };

    ck_assert_int_eq (poll (&p, 1, -1), 1);
  }
  part = client_receive (reads_late);
  ck_assert_uint_lt (strlen (part), BIG);
  expect_served (&s);
  server_stop (&s);
}
END_TEST

/* A byte now and then is no reason to stay. */
START_TEST (dribbling_clients_are_dropped)
{
  struct server s;
  struct pollfd p = { .events = POLLRDHUP };
  int fd;

  server_start (&s, 100);
  fd = p.fd = client_connect (s.path);
  do
    if (send (fd, "a", 1, MSG_NOSIGNAL) == -1)
      break;
  while (poll (&p, 1, 20) == 0);
  close (fd);
  expect_served (&s);
  server_stop (&s);
}
END_TEST

START_TEST (default_silence_is_five_seconds)
{
  gint64 begin = g_get_monotonic_time (), took;
  struct server s;

  server_start (&s, 0);
  g_free (client_receive (client_connect (s.path)));
  took = g_get_monotonic_time () - begin;
  ck_assert_int_ge (took, 4900000);
  ck_assert_int_lt (took, 10000000);
  server_stop (&s);
}
END_TEST

/* The next caller waits until one of them goes. */
START_TEST (clients_are_limited)
{
  int fds[CLIENTS_MAX];
  struct server s;

  server_start (&s, 0);
  for (int i = 0; i < CLIENTS_MAX; i++)
    fds[i] = client_connect (s.path);
  expect_no_answer (s.path, "status", 200000000, "timed out");
  close (fds[0]);
  expect_served (&s);
  for (int i = 1; i < CLIENTS_MAX; i++)
    close (fds[i]);
  server_stop (&s);
}
END_TEST

START_TEST (many_silent_clients)
{
  int fds[2 * CLIENTS_MAX];
  struct server s;

  server_start (&s, 100);
  for (int i = 0; i < 2 * CLIENTS_MAX; i++)
    fds[i] = client_connect (s.path);
  expect_served (&s);
  for (int i = 0; i < 2 * CLIENTS_MAX; i++)
    g_free (client_receive (fds[i]));
  server_stop (&s);
}
END_TEST

/* No descriptor left: callers wait, and the loop does not spin. */
START_TEST (descriptors_run_out)
{
  struct rlimit limit, tight;
  unsigned before;
  struct server s;
  const char *preload = g_getenv ("LD_PRELOAD");
  int fd, spare;
  g_autofree char *text = NULL;

  if (preload != NULL && strstr (preload, "vgpreload") != NULL) {
    printf ("descriptors_run_out: skipped: valgrind has a limit of its own "
            "on descriptors\n");
    return;
  }
  server_start (&s, 0);
  expect_served (&s);
  fd = socket (AF_UNIX, SOCK_STREAM, 0);
  spare = dup (fd);
  close (spare);
  getrlimit (RLIMIT_NOFILE, &limit);
  tight = limit;
  tight.rlim_cur = spare;
  ck_assert_int_eq (setrlimit (RLIMIT_NOFILE, &tight), 0);
  {
    struct sockaddr_un addr = address_of (s.path);
    struct pollfd p = { .fd = fd, .events = POLLIN };

    ck_assert_int_eq (connect (fd, (struct sockaddr *) &addr, sizeof addr),
                      0);
    client_send (fd, "status\n", 7);
    before = atomic_load (&s.rounds);
    ck_assert_int_eq (poll (&p, 1, 500), 0);
  }
  ck_assert_uint_lt (atomic_load (&s.rounds) - before, 20);
  ck_assert_int_eq (setrlimit (RLIMIT_NOFILE, &limit), 0);
  text = client_receive (fd);
  ck_assert_ptr_nonnull (strstr (text, "device"));
  server_stop (&s);
}
END_TEST

START_TEST (closing_ends_the_clients)
{
  struct server s;
  g_autofree char *text = NULL;
  int fd;

  server_start (&s, 0);
  fd = client_connect (s.path);
  client_send (fd, "echo", 4);
  expect_served (&s);
  server_stop (&s);
  text = client_receive (fd);
  ck_assert_str_eq (text, "");
}
END_TEST

START_TEST (closing_leaves_a_successors_socket)
{
  g_autofree char *path = temporary_path ("s.sock");
  char *error = NULL;
  struct state_socket *first = state_socket_bind (path, &error), *second;

  ck_assert_int_eq (unlink (path), 0);
  second = state_socket_bind (path, &error);
  ck_assert_msg (second != NULL, "%s", error);
  state_socket_close (first);
  ck_assert (g_file_test (path, G_FILE_TEST_EXISTS));
  state_socket_close (second);
  ck_assert (!g_file_test (path, G_FILE_TEST_EXISTS));
}
END_TEST

/* A server that takes one client and says text, or nothing. */
struct impostor {
  int listener;
  const char *text;
  int client;
};

static void *
impostor_run (void *data)
{
  struct impostor *m = data;
  char request[64];

  m->client = accept (m->listener, NULL, NULL);
  if (m->text != NULL) {
    recv (m->client, request, sizeof request, 0);
    send (m->client, m->text, strlen (m->text), MSG_NOSIGNAL);
    close (m->client);
    m->client = -1;
  }
  return NULL;
}

START_TEST (client_believes_nobody)
{
  static const struct { const char *text, *why; } table[] = {
    { "", "empty" }, { "hello\n", "not a JSON document" },
    { "{ \"kind\": ", "not a JSON document" }, { "\xff\n", "not text" },
    { "{ \"error\": \"no\" }", ": no" }, { "{ \"error\": 5 }",
      "unknown error" }, { "{ \"error\": null }", "unknown error" },
    { NULL, "timed out" },
  };
  g_autofree char *path = temporary_path ("s.sock");
  struct sockaddr_un addr = address_of (path);
  struct impostor m = { .listener = socket (AF_UNIX, SOCK_STREAM, 0) };
  pthread_t thread;

  ck_assert_int_eq (bind (m.listener, (struct sockaddr *) &addr, sizeof addr),
                    0);
  ck_assert_int_eq (listen (m.listener, 1), 0);
  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    m.text = table[i].text;
    ck_assert_int_eq (pthread_create (&thread, NULL, impostor_run, &m), 0);
    expect_no_answer (path, "status",
                      m.text == NULL ? 100000000 : long_ns, table[i].why);
    ck_assert_int_eq (pthread_join (thread, NULL), 0);
    if (m.client != -1)
      close (m.client);
  }
  close (m.listener);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("state_socket");
  TCase *tc = tcase_create ("state_socket");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_checked_fixture (tc, temporary_setup, temporary_teardown);
  tcase_add_test (tc, one_request_one_answer);
  tcase_add_test (tc, nobody_else_may_connect);
  tcase_add_test (tc, stale_socket_is_replaced);
  tcase_add_test (tc, occupied_paths_are_refused);
  tcase_add_test (tc, busy_program_is_not_stale);
  tcase_add_test (tc, impossible_paths_are_refused);
  tcase_add_test (tc, longest_path_works);
  tcase_add_test (tc, relative_path_survives_a_change_of_folder);
  tcase_add_test (tc, serves_after_a_fork);
  tcase_add_test (tc, requests_end_with_a_line_or_the_stream);
  tcase_add_test (tc, requests_are_bounded);
  tcase_add_test (tc, requests_are_text);
  tcase_add_test (tc, one_client_does_not_keep_another_waiting);
  tcase_add_test (tc, silent_clients_are_dropped);
  tcase_add_test (tc, dribbling_clients_are_dropped);
  tcase_add_test (tc, default_silence_is_five_seconds);
  tcase_add_test (tc, clients_are_limited);
  tcase_add_test (tc, many_silent_clients);
  tcase_add_test (tc, descriptors_run_out);
  tcase_add_test (tc, closing_ends_the_clients);
  tcase_add_test (tc, closing_leaves_a_successors_socket);
  tcase_add_test (tc, client_believes_nobody);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
