/* infiniswapctl evict: what it asks, how long it waits, what it says. */

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <glib/gstdio.h>

#include "conf/state_socket.h"
#include "ctl/evict.h"
#include "samples.h"

static const int64_t long_ns = 60 * INT64_C (1000000000);

/* A donor with four slabs, in a thread.  When it is asked to evict them,
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

static char *folder, *path;
static struct state_socket *served;
static GMainContext *context;
static pthread_t thread;
static atomic_bool stop;

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

static void *
serve (void *data)
{
  (void) data;
  while (!atomic_load (&stop))
    g_main_context_iteration (context, TRUE);
  return NULL;
}

static void
setup (void)
{
  char *error = NULL;

  donor = (struct donor) { .come_back = 4 };
  folder = g_dir_make_tmp ("isw-ctl-XXXXXX", NULL);
  path = g_build_filename (folder, "donor.sock", NULL);
  context = g_main_context_new ();
  served = state_socket_bind (path, &error);
  ck_assert_msg (served != NULL, "%s", error);
  state_socket_serve (served, context, answer, NULL);
}

static void
teardown (void)
{
  state_socket_close (served);
  g_main_context_unref (context);
  g_rmdir (folder);
  g_free (folder);
  g_free (path);
}

/* Runs it, and checks the whole of what it prints. */
static void
check_run (const char *count, int64_t timeout_ns, int status,
           const char *out_text, const char *err_text)
{
  const struct evict_options o = { path, count, timeout_ns };
  char *out_got, *err_got;
  size_t out_len, err_len;
  FILE *out = open_memstream (&out_got, &out_len);
  FILE *err = open_memstream (&err_got, &err_len);
  int got;

  atomic_store (&stop, false);
  ck_assert_int_eq (pthread_create (&thread, NULL, serve, NULL), 0);
  got = evict_run (&o, out, err);
  atomic_store (&stop, true);
  g_main_context_wakeup (context);
  pthread_join (thread, NULL);
  fclose (out);
  fclose (err);
  ck_assert_msg (got == status, "%d: %s", got, err_got);
  ck_assert_msg (g_str_has_suffix (out_got, out_text), "%s", out_got);
  ck_assert_int_eq (out_got[0] == '\0', out_text[0] == '\0');
  ck_assert_msg (strstr (err_got, err_text), "%s", err_got);
  ck_assert_int_eq (err_got[0] == '\0', err_text[0] == '\0');
  free (out_got);
  free (err_got);
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
  tcase_add_checked_fixture (tc, setup, teardown);
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
