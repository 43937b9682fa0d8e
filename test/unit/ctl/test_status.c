/* infiniswapctl status: which sockets are asked, and what is printed when
 * some of them do not answer.
 */

#include <check.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "ctl/status.h"
#include "programs.h"
#include "samples.h"

static const int64_t long_ns = 60 * INT64_C (1000000000);

/* A device, a donor and a program that answers oddly. */
static const char *const names[] = { "isw0.sock", "isw1.sock", "odd.sock" };
static const char *const documents[] = { sample_device, sample_donor,
  "[ 1, 2 ]" };
static char *paths[3];

static JsonNode *
answer (const char *request, void *data)
{
  return strcmp (request, "status") == 0 ? json_from_string (data, NULL) :
    NULL;
}

static void
setup (void)
{
  programs_setup ();
  for (int i = 0; i < 3; i++)
    paths[i] = programs_add (names[i], answer, (void *) documents[i]);
}

static int
status (const void *options, FILE *out, FILE *err)
{
  return status_run (options, out, err);
}

static struct outcome
run (char *const *asked, const char *in_folder, int64_t timeout_ns, bool json)
{
  struct status_options o = { asked, in_folder, timeout_ns, json };

  return programs_run (status, &o);
}

static unsigned
lines (const char *text)
{
  unsigned n = 0;

  for (; *text != '\0'; text++)
    n += *text == '\n';
  return n;
}

START_TEST (each_socket_is_shown)
{
  char *asked[] = { paths[1], paths[0], NULL };
  struct outcome r = run (asked, "/nonexistent", long_ns, false);

  ck_assert_int_eq (r.status, 0);
  ck_assert_str_eq (r.err, "");
  ck_assert (g_str_has_prefix (r.out, paths[1]));
  ck_assert_ptr_nonnull (strstr (r.out, "infiniswap donor, version"));
  ck_assert (strstr (r.out, "infiniswap donor, version") <
             strstr (r.out, "infiniswap device, version"));
  outcome_free (&r);
}
END_TEST

START_TEST (sockets_of_the_folder_are_found)
{
  g_autofree char *other =
    g_build_filename (programs_folder (), "notes.txt", NULL);
  struct outcome r;

  ck_assert (g_file_set_contents (other, "", 0, NULL));
  r = run (NULL, programs_folder (), long_ns, false);
  ck_assert_int_eq (r.status, 1);
  ck_assert (strstr (r.out, paths[0]) < strstr (r.out, paths[1]));
  ck_assert_ptr_nonnull (strstr (r.err, "odd.sock: the answer is no status"));
  ck_assert_ptr_null (strstr (r.err, "notes.txt"));
  ck_assert_uint_eq (lines (r.err), 1);
  outcome_free (&r);
  g_remove (other);
}
END_TEST

START_TEST (unreachable_sockets_do_not_hide_the_rest)
{
  g_autofree char *missing =
    g_build_filename (programs_folder (), "missing", NULL);
  char *asked[] = { missing, paths[0], paths[2], NULL };
  struct outcome r = run (asked, programs_folder (), long_ns, false);

  ck_assert_int_eq (r.status, 1);
  ck_assert_uint_eq (lines (r.err), 2);
  ck_assert_ptr_nonnull (strstr (r.err, missing));
  ck_assert (g_str_has_prefix (r.out, paths[0]));
  outcome_free (&r);
}
END_TEST

START_TEST (no_socket_at_all)
{
  g_autofree char *empty = g_dir_make_tmp ("isw-ctl-XXXXXX", NULL);
  const char *folders[] = { empty, "/nonexistent/run", "/dev/null" };
  const char *why[] = { "start the plugin with state=PATH",
    "start the plugin with state=PATH", "name a socket" };
  char *none[] = { NULL };

  for (int i = 0; i < 3; i++) {
    struct outcome r = run (i == 0 ? none : NULL, folders[i], long_ns, false);

    ck_assert_int_eq (r.status, 1);
    ck_assert_str_eq (r.out, "");
    ck_assert_uint_eq (lines (r.err), 1);
    ck_assert_ptr_nonnull (strstr (r.err, why[i]));
    ck_assert_ptr_nonnull (strstr (r.err, folders[i]));
    outcome_free (&r);
  }
  g_rmdir (empty);
}
END_TEST

START_TEST (json_of_one_is_its_document)
{
  char *asked[] = { paths[0], NULL };
  struct outcome r = run (asked, programs_folder (), long_ns, true);
  JsonNode *node = json_from_string (r.out, NULL);
  JsonObject *o;

  ck_assert_int_eq (r.status, 0);
  ck_assert (node != NULL && JSON_NODE_HOLDS_OBJECT (node));
  o = json_node_get_object (node);
  ck_assert_str_eq (json_object_get_string_member (o, "kind"), "device");
  ck_assert_str_eq (json_object_get_string_member (o, "socket"), paths[0]);
  ck_assert_int_eq (json_object_get_int_member
                    (json_object_get_object_member (o, "counters"),
                     "pages_written"), 123456789012);
  json_node_unref (node);
  outcome_free (&r);
}
END_TEST

START_TEST (json_of_several_is_an_array)
{
  char *asked[] = { paths[0], paths[2], paths[1], NULL };
  struct outcome r = run (asked, programs_folder (), long_ns, true);
  JsonNode *node = json_from_string (r.out, NULL);
  JsonArray *array;

  ck_assert_int_eq (r.status, 1);
  ck_assert_uint_eq (lines (r.err), 1);
  ck_assert (node != NULL && JSON_NODE_HOLDS_ARRAY (node));
  array = json_node_get_array (node);
  ck_assert_uint_eq (json_array_get_length (array), 2);
  ck_assert_str_eq (json_object_get_string_member
                    (json_array_get_object_element (array, 1), "kind"),
                    "donor");
  json_node_unref (node);
  outcome_free (&r);
}
END_TEST

START_TEST (json_of_nothing)
{
  char *one[] = { paths[2], NULL };
  char *two[] = { paths[2], paths[2], NULL };
  struct outcome r = run (one, programs_folder (), long_ns, true);

  ck_assert_int_eq (r.status, 1);
  ck_assert_str_eq (r.out, "");
  outcome_free (&r);
  r = run (two, programs_folder (), long_ns, true);
  ck_assert_int_eq (r.status, 1);
  ck_assert_str_eq (r.out, "[]\n");
  outcome_free (&r);
}
END_TEST

START_TEST (stopped_program_times_out)
{
  g_autofree char *path =
    g_build_filename (programs_folder (), "stopped", NULL);
  char *error = NULL;
  struct state_socket *s = state_socket_bind (path, &error);
  char *asked[] = { path, paths[0], NULL };
  struct outcome r;

  ck_assert_ptr_nonnull (s);
  r = run (asked, programs_folder (), 2000000000, false);
  ck_assert_int_eq (r.status, 1);
  ck_assert_ptr_nonnull (strstr (r.err, "timed out"));
  ck_assert_ptr_nonnull (strstr (r.err, path));
  ck_assert (g_str_has_prefix (r.out, paths[0]));
  outcome_free (&r);
  state_socket_close (s);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("status");
  TCase *tc = tcase_create ("status");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_checked_fixture (tc, setup, programs_teardown);
  tcase_add_test (tc, each_socket_is_shown);
  tcase_add_test (tc, sockets_of_the_folder_are_found);
  tcase_add_test (tc, unreachable_sockets_do_not_hide_the_rest);
  tcase_add_test (tc, no_socket_at_all);
  tcase_add_test (tc, json_of_one_is_its_document);
  tcase_add_test (tc, json_of_several_is_an_array);
  tcase_add_test (tc, json_of_nothing);
  tcase_add_test (tc, stopped_program_times_out);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
