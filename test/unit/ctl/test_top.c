/* infiniswapctl top: rates between two documents, pages of whatever the
 * documents hold, and lines cut to the terminal's width.
 */

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/rates.h"
#include "ctl/terminal.h"
#include "ctl/top_page.h"
#include "samples.h"

static JsonNode *
parse (const char *text)
{
  JsonNode *node = json_from_string (text, NULL);

  ck_assert_ptr_nonnull (node);
  return node;
}

static struct rates
compare (JsonNode *before, JsonNode *now, double seconds)
{
  return (struct rates) {
    before != NULL ? json_node_get_object (before) : NULL,
    json_node_get_object (now), seconds,
  };
}

static char *
page_of (JsonNode *before, JsonNode *now, const char *problem)
{
  const struct top_program program = {
    .socket = "/run/infiniswap/isw0.sock",
    .rates = compare (before, now, 2),
    .problem = problem,
  };

  return top_page (&program, 1);
}

static void
ck_has (const char *page, const char *text)
{
  ck_assert_msg (strstr (page, text) != NULL, "no \"%s\" in\n%s", text, page);
}

START_TEST (growth_a_second)
{
  g_autoptr (JsonNode) before = parse ("{\"counters\": {\"a\": 10, \"b\": 5}}");
  g_autoptr (JsonNode) now = parse ("{\"counters\": {\"a\": 16, \"b\": 4,"
                                    " \"c\": 1, \"d\": \"x\"}}");
  struct rates r = compare (before, now, 2);
  double rate;

  ck_assert (rates_counter (&r, "a", &rate));
  ck_assert_double_eq (rate, 3);
  ck_assert (!rates_counter (&r, "b", &rate));
  ck_assert (!rates_counter (&r, "c", &rate));
  ck_assert (!rates_counter (&r, "d", &rate));
  r.seconds = 0;
  ck_assert (!rates_counter (&r, "a", &rate));
  r = compare (NULL, now, 2);
  ck_assert (!rates_counter (&r, "a", &rate));
}
END_TEST

START_TEST (mean_of_what_was_measured_between)
{
  g_autoptr (JsonNode) before =
    parse ("{\"latency\": {\"read\": {\"count\": 10, \"sum_us\": 500}}}");
  g_autoptr (JsonNode) now =
    parse ("{\"latency\": {\"read\": {\"count\": 12, \"sum_us\": 540}}}");
  struct rates r = compare (before, now, 1);
  double mean;

  ck_assert (rates_mean_us (&r, "read", &mean));
  ck_assert_double_eq (mean, 20);
  ck_assert (!rates_mean_us (&r, "write", &mean));
  r = compare (now, now, 1);
  ck_assert (!rates_mean_us (&r, "read", &mean));
}
END_TEST

START_TEST (a_restart_is_noticed)
{
  g_autoptr (JsonNode) old =
    parse ("{\"kind\": \"device\", \"device\": {\"id\": \"a\"},"
           " \"counters\": {\"pages_written\": 5}}");
  g_autoptr (JsonNode) more =
    parse ("{\"kind\": \"device\", \"device\": {\"id\": \"a\"},"
           " \"counters\": {\"pages_written\": 6}}");
  g_autoptr (JsonNode) other =
    parse ("{\"kind\": \"device\", \"device\": {\"id\": \"b\"},"
           " \"counters\": {\"pages_written\": 6}}");
  JsonObject *o = json_node_get_object (old);
  JsonObject *m = json_node_get_object (more);

  ck_assert (!rates_restarted (o, m));
  ck_assert (!rates_restarted (o, o));
  ck_assert (rates_restarted (m, o));
  ck_assert (rates_restarted (o, json_node_get_object (other)));
}
END_TEST

START_TEST (pages_of_samples)
{
  g_autoptr (JsonNode) device = parse (sample_device);
  g_autoptr (JsonNode) donor = parse (sample_donor);
  g_autofree char *first = page_of (NULL, device, NULL);
  g_autofree char *second = page_of (device, device, NULL);
  g_autofree char *lender = page_of (donor, donor, NULL);
  g_autofree char *gone = page_of (device, device, "no answer yet");

  ck_has (first, "1 device ");
  ck_has (first, "isw0.sock: device of ");
  ck_has (second, "read 0 pages/s");
  ck_has (lender, "1 donor ");
  ck_has (gone, "1 gone");
  ck_has (gone, "gone: no answer yet");
}
END_TEST

/* Another version's, or another program's. */
START_TEST (pages_of_odd_documents)
{
  static const char *const odd[] = {
    "{}", "{\"kind\": 5}", "{\"kind\": \"device\"}", "{\"kind\": \"donor\"}",
    "{\"kind\": \"toaster\"}",
    "{\"kind\": \"device\", \"counters\": [], \"device\": 1,"
    " \"donors\": {\"a\": 1}, \"slabs\": null, \"latency\": \"x\"}",
    "{\"kind\": \"donor\", \"sessions\": [1, null, []], \"memory\": [],"
    " \"counters\": {\"maps\": \"many\"}}",
    "{\"kind\": \"device\", \"donors\": [{\"address\": \"\\u001b[2J\"}]}",
  };

  for (size_t i = 0; i < G_N_ELEMENTS (odd); i++) {
    g_autoptr (JsonNode) node = parse (odd[i]);
    g_autofree char *page = page_of (node, node, NULL);

    ck_has (page, "isw0.sock: ");
    ck_assert_ptr_null (strchr (page, '\033'));
  }
}
END_TEST

START_TEST (lines_are_cut_at_columns)
{
  ck_assert_uint_eq (terminal_clip ("abc", 3, 10), 3);
  ck_assert_uint_eq (terminal_clip ("abc", 3, 2), 2);
  ck_assert_uint_eq (terminal_clip ("abc", 3, 0), 0);
  ck_assert_uint_eq (terminal_clip ("", 0, 5), 0);
  /* Two bytes, one column; three bytes, two columns. */
  ck_assert_uint_eq (terminal_clip ("\303\244b", 3, 1), 2);
  ck_assert_uint_eq (terminal_clip ("\346\274\242b", 4, 1), 0);
  ck_assert_uint_eq (terminal_clip ("\346\274\242b", 4, 2), 3);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("top");
  TCase *tc = tcase_create ("top");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_add_test (tc, growth_a_second);
  tcase_add_test (tc, mean_of_what_was_measured_between);
  tcase_add_test (tc, a_restart_is_noticed);
  tcase_add_test (tc, pages_of_samples);
  tcase_add_test (tc, pages_of_odd_documents);
  tcase_add_test (tc, lines_are_cut_at_columns);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_ENV);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
