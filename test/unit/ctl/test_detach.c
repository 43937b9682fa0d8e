/* infiniswapctl detach: what it asks the supervisor, how long it waits. */

#include <check.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <glib/gstdio.h>

#include "ctl/detach.h"
#include "programs.h"

static const int64_t second_ns = INT64_C (1000000000);

/* A supervisor that has no room for so many attempts. */
static struct supervisor {
  int refusals;
  bool slow;                    /* swapoff goes on until it is cancelled */
  int attempts;
  bool cancelled;
} supervisor;

static char *record;

static JsonNode *
answer (const char *request, void *data)
{
  struct supervisor *s = data;
  const char *state = "detaching";

  if (strcmp (request, "detach") == 0)
    s->attempts++;
  if (strcmp (request, "cancel") == 0)
    s->cancelled = true;
  if (s->attempts <= s->refusals || s->cancelled)
    state = "attached";
  else if (!s->slow && g_unlink (record) == 0)
    state = "stopping";
  return json_from_string
    (strcmp (state, "attached") == 0 ?
     "{ \"state\": \"attached\", \"problem\": \"no room\" }" :
     strcmp (state, "detaching") == 0 ?
     "{ \"state\": \"detaching\", \"used_bytes\": 5242880 }" :
     "{ \"state\": \"stopping\" }", NULL);
}

static void
setup (void)
{
  supervisor = (struct supervisor) { .refusals = 0 };
  programs_setup ();
  programs_add ("isw0.ctl", answer, &supervisor);
  record = g_build_filename (programs_folder (), "isw0.pid", NULL);
  ck_assert (g_file_set_contents (record, "", -1, NULL));
}

static void
teardown (void)
{
  g_unlink (record);
  g_free (record);
  programs_teardown ();
}

static int
detach (const void *options, FILE *out, FILE *err)
{
  return detach_run (options, out, err);
}

/* Runs it, and checks how what it prints ends. */
static void
check_run (bool wait, int64_t timeout_ns, int status, const char *out_end,
           const char *err_end)
{
  const struct detach_options o = {
    .name = "isw0", .folder = programs_folder (), .wait = wait,
    .timeout_ns = timeout_ns,
  };
  struct outcome r = programs_run (detach, &o);

  ck_assert_msg (r.status == status, "%d: %s", r.status, r.err);
  ck_assert_msg (g_str_has_suffix (r.out, out_end), "%s", r.out);
  ck_assert_msg (g_str_has_suffix (r.err, err_end), "%s", r.err);
  ck_assert_int_eq (r.err[0] == '\0', err_end[0] == '\0');
  outcome_free (&r);
}

START_TEST (what_is_not_attached_is_as_good)
{
  g_unlink (record);
  check_run (false, 0, 0, "isw0: not attached\n", "");
  ck_assert_int_eq (supervisor.attempts, 0);
}
END_TEST

START_TEST (detaches)
{
  check_run (false, 0, 0, "isw0: detached\n", "");
  ck_assert_int_eq (supervisor.attempts, 1);
}
END_TEST

START_TEST (says_what_is_in_the_way)
{
  supervisor.refusals = 1;
  check_run (false, 0, 1, "", "isw0: not detached, it is served as before: "
             "no room\n");
  ck_assert_int_eq (supervisor.attempts, 1);
}
END_TEST

START_TEST (waits_for_room)
{
  supervisor.refusals = 2;
  check_run (true, 60 * second_ns, 0, "isw0: detached\n",
             "isw0: waiting: no room\n");
  ck_assert_int_eq (supervisor.attempts, 3);
}
END_TEST

START_TEST (waits_no_longer_than_it_may)
{
  supervisor.refusals = 100;
  check_run (true, second_ns, 1, "", "isw0: not detached, it is served as "
             "before: no room\n");
  ck_assert_int_le (supervisor.attempts, 3);
}
END_TEST

START_TEST (gives_swapoff_up)
{
  supervisor.slow = true;
  check_run (true, second_ns, 1, "", "isw0: not detached, it is served as "
             "before: swapoff was not done within --timeout\n");
  ck_assert (supervisor.cancelled);
  ck_assert_int_eq (supervisor.attempts, 1);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("detach");
  TCase *tc = tcase_create ("detach");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_checked_fixture (tc, setup, teardown);
  tcase_add_test (tc, what_is_not_attached_is_as_good);
  tcase_add_test (tc, detaches);
  tcase_add_test (tc, says_what_is_in_the_way);
  tcase_add_test (tc, waits_for_room);
  tcase_add_test (tc, waits_no_longer_than_it_may);
  tcase_add_test (tc, gives_swapoff_up);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
