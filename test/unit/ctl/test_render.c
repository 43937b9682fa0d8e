/* Status documents as pages: whole ones, and what is left of a page when
 * members are missing, of the wrong type, or hostile.
 */

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/page.h"
#include "ctl/render.h"
#include "samples.h"

static const char device_page[] =
"/run/isw0.sock: infiniswap device, version 0.1.0\n"
"\n"
"Device        64G in 64 slabs of 1G, id 3f2a90c1d4e5b677\n"
"Slabs         2 mapped, 1 mapping, 1 draining, 60 unmapped\n"
"Write-behind  17 of 16384 slots in use, limit 8192, 0 failed\n"
"Lock          try, 310M locked (mlock: ok, I/O flusher: Operation not "
"permitted)\n"
"\n"
"Donors\n"
"  ADDRESS         STATE      FABRIC  SLABS   FREE  SESSION  FAILURES\n"
"  10.0.0.2:9400   connected  verbs       1  24.3G    2h03m         0\n"
"  10.0.0.3:9400   waiting    -           0      0       0s         3\n"
"    last error: connect: Connection refused\n"
"    last refusal: another slab size: 512M\n"
"  [fd00::7]:9400  connected  tcp         1     1G      59s         0\n"
"\n"
"Slabs, the busiest first (activity: pages per second)\n"
"  SLAB  STATE     DONOR           ACTIVITY  READS     WRITES\n"
"     7  mapped    [fd00::7]:9400    1234.5      5  123456789\n"
"     0  mapped    10.0.0.2:9400       12.2   1000      20000\n"
"     9  unmapped  -                    0.0      1          2\n"
"\n"
"Counters\n"
"  pages read slots                  12    pages read donors              "
"34567\n"
"  pages written           123456789012    slabs mapped                   "
"    3\n"
"  io errors                          0\n"
"\n"
"Configuration\n"
"  size=64G donors=10.0.0.2:9400,10.0.0.3:9400,[fd00::7]:9400 donors-file=\n"
"  fabric=auto slab-size=1G backing=/var/tmp/isw hot-slab=20 lock=try\n";

static const char donor_page[] =
"/run/donor.sock: infiniswap donor, version 0.1.0\n"
"\n"
"Listening     10.0.0.2:9400, fabrics: verbs, tcp\n"
"Node          62.8G memory, 40G available, 14G used by others\n"
"Limits        headroom 8G, may hold 42G\n"
"Lending       10G, would lend 30G now, holds 12G\n"
"Slabs         10 lent (1 being evicted), 2 ready, of 1G each\n"
"Lock          require, 12.2G locked (mlock: ok, I/O flusher: not used)\n"
"\n"
"Sessions\n"
"  ID                PEER            DEVICE            FABRIC  LANES  SLABS"
"    AGE  DEADLINE\n"
"  00000000000091fe  10.0.0.9:51312  3f2a90c1d4e5b...  verbs       8     10"
"  2d02h        2s\n"
"  92                [fd00::9]:4000  aabbccddeeff0011  tcp         0      0"
"     3s     500ms\n"
"\n"
"Counters\n"
"  sessions started                   4    sessions ended                 "
"    2\n"
"  maps                              31    maps refused                   "
"    0\n"
"  unmaps                            21    messages bad                   "
"    0\n"
"  evictions asked                    7    evictions done                 "
"    6\n"
"  evictions unanswered               0\n"
"\n"
"Configuration\n"
"  listen=10.0.0.2:9400 memory=48G\n";

static char *
render (const char *socket, const char *json)
{
  JsonNode *node = json_from_string (json, NULL);
  char *page;

  ck_assert_msg (node != NULL, "%s", json);
  page = render_status (socket, json_node_get_object (node));
  json_node_unref (node);
  return page;
}

static void
expect_in_page (const char *json, const char *text)
{
  g_autofree char *page = render ("s", json);

  ck_assert_msg (strstr (page, text) != NULL, "%s", page);
}

START_TEST (whole_documents)
{
  g_autofree char *device = render ("/run/isw0.sock", sample_device);
  g_autofree char *donor = render ("/run/donor.sock", sample_donor);

  ck_assert_str_eq (device, device_page);
  ck_assert_str_eq (donor, donor_page);
}
END_TEST

START_TEST (no_line_is_too_long)
{
  const char *pages[] = { device_page, donor_page };

  for (size_t i = 0; i < G_N_ELEMENTS (pages); i++) {
    g_auto (GStrv) lines = g_strsplit (pages[i], "\n", -1);

    for (char **line = lines; *line != NULL; line++)
      ck_assert_uint_le (strlen (*line), 100);
  }
}
END_TEST

START_TEST (empty_documents)
{
  expect_in_page ("{ \"kind\": \"device\" }",
                  "infiniswap device, version -\n\n"
                  "Device        - in - slabs of -, id -\n");
  expect_in_page ("{ \"kind\": \"device\" }", "Counters\n  -\n");
  expect_in_page ("{ \"kind\": \"donor\" }",
                  "Lock          -, - locked (mlock: -)\n");
  expect_in_page ("{ \"kind\": \"donor\" }", "Configuration\n  -\n");
}
END_TEST

START_TEST (unknown_kinds)
{
  static const char *const table[] = { "{ }", "{ \"kind\": null }",
    "{ \"kind\": {} }", "{ \"kind\": [] }" };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++)
    expect_in_page (table[i], "s: unknown kind of program \"-\", version -");
  expect_in_page ("{ \"kind\": \"x\", \"version\": 2.5 }",
                  "unknown kind of program \"x\", version 2.5");
}
END_TEST

/* Text of a peer must not reach the terminal as more than text. */
START_TEST (text_is_printable)
{
  g_autofree char *page = render
    ("s", "{ \"kind\": \"device\", \"version\": \"\\u001b[2J\\n\\u0007\","
     " \"config\": { \"a\\u001b\\n_b\": \"\\u202ex\\u0085\" },"
     " \"counters\": { \"c\\u001bd\": \"\\r1\" },"
     " \"donors\": [ { \"last_error\": \"gone\\n\\u001b]0;x\\u0007\","
     " \"address\": \"h\xc3\xb6st\" } ] }");

  ck_assert_ptr_nonnull (strstr (page, "version ?[2J??\n"));
  ck_assert_ptr_nonnull (strstr (page, "  a??_b=?x?\n"));
  ck_assert_ptr_nonnull (strstr (page, "  c?d  "));
  ck_assert_ptr_nonnull (strstr (page, "    last error: gone??]0;x?\n"));
  ck_assert_ptr_nonnull (strstr (page, "  h\xc3\xb6st     -"));
  for (const char *c = page; *c != '\0'; c++)
    ck_assert (*c == '\n' || (unsigned char) *c >= ' ');
}
END_TEST

/* One member after another is replaced by every other kind of value. */
static void
spoil (JsonNode *root, JsonNode *node)
{
  static const char *const values[] = { "null", "true", "-1", "1e300",
    "-9223372036854775808", "9223372036854775807", "0.5", "\"\"", "\"text\"",
    "[]", "[ [ 1 ], {}, null, 2, \"x\" ]", "{}", "{ \"a\": { \"b\": [] } }" };
  GList *names;

  if (JSON_NODE_HOLDS_ARRAY (node)) {
    JsonArray *array = json_node_get_array (node);

    for (guint i = 0; i < json_array_get_length (array); i++)
      spoil (root, json_array_get_element (array, i));
  }
  if (!JSON_NODE_HOLDS_OBJECT (node))
    return;
  names = json_object_get_members (json_node_get_object (node));
  for (GList *l = names; l != NULL; l = l->next) {
    JsonObject *object = json_node_get_object (node);
    g_autofree char *name = g_strdup (l->data);
    JsonNode *original = json_node_copy (json_object_get_member (object,
                                                                 name));

    for (size_t i = 0; i < G_N_ELEMENTS (values); i++) {
      g_autofree char *page = NULL;

      json_object_set_member (object, name,
                              json_from_string (values[i], NULL));
      page = render_status ("s", json_node_get_object (root));
      ck_assert_ptr_nonnull (strstr (page, "version"));
      ck_assert (g_utf8_validate (page, -1, NULL));
    }
    json_object_set_member (object, name, original);
    spoil (root, json_object_get_member (object, name));
  }
  g_list_free (names);
}

START_TEST (any_value_anywhere)
{
  const char *samples[] = { sample_device, sample_donor };

  g_log_set_always_fatal (G_LOG_LEVEL_MASK);
  for (size_t i = 0; i < G_N_ELEMENTS (samples); i++) {
    JsonNode *root = json_from_string (samples[i], NULL);

    spoil (root, root);
    json_node_unref (root);
  }
}
END_TEST

START_TEST (cells)
{
  static const struct {
    const char *json, *text, *size, *seconds, *milliseconds, *decimal;
  } table[] = {
    { "0", "0", "0", "0s", "0s", "0.0" },
    { "59", "59", "59", "59s", "59ms", "59.0" },
    { "60", "60", "60", "1m00s", "60ms", "60.0" },
    { "1023", "1023", "1023", "17m03s", "1023ms", "1023.0" },
    { "1024", "1024", "1K", "17m04s", "1024ms", "1024.0" },
    { "1048575", "1048575", "1M", "12d03h", "1048575ms", "1048575.0" },
    { "1610612736", "1610612736", "1.5G", "18641d08h", "1610612736ms",
      "1610612736.0" },
    { "9223372036854775807", "9223372036854775807", "8E", "-", "-",
      "9.22337e+18" },
    { "1.5", "1.5", "1.5", "1s", "1.5ms", "1.5" },
    { "-1", "-1", "-", "-", "-", "-1.0" },
    { "1e300", "1e+300", "-", "-", "-", "1e+300" },
    { "true", "true", "-", "-", "-", "-" },
    { "null", "-", "-", "-", "-", "-" },
    { "\"5\"", "5", "-", "-", "-", "-" },
    { "[ 1, \"b\", null, [], false ]", "1, b, false", "-", "-", "-", "-" },
    { "[ null ]", "-", "-", "-", "-", "-" },
    { "{}", "-", "-", "-", "-", "-" },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (table); i++) {
    g_autofree char *json = g_strdup_printf ("{ \"m\": %s }", table[i].json);
    JsonNode *node = json_from_string (json, NULL);
    JsonObject *o = json_node_get_object (node);
    struct page p;

    page_begin (&p);
    ck_assert_str_eq (page_text (&p, o, "m"), table[i].text);
    ck_assert_str_eq (page_size (&p, o, "m"), table[i].size);
    ck_assert_str_eq (page_seconds (&p, o, "m"), table[i].seconds);
    ck_assert_str_eq (page_milliseconds (&p, o, "m"), table[i].milliseconds);
    ck_assert_str_eq (page_decimal (&p, o, "m"), table[i].decimal);
    ck_assert_str_eq (page_text (&p, o, "n"), "-");
    ck_assert_str_eq (page_size (&p, NULL, "m"), "-");
    g_free (page_end (&p));
    json_node_unref (node);
  }
}
END_TEST

START_TEST (long_lists_are_cut)
{
  GString *json = g_string_new ("{ \"kind\": \"device\", \"slabs\": "
                                "{ \"list\": [ { \"index\": 0 }");
  g_autofree char *page = NULL;

  for (int i = 1; i < 30; i++)
    g_string_append_printf (json, ", { \"index\": %d, \"activity\": %d }",
                            1000 + i, i);
  g_string_append (json, "] } }");
  page = render ("s", json->str);
  ck_assert_ptr_nonnull (strstr (page, "\n  and 10 more: see --json\n"));
  ck_assert_ptr_nonnull (strstr (page, "1029"));
  ck_assert_ptr_nonnull (strstr (page, "1010"));
  ck_assert_ptr_null (strstr (page, "1009"));
  ck_assert (strstr (page, "1029") < strstr (page, "1028"));
  g_string_free (json, TRUE);
}
END_TEST

/* A long value has a line of its own. */
START_TEST (long_assignments_are_not_cut)
{
  g_autofree char *value = g_strnfill (200, 'v');
  g_autofree char *json = g_strdup_printf
    ("{ \"kind\": \"donor\", \"config\": { \"a\": \"1\", \"b\": \"%s\", "
     "\"c\": \"no limit\" } }", value);
  g_autofree char *expected = g_strdup_printf ("\n  a=1\n  b=%s\n"
                                               "  c=\"no limit\"\n",
                                               value);

  expect_in_page (json, expected);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("render");
  TCase *tc = tcase_create ("render");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 120);
  tcase_add_test (tc, whole_documents);
  tcase_add_test (tc, no_line_is_too_long);
  tcase_add_test (tc, empty_documents);
  tcase_add_test (tc, unknown_kinds);
  tcase_add_test (tc, text_is_printable);
  tcase_add_test (tc, any_value_anywhere);
  tcase_add_test (tc, cells);
  tcase_add_test (tc, long_lists_are_cut);
  tcase_add_test (tc, long_assignments_are_not_cut);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
