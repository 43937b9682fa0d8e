/* The list of donors, and what DNS adds to it. */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gio/gio.h>

#include "fake_resolver.h"
#include "logged.h"
#include "nbdkit-plugin/donor_source.h"
#include "scratch.h"
#include "suite.h"

#define MS INT64_C (1000000)

static GMainContext *context;
static struct donor_source_params params;
static struct donor_source *source;
static char told[1000];         /* the last list, sorted */
static unsigned times_told;

static int
compare (const void *a, const void *b)
{
  return strcmp (*(char *const *) a, *(char *const *) b);
}

static void
on_changed (void *data, GPtrArray *addresses)
{
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  g_autofree char *text = NULL;

  ck_assert_ptr_eq (data, &params);
  for (guint i = 0; i < addresses->len; i++)
    g_ptr_array_add (names, address_to_string (addresses->pdata[i]));
  qsort (names->pdata, names->len, sizeof (char *), compare);
  g_ptr_array_add (names, NULL);
  text = g_strjoinv (" ", (char **) names->pdata);
  g_strlcpy (told, text, sizeof told);
  times_told++;
}

static void
setup (void)
{
  scratch_setup ();
  fake_resolver_start ();
  context = g_main_context_new ();
  g_main_context_push_thread_default (context);
  logged_begin ();
}

static void
teardown (void)
{
  donor_source_free (source);
  donor_list_free ((struct donor_list *) params.list);
  logged_end ();
  g_main_context_pop_thread_default (context);
  g_main_context_unref (context);
  scratch_teardown ();
}

static void
start (const char *list)
{
  char *error = NULL;

  params = (struct donor_source_params) {
    .context = context, .list = donor_list_parse (list, &error),
    .file = params.file, .resolve_interval_ns = 20 * MS,
    .changed = on_changed, .data = &params,
  };
  ck_assert_msg (params.list != NULL, "%s", error);
  source = donor_source_new (&params);
}

static void
wait_told (const char *list)
{
  while (strcmp (told, list) != 0)
    g_main_context_iteration (context, TRUE);
}

static void
wait_answers (unsigned n)
{
  n += times_told;
  while (times_told < n)
    g_main_context_iteration (context, TRUE);
}

static struct donor_source_service
service (guint i)
{
  struct donor_source_service v;

  donor_source_get_service (source, i, &v);
  return v;
}

START_TEST (a_list_is_told_at_once)
{
  start ("b:1,a:1");
  ck_assert_str_eq (told, "a:1 b:1");
  ck_assert_uint_eq (donor_source_services (source), 0);
}
END_TEST

START_TEST (a_service_is_asked_for_by_its_name)
{
  fake_resolver_answer ("n1.test:9400 n2.test:9401");
  start ("srv:_lend._tcp.rack.example.org");
  ck_assert_str_eq (told, "");
  wait_told ("n1.test:9400 n2.test:9401");
  ck_assert_str_eq (fake_resolver_name (), "_lend._tcp.rack.example.org");
  ck_assert_uint_eq (service (0).donors, 2);
  ck_assert_ptr_null (service (0).error);
}
END_TEST

START_TEST (answers_are_asked_for_again_and_again)
{
  fake_resolver_answer ("a:1");
  start ("srv:_a._tcp.x");
  wait_told ("a:1");
  fake_resolver_answer ("a:1 b:1");
  wait_told ("a:1 b:1");
  fake_resolver_answer ("b:1");
  wait_told ("b:1");
}
END_TEST

START_TEST (a_donor_of_both_sources_counts_once)
{
  fake_resolver_answer ("A:1 B.:1 b:1 10.0.0.2:9400");
  start ("a:1,10.0.0.2:9400,srv:_a._tcp.x,srv:_b._tcp.x");
  wait_told ("10.0.0.2:9400 a:1 b:1");
  wait_answers (4);
  ck_assert_str_eq (told, "10.0.0.2:9400 a:1 b:1");
}
END_TEST

START_TEST (targets_that_are_no_addresses_are_left_out)
{
  fake_resolver_answer (".:1 a:0 -b:1 a;rm:1 good:1 ::1:5");
  start ("srv:_a._tcp.x");
  wait_told ("[::1]:5 good:1");
}
END_TEST

static void
keep_while (void (*begin) (void), const char *error)
{
  g_autofree char *line = NULL;

  fake_resolver_answer ("a:1 b:1");
  start ("srv:_a._tcp.x,c:1");
  wait_told ("a:1 b:1 c:1");
  logged ();
  times_told = 0;
  begin ();
  while (!service (0).error)
    g_main_context_iteration (context, TRUE);
  ck_assert_str_eq (service (0).error, error);
  ck_assert_uint_eq (service (0).donors, 2);
  for (int i = 0; i < 20; i++)
    g_main_context_iteration (context, TRUE);
  line = g_strdup_printf ("infiniswap: warning: service _a._tcp.x: DNS gives "
                          "no donors, the 2 known stay: %s\n", error);
  ck_assert_str_eq (logged (), line);
  ck_assert_str_eq (told, "a:1 b:1 c:1");
  fake_resolver_answer ("b:1");
  wait_told ("b:1 c:1");
  ck_assert_str_eq (logged (), "infiniswap: service _a._tcp.x: DNS gives "
                    "donors again: 1\n");
  wait_answers (3);
  ck_assert_str_eq (logged (), "");
}

static void
give_error (void)
{
  fake_resolver_fail ("no server answers");
}

static void
answer_nothing (void)
{
  fake_resolver_answer ("");
}

static void
answer_none (void)
{
  fake_resolver_answer (".:0");
}

START_TEST (an_error_leaves_the_donors_as_they_are)
{
  keep_while (give_error, "no server answers");
}
END_TEST

START_TEST (an_empty_answer_leaves_the_donors_as_they_are)
{
  keep_while (answer_nothing, "the answer names none");
}
END_TEST

START_TEST (an_answer_that_there_is_no_service_does_so_too)
{
  keep_while (answer_none, "the answer names none");
}
END_TEST

START_TEST (a_question_that_is_not_answered_blocks_nothing)
{
  params.file = scratch_path ("donors");
  ck_assert (g_file_set_contents (params.file, "srv:_a._tcp.x\nd:1\n", -1,
                                  NULL));
  fake_resolver_hold ();
  start ("srv:_a._tcp.x");
  fake_resolver_hold ();
  wait_told ("d:1");            /* the file is read meanwhile */
  donor_source_free (source);
  source = NULL;
  /* Late answers find nobody. */
  fake_resolver_answer ("a:1");
  while (g_main_context_iteration (context, FALSE))
    ;
  ck_assert_str_eq (told, "d:1");
}
END_TEST

static void
write_file (const char *text)
{
  static int second;
  struct timespec times[2] = { { 0 } };

  times[0].tv_sec = times[1].tv_sec = ++second;
  ck_assert (g_file_set_contents (params.file, text, -1, NULL));
  ck_assert_int_eq (utimensat (AT_FDCWD, params.file, times, 0), 0);
}

START_TEST (services_of_a_file_come_and_go)
{
  params.file = scratch_path ("donors");
  write_file ("d:1\n");
  fake_resolver_answer ("a:1");
  start ("d:1");
  write_file ("d:1\nsrv:_a._tcp.x # rack 1\n");
  wait_told ("a:1 d:1");
  write_file ("d:1\nsrv:_a.tcp\n");
  while (!strstr (logged (), "line 2: service \"srv:_a.tcp\""))
    g_main_context_iteration (context, TRUE);
  ck_assert_str_eq (told, "a:1 d:1");
  write_file ("d:1\n");
  wait_told ("d:1");
  ck_assert_uint_eq (donor_source_services (source), 0);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("donor_source");

  tcase_add_checked_fixture (c, setup, teardown);
  tcase_add_test (c, a_list_is_told_at_once);
  tcase_add_test (c, a_service_is_asked_for_by_its_name);
  tcase_add_test (c, answers_are_asked_for_again_and_again);
  tcase_add_test (c, a_donor_of_both_sources_counts_once);
  tcase_add_test (c, targets_that_are_no_addresses_are_left_out);
  tcase_add_test (c, an_error_leaves_the_donors_as_they_are);
  tcase_add_test (c, an_empty_answer_leaves_the_donors_as_they_are);
  tcase_add_test (c, an_answer_that_there_is_no_service_does_so_too);
  tcase_add_test (c, a_question_that_is_not_answered_blocks_nothing);
  tcase_add_test (c, services_of_a_file_come_and_go);
  return suite_run ("donor_source", c);
}
