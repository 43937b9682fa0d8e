/* infiniswapctl evict: what it asks, how long it waits, what it says. */

#include <check.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/evict.h"
#include "programs.h"
#include "samples.h"

static const int64_t long_ns = 60 * INT64_C (1000000000);

/* A donor with four slabs.  When it is asked to evict them,
 * five that it evicted before are back; each status after that tells of
 * one more, up to `come_back`; then the others are either still going or,
 * with `given_up`, no more to come.
 */
static struct donor {
  const char *document;         /* instead of all that, if not NULL */
  int come_back;
  bool given_up;
  char request[64];
  int asked;                    /* statuses, since "evict" */
} donor;

static const char *path;

static JsonNode *
answer (const char *request, void *data)
{
  g_autofree char *text = NULL;
  int back;

  (void) data;
  if (donor.document && strcmp (request, "status") == 0)
    return json_from_string (donor.document, NULL);
  if (g_str_has_prefix (request, "evict ")) {
    g_strlcpy (donor.request, request, sizeof donor.request);
    return json_from_string ("{ \"slabs\": 4, \"until\": 9 }", NULL);
  }
  back = donor.request[0] == '\0' ? 0 : MIN (donor.asked++, donor.come_back);
  text = g_strdup_printf
    ("{ \"kind\": \"donor\", \"slabs\": { \"evicting\": %d }, \"counters\": "
     "{ \"evictions_done\": %d, \"evictions_unanswered\": 2 } }",
     donor.given_up && back == donor.come_back ? 0 : 4 - back, 3 + back);
  return json_from_string (text, NULL);
}

static void
setup (void)
{
  donor = (struct donor) { .come_back = 4 };
  programs_setup ();
  path = programs_add ("donor.sock", answer, NULL);
}

static int
evict (const void *options, FILE *out, FILE *err)
{
  return evict_run (options, out, err);
}

/* Runs it, and checks the whole of what it prints. */
static void
check_run (const char *count, int64_t timeout_ns, int status,
           const char *out_text, const char *err_text)
{
  const struct evict_options o = { path, count, timeout_ns };
  struct outcome r = programs_run (evict, &o);

  ck_assert_msg (r.status == status, "%d: %s", r.status, r.err);
  ck_assert_msg (g_str_has_suffix (r.out, out_text), "%s", r.out);
  ck_assert_int_eq (r.out[0] == '\0', out_text[0] == '\0');
  ck_assert_msg (strstr (r.err, err_text), "%s", r.err);
  ck_assert_int_eq (r.err[0] == '\0', err_text[0] == '\0');
  outcome_free (&r);
}

START_TEST (waits_until_all_are_back)
{
  check_run ("all", long_ns, 0, ": evicted 4 slabs\n", "");
  ck_assert_str_eq (donor.request, "evict all");
  ck_assert_int_eq (donor.asked, 5);
}
END_TEST

START_TEST (says_what_is_missing_in_the_end)
{
  donor.come_back = 1;
  check_run ("4", 500000000, 1, ": evicted 1 slab\n",
             "donor.sock: 3 more are on their way; wait longer");
  ck_assert_str_eq (donor.request, "evict 4");
}
END_TEST

START_TEST (does_not_wait_for_slabs_that_came_by_themselves)
{
  donor.come_back = 2;
  donor.given_up = true;
  check_run ("4", long_ns, 0, ": evicted 2 slabs\n", "");
}
END_TEST

START_TEST (only_donors_evict)
{
  donor.document = sample_device;
  check_run ("1", long_ns, 1, "", "donor.sock: this is no donor");
  ck_assert_str_eq (donor.request, "");
}
END_TEST

/* Of other versions and of other programs. */
static const struct { const char *document, *message; } odd[] = {
  { "{ \"kind\": \"donor\" }", "the answer lacks \"evicting\"" },
  { "{ \"kind\": \"donor\", \"slabs\": { \"evicting\": 0 } }",
    "the answer lacks \"evictions_done\"" },
  { "{ \"kind\": 5 }", "this is no donor" },
  { "{ \"kind\": [] }", "this is no donor" },
  { "{ }", "this is no donor" },
  { "[ 1 ]", "the answer is no status document" },
  { "{ \"error\": \"busy\" }", "donor.sock: busy" },
};

START_TEST (odd_answers_are_errors)
{
  donor.document = odd[_i].document;
  check_run ("1", long_ns, 1, "", odd[_i].message);
  ck_assert_str_eq (donor.request, "");
}
END_TEST

START_TEST (counts)
{
  static const char *const right[] = { "1", "17", "all",
                                       "18446744073709551615" };
  static const char *const wrong[] = { "", "0", "-1", "1x", " 1", "ALL",
                                       "all ", "1.5",
                                       "18446744073709551616" };

  for (size_t i = 0; i < G_N_ELEMENTS (right); i++)
    ck_assert_msg (evict_check_count (right[i]), "%s", right[i]);
  for (size_t i = 0; i < G_N_ELEMENTS (wrong); i++)
    ck_assert_msg (!evict_check_count (wrong[i]), "%s", wrong[i]);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("evict");
  TCase *tc = tcase_create ("evict"), *pure = tcase_create ("counts");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_checked_fixture (tc, setup, programs_teardown);
  tcase_add_test (tc, waits_until_all_are_back);
  tcase_add_test (tc, says_what_is_missing_in_the_end);
  tcase_add_test (tc, does_not_wait_for_slabs_that_came_by_themselves);
  tcase_add_test (tc, only_donors_evict);
  tcase_add_loop_test (tc, odd_answers_are_errors, 0, G_N_ELEMENTS (odd));
  tcase_add_test (pure, counts);
  suite_add_tcase (suite, tc);
  suite_add_tcase (suite, pure);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
