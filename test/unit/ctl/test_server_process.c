/* The server's process, with a shell script in nbdkit's place. */

#include <check.h>
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "ctl/server_process.h"

static char *keys[] = { "donors=a:1", "size=64M", NULL };

static char *folder, *socket_path, *state_path, *script_path;
static struct server_process server;
static struct server_params params;
static GString *lines;

static void
write_script (const char *text, int mode)
{
  g_autofree char *all = g_strconcat ("#!/bin/sh\n", text, NULL);

  ck_assert (g_file_set_contents (script_path, all, -1, NULL));
  ck_assert_int_eq (g_chmod (script_path, mode), 0);
}

static void
set_up (void)
{
  g_autofree char *path = NULL;

  folder = g_dir_make_tmp ("server-XXXXXX", NULL);
  socket_path = g_build_filename (folder, "nbd", NULL);
  state_path = g_build_filename (folder, "state", NULL);
  script_path = g_build_filename (folder, "nbdkit", NULL);
  path = g_strconcat (folder, ":/usr/bin:/bin", NULL);
  g_setenv ("PATH", path, TRUE);
  params = (struct server_params) {
    .plugin = "infiniswap", .socket = socket_path, .state = state_path,
    .threads = 3, .lock = true, .keys = keys,
  };
  lines = g_string_new (NULL);
  server_process_init (&server);
}

static void
tear_down (void)
{
  server_process_kill (&server);
  server_process_await (&server, -1);
  server_process_clear (&server);
  g_unlink (script_path);
  g_unlink (socket_path);
  g_rmdir (folder);
  g_string_free (lines, TRUE);
  g_free (folder);
  g_free (socket_path);
  g_free (state_path);
  g_free (script_path);
}

static void
collect (const char *line, void *data)
{
  (void) data;
  g_string_append_printf (lines, "%s|", line);
}

static void
start (const char *script)
{
  char *error = NULL;

  write_script (script, 0700);
  ck_assert_msg (server_process_start (&server, &params, &error), "%s",
                 error);
}

/* All it says until it ends. */
static void
expect_said (const char *text)
{
  ck_assert (server_process_await (&server, 10000));
  server_process_read_log (&server, collect, NULL);
  ck_assert_str_eq (lines->str, text);
}

static void
expect_end (bool clean, const char *how)
{
  bool got;
  g_autofree char *text = server_process_reap (&server, &got);

  ck_assert_int_eq (got, clean);
  ck_assert_str_eq (text, how);
  ck_assert (!server_process_runs (&server));
}

START_TEST (its_command_line)
{
  g_autofree char *text = g_strdup_printf (
    "-f -U %s -t 3 infiniswap donors=a:1 size=64M lock=require state=%s "
    "outlive-parent=1|",
    socket_path, state_path);

  start ("echo \"$*\" >&2\n");
  expect_said (text);
  expect_end (true, "exit status 0");
}
END_TEST

START_TEST (its_own_lock_wins)
{
  char *own[] = { "lock=no", NULL };

  params.keys = own;
  start ("case \"$*\" in *lock=require*) exit 1;; esac\n");
  ck_assert (server_process_await (&server, 10000));
  expect_end (true, "exit status 0");
}
END_TEST

START_TEST (what_is_the_supervisors_is_not_its)
{
  g_setenv ("NOTIFY_SOCKET", "/run/notify", TRUE);
  g_setenv ("WATCHDOG_USEC", "1", TRUE);
  start ("echo \"$NOTIFY_SOCKET$WATCHDOG_USEC,$MALLOC_ARENA_MAX\" >&2\n");
  expect_said (",1|");
}
END_TEST

/* Signals that the supervisor blocks are not blocked in it. */
START_TEST (it_ends_when_told)
{
  sigset_t set;

  sigemptyset (&set);
  sigaddset (&set, SIGTERM);
  sigprocmask (SIG_BLOCK, &set, NULL);
  start ("exec sleep 60\n");
  ck_assert (server_process_runs (&server));
  server_process_end (&server);
  ck_assert (server_process_await (&server, 10000));
  expect_end (false, "signal 15");
}
END_TEST

START_TEST (lines_are_passed_on_whole)
{
  start ("printf 'one\\n\\ntwo\\n' >&2; exit 3\n");
  expect_said ("one|two|");
  expect_end (false, "exit status 3");
}
END_TEST

START_TEST (a_line_without_an_end_is_cut)
{
  start ("head -c 9000 /dev/zero | tr '\\0' x >&2\n");
  ck_assert (server_process_await (&server, 10000));
  server_process_read_log (&server, collect, NULL);
  ck_assert_uint_gt (lines->len, 8000);
  ck_assert_ptr_nonnull (strchr (lines->str, '|'));
}
END_TEST

/* It is known by its number and when it started. */
START_TEST (another_takes_it_over)
{
  struct runtime_process id;
  struct server_process heir;

  start ("exec sleep 60\n");
  id = server.id;
  server_process_init (&heir);
  ck_assert (server_process_adopt (&heir, &id));
  ck_assert (server_process_runs (&heir));
  server_process_clear (&heir);
  id.start++;
  server_process_init (&heir);
  ck_assert (!server_process_adopt (&heir, &id));
  ck_assert (!server_process_runs (&heir));
  server_process_clear (&heir);
}
END_TEST

START_TEST (no_nbdkit)
{
  char *error = NULL;

  g_setenv ("PATH", folder, TRUE);
  ck_assert (!server_process_start (&server, &params, &error));
  ck_assert_str_eq (error, "there is no nbdkit in PATH; install the package "
                    "nbdkit");
  g_free (error);
  ck_assert (!server_process_runs (&server));
}
END_TEST

START_TEST (checking_says_the_first_error)
{
  char *error = NULL;

  write_script ("case \"$*\" in *check-config=1*) ;; *) exit 0;; esac\n"
                "echo 'nbdkit: infiniswap: error: sise=1: unknown' >&2\n"
                "echo 'nbdkit: error: more' >&2\nexit 1\n", 0700);
  ck_assert (!server_process_check (&params, &error));
  ck_assert_str_eq (error, "sise=1: unknown");
  g_free (error);
  write_script ("exit 0\n", 0700);
  ck_assert (server_process_check (&params, &error));
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("server_process");
  TCase *tests = tcase_create ("server_process");
  SRunner *runner = srunner_create (suite);
  int failed, fd = pidfd_open (getpid (), 0);

  if (fd == -1 && errno == ENOSYS) {
    printf ("skipped: no pidfd_open, as under an old valgrind\n");
    return 77;
  }
  close (fd);
  tcase_set_timeout (tests, 40);
  tcase_add_checked_fixture (tests, set_up, tear_down);
  tcase_add_test (tests, its_command_line);
  tcase_add_test (tests, its_own_lock_wins);
  tcase_add_test (tests, what_is_the_supervisors_is_not_its);
  tcase_add_test (tests, it_ends_when_told);
  tcase_add_test (tests, lines_are_passed_on_whole);
  tcase_add_test (tests, a_line_without_an_end_is_cut);
  tcase_add_test (tests, another_takes_it_over);
  tcase_add_test (tests, no_nbdkit);
  tcase_add_test (tests, checking_says_the_first_error);
  suite_add_tcase (suite, tests);
  srunner_run_all (runner, CK_ENV);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed > 0;
}
