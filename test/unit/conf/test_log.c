#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib.h>

#include "conf/log.h"

enum { SECOND = 1000000000 };

static int saved, out;          /* standard error, and what is read of it */

/* Each test runs in a process of its own, whose standard error is a pipe
 * from here on.
 */
static void
setup (void)
{
  int fds[2];

  unsetenv ("JOURNAL_STREAM");
  unsetenv ("INFINISWAP_DEBUG");
  ck_assert_int_eq (pipe2 (fds, O_CLOEXEC), 0);
  ck_assert_int_eq (fcntl (fds[0], F_SETFL, O_NONBLOCK), 0);
  saved = dup (STDERR_FILENO);
  dup2 (fds[1], STDERR_FILENO);
  close (fds[1]);
  out = fds[0];
  log_start ("prog");
}

static void
teardown (void)
{
  dup2 (saved, STDERR_FILENO);
  close (saved);
  close (out);
}

/* What has been written since the last call. */
static const char *
written (void)
{
  static char text[1 << 17];
  size_t len = 0;
  ssize_t n;

  while ((n = read (out, text + len, sizeof text - 1 - len)) > 0)
    len += n;
  text[len] = '\0';
  return text;
}

static void
be_the_journal (void)
{
  g_autofree char *value = NULL;
  struct stat st;

  fstat (STDERR_FILENO, &st);
  value = g_strdup_printf ("%llu:%llu", (unsigned long long) st.st_dev,
                           (unsigned long long) st.st_ino);
  setenv ("JOURNAL_STREAM", value, 1);
}

static void
log_all (void)
{
  log_error ("one %d", 1);
  log_warning ("two");
  log_notice ("three");
  log_info ("four");
  log_debug ("five");
}

START_TEST (plain_lines_say_errors_and_warnings_in_words)
{
  log_all ();
  ck_assert_str_eq (written (), "prog: error: one 1\nprog: warning: two\n"
                    "prog: three\nprog: four\n");
}
END_TEST

START_TEST (lines_to_the_journal_begin_with_their_level)
{
  be_the_journal ();
  log_all ();
  ck_assert_str_eq (written (), "<3>prog: one 1\n<4>prog: two\n"
                    "<5>prog: three\n<6>prog: four\n");
}
END_TEST

START_TEST (another_stream_than_the_journals_is_plain)
{
  static const char *const values[] = {
    "1:2", "", "nonsense", "1", "1:2:3", "18446744073709551616:1",
  };

  for (size_t i = 0; i < G_N_ELEMENTS (values); i++) {
    setenv ("JOURNAL_STREAM", values[i], 1);
    log_warning ("x");
    ck_assert_str_eq (written (), "prog: warning: x\n");
  }
}
END_TEST

START_TEST (debugging_lines_are_there_if_asked_for)
{
  setenv ("INFINISWAP_DEBUG", "1", 1);
  log_start ("prog");
  log_debug ("x");
  ck_assert_str_eq (written (), "prog: debug: x\n");
  be_the_journal ();
  log_debug ("x");
  ck_assert_str_eq (written (), "<7>prog: x\n");
}
END_TEST

START_TEST (a_line_stays_one_line)
{
  log_warning ("%s", "a\nb\r\x1b[1m\x7f\tc \xc3\xa4");
  ck_assert_str_eq (written (), "prog: warning: a?b??[1m??c \xc3\xa4\n");
}
END_TEST

START_TEST (a_long_line_is_cut)
{
  g_autofree char *text = g_strnfill (5000, 'x');
  const char *line;

  log_notice ("%s", text);
  line = written ();
  ck_assert_uint_le (strlen (line), 1024);
  ck_assert_uint_ge (strlen (line), 800);
  ck_assert_ptr_eq (strchr (line, '\n'), line + strlen (line) - 1);
}
END_TEST

static void *
log_many (void *data)
{
  for (int i = 0; i < 200; i++)
    log_notice ("thread %c %d", *(char *) data, i);
  return NULL;
}

START_TEST (lines_of_several_threads_do_not_mix)
{
  char names[] = "abcd";
  g_auto (GStrv) lines = NULL;
  pthread_t threads[4];

  for (int i = 0; i < 4; i++)
    pthread_create (&threads[i], NULL, log_many, &names[i]);
  for (int i = 0; i < 4; i++)
    pthread_join (threads[i], NULL);
  lines = g_strsplit (written (), "\n", -1);
  ck_assert_uint_eq (g_strv_length (lines), 801);
  for (int i = 0; i < 800; i++)
    ck_assert (g_regex_match_simple ("^prog: thread [abcd] [0-9]+$",
                                     lines[i], 0, 0));
}
END_TEST

START_TEST (a_reader_that_does_not_read_holds_nobody_up)
{
  const char *text;
  int written_lines = 0;

  for (int i = 0; i < 10000; i++)
    log_notice ("%.100s", "a line that nobody reads");
  text = written ();
  for (const char *p = text; (p = strchr (p, '\n')); p++)
    written_lines++;
  ck_assert_int_lt (written_lines, 10000);
  log_notice ("again");
  text = written ();
  ck_assert_int_eq (atoi (strchr (text, '(') + 1), 10000 - written_lines);
  log_notice ("and again");
  ck_assert_str_eq (written (), "prog: and again\n");
}
END_TEST

START_TEST (a_flood_of_one_place_is_cut_short)
{
  struct log_limit limit = { 0 };
  unsigned left_out, allowed = 0;
  int64_t now = 5 * (int64_t) SECOND;

  for (int i = 0; i < 1000; i++)
    allowed += log_limit_allows (&limit, now + i, &left_out);
  ck_assert_uint_eq (allowed, LOG_BURST);
  ck_assert (!log_limit_allows (&limit, now + LOG_PERIOD_NS - 1, &left_out));
  ck_assert (log_limit_allows (&limit, now + LOG_PERIOD_NS, &left_out));
  ck_assert_uint_eq (left_out, 1001 - LOG_BURST);
  ck_assert (log_limit_allows (&limit, now + LOG_PERIOD_NS + 1, &left_out));
  ck_assert_uint_eq (left_out, 0);
}
END_TEST

START_TEST (each_place_has_a_limit_of_its_own)
{
  g_auto (GStrv) lines = NULL;

  for (int i = 0; i < 100; i++)
    log_limited (LOG_LEVEL_WARNING, "flood %d", i);
  log_limited (LOG_LEVEL_WARNING, "else");
  lines = g_strsplit (written (), "\n", -1);
  ck_assert_uint_eq (g_strv_length (lines), LOG_BURST + 2);
  ck_assert_str_eq (lines[0], "prog: warning: flood 0");
  ck_assert_str_eq (lines[LOG_BURST], "prog: warning: else");
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("log");
  TCase *tc = tcase_create ("log");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_checked_fixture (tc, setup, teardown);
  tcase_add_test (tc, plain_lines_say_errors_and_warnings_in_words);
  tcase_add_test (tc, lines_to_the_journal_begin_with_their_level);
  tcase_add_test (tc, another_stream_than_the_journals_is_plain);
  tcase_add_test (tc, debugging_lines_are_there_if_asked_for);
  tcase_add_test (tc, a_line_stays_one_line);
  tcase_add_test (tc, a_long_line_is_cut);
  tcase_add_test (tc, lines_of_several_threads_do_not_mix);
  tcase_add_test (tc, a_reader_that_does_not_read_holds_nobody_up);
  tcase_add_test (tc, a_flood_of_one_place_is_cut_short);
  tcase_add_test (tc, each_place_has_a_limit_of_its_own);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
