/* Where lines of attach go, and how they look there. */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/report.h"

static FILE *said;
static int saved_stderr;

static void
set_up (void)
{
  said = tmpfile ();
  ck_assert_ptr_nonnull (said);
  fflush (stderr);
  saved_stderr = dup (2);
  dup2 (fileno (said), 2);
}

static void
tear_down (void)
{
  fflush (stderr);
  dup2 (saved_stderr, 2);
  close (saved_stderr);
  fclose (said);
}

static void
expect (const char *text)
{
  char got[4096];
  size_t n;

  fflush (stderr);
  rewind (said);
  n = fread (got, 1, sizeof got - 1, said);
  got[n] = '\0';
  ck_assert_str_eq (got, text);
}

START_TEST (to_a_terminal)
{
  unsetenv ("JOURNAL_STREAM");
  report_open ("isw0");
  report (LOG_WARNING, "%d of %s", 2, "these");
  expect ("infiniswapctl: isw0: 2 of these\n");
}
END_TEST

/* Who takes over replaces its configuration, and the name with it. */
START_TEST (the_name_is_copied)
{
  char name[] = "isw0";

  unsetenv ("JOURNAL_STREAM");
  report_open (name);
  name[3] = '7';
  report (LOG_INFO, "here");
  expect ("infiniswapctl: isw0: here\n");
}
END_TEST

START_TEST (to_the_journal)
{
  setenv ("JOURNAL_STREAM", "8:1", 1);
  report_open ("isw0");
  report (LOG_ERR, "first");
  report (LOG_INFO, "second");
  expect ("<3>isw0: first\n<6>isw0: second\n");
}
END_TEST

START_TEST (before_a_name_is_known)
{
  unsetenv ("JOURNAL_STREAM");
  report (LOG_ERR, "early");
  expect ("infiniswapctl: -: early\n");
}
END_TEST

START_TEST (long_lines_are_cut)
{
  char text[3000];

  unsetenv ("JOURNAL_STREAM");
  memset (text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  report_open ("isw0");
  report (LOG_ERR, "%s", text);
  fflush (stderr);
  ck_assert_int_lt (ftell (said), 1100);
  rewind (said);
  ck_assert_ptr_nonnull (fgets (text, sizeof text, said));
  ck_assert_ptr_nonnull (strchr (text, '\n'));
}
END_TEST

START_TEST (to_syslog_and_no_more_to_the_terminal)
{
  report_open ("isw0");
  report_to_syslog ();
  report (LOG_DEBUG, "a test of infiniswapctl");
  expect ("");
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("report");
  TCase *tests = tcase_create ("report");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_add_checked_fixture (tests, set_up, tear_down);
  tcase_add_test (tests, before_a_name_is_known);
  tcase_add_test (tests, to_a_terminal);
  tcase_add_test (tests, the_name_is_copied);
  tcase_add_test (tests, to_the_journal);
  tcase_add_test (tests, long_lines_are_cut);
  tcase_add_test (tests, to_syslog_and_no_more_to_the_terminal);
  suite_add_tcase (suite, tests);
  /* Its state is the process's, which must be the last test's own. */
  srunner_run_all (runner, CK_ENV);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed > 0;
}
