/* Every option: what is allowed, what is not, and who wins. */

#include <check.h>
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "donor/config.h"

static const uint64_t mib = 1 << 20, gib = 1 << 30;

/* Parses up to four arguments.  NULL with a message in *text, or the
 * config.
 */
static struct donor_config *
parse (const char *a, const char *b, const char *c, const char *d,
       char **text)
{
  char *argv[] = { "infiniswap-donor", (char *) a, (char *) b, (char *) c,
                   (char *) d, NULL };
  struct donor_config *config = NULL;
  const int r = donor_config_parse (argv, &config, text);

  if (r == 0)
    ck_assert_ptr_nonnull (config);
  else
    ck_assert_int_eq (r, -EINVAL);
  return config;
}

static struct donor_config *
parse_good (const char *a, const char *b)
{
  char *text = NULL;
  struct donor_config *config = parse (a, b, NULL, NULL, &text);

  ck_assert_msg (config, "%s: %s", a, text);
  return config;
}

START_TEST (defaults)
{
  struct donor_config *config = parse_good (NULL, NULL);
  const struct sockaddr_in *in = (struct sockaddr_in *) &config->listen;

  ck_assert_int_eq (in->sin_family, AF_INET);
  ck_assert_uint_eq (ntohl (in->sin_addr.s_addr), INADDR_LOOPBACK);
  ck_assert_uint_eq (ntohs (in->sin_port), 9400);
  ck_assert_int_eq (config->fabric, DONOR_FABRIC_AUTO);
  ck_assert_uint_eq (config->memory_bytes, UINT64_MAX);
  ck_assert_uint_gt (config->headroom_bytes, 0);
  ck_assert_uint_eq (config->ready, 2);
  ck_assert_uint_eq (config->slab_size_bytes, gib);
  ck_assert_uint_eq (config->max_borrowers, 64);
  ck_assert_uint_eq (config->max_per_borrower_bytes, UINT64_MAX);
  ck_assert_double_eq (config->smoothing, 0.2);
  ck_assert_uint_eq (config->evict_extra, UINT64_MAX);
  ck_assert_int_eq (config->deadline_ns, 3000000000);
  ck_assert_int_eq (config->lock, MEMORY_LOCK_TRY);
  ck_assert_ptr_null (config->state_path);
  donor_config_free (config);
}
END_TEST

START_TEST (values_are_taken)
{
  struct donor_config *c;

  c = parse_good ("--listen", "[::1]:0");
  ck_assert_int_eq (c->listen.ss_family, AF_INET6);
  ck_assert_uint_eq (((struct sockaddr_in6 *) &c->listen)->sin6_port, 0);
  donor_config_free (c);
  c = parse_good ("--listen=0.0.0.0:1", NULL);
  ck_assert_uint_eq (((struct sockaddr_in *) &c->listen)->sin_addr.s_addr, 0);
  donor_config_free (c);
  c = parse_good ("--fabric", "verbs");
  ck_assert_int_eq (c->fabric, DONOR_FABRIC_VERBS);
  donor_config_free (c);
  c = parse_good ("--fabric", "tcp");
  ck_assert_int_eq (c->fabric, DONOR_FABRIC_TCP);
  donor_config_free (c);
  c = parse_good ("--memory", "8G");
  ck_assert_uint_eq (c->memory_bytes, 8 * gib);
  donor_config_free (c);
  c = parse_good ("--headroom", "300M");
  ck_assert_uint_eq (c->headroom_bytes, 300 * mib);
  donor_config_free (c);
  c = parse_good ("--ready", "0");
  ck_assert_uint_eq (c->ready, 0);
  donor_config_free (c);
  c = parse_good ("--slab-size", "1M");
  ck_assert_uint_eq (c->slab_size_bytes, mib);
  donor_config_free (c);
  c = parse_good ("--max-borrowers", "1");
  ck_assert_uint_eq (c->max_borrowers, 1);
  donor_config_free (c);
  c = parse_good ("--max-per-borrower", "1G");
  ck_assert_uint_eq (c->max_per_borrower_bytes, gib);
  donor_config_free (c);
  c = parse_good ("--smoothing", "1");
  ck_assert_double_eq (c->smoothing, 1);
  donor_config_free (c);
  c = parse_good ("--evict-extra", "0");
  ck_assert_uint_eq (c->evict_extra, 0);
  donor_config_free (c);
  c = parse_good ("--deadline", "500ms");
  ck_assert_int_eq (c->deadline_ns, 500000000);
  donor_config_free (c);
  c = parse_good ("--lock", "require");
  ck_assert_int_eq (c->lock, MEMORY_LOCK_REQUIRE);
  donor_config_free (c);
  c = parse_good ("--state", "/run/x.sock");
  ck_assert_str_eq (c->state_path, "/run/x.sock");
  donor_config_free (c);
  c = parse_good ("--metrics", "[::1]:9401");
  ck_assert_str_eq (c->metrics, "[::1]:9401");
  donor_config_free (c);
}
END_TEST

static const struct { const char *option, *value; } bad[] = {
  { "--listen", "" },
  { "--listen", "10.0.0.2" },
  { "--listen", ":9400" },
  { "--listen", "10.0.0.2:" },
  { "--listen", "10.0.0.2:x" },
  { "--listen", "10.0.0.2:65536" },
  { "--listen", "10.0.0.2:00" },
  { "--listen", "10.0.0.256:9400" },
  { "--listen", "::1:9400" },
  { "--listen", ":0" },
  { "--fabric", "" },
  { "--fabric", "rdma" },
  { "--fabric", "TCP" },
  { "--memory", "x" },
  { "--memory", "-1G" },
  { "--memory", "1G1" },
  { "--memory", "1023M" },
  { "--memory", "0" },
  { "--memory", "99999999999999999999" },
  { "--headroom", "x" },
  { "--headroom", "-1" },
  { "--headroom", "1000000T" },
  { "--ready", "-1" },
  { "--ready", "1.5" },
  { "--ready", "65537" },
  { "--slab-size", "0" },
  { "--slab-size", "3M" },
  { "--slab-size", "512K" },
  { "--slab-size", "2T" },
  { "--slab-size", "1G " },
  { "--max-borrowers", "0" },
  { "--max-borrowers", "65537" },
  { "--max-borrowers", "all" },
  { "--max-per-borrower", "512M" },
  { "--max-per-borrower", "none" },
  { "--smoothing", "0" },
  { "--smoothing", "1.1" },
  { "--smoothing", "-0.2" },
  { "--smoothing", "nan" },
  { "--evict-extra", "E" },
  { "--evict-extra", "65537" },
  { "--deadline", "0" },
  { "--deadline", "999us" },
  { "--deadline", "61s" },
  { "--deadline", "3 s" },
  { "--lock", "yes" },
  { "--lock", "" },
  { "--state", "" },
  { "--state", "/123456789012345678901234567890123456789012345678901234567"
    "89012345678901234567890123456789012345678901234567890" },
  { "--metrics", "" },
  { "--metrics", "10.0.0.2" },
  { "--metrics", "10.0.0.2:65536" },
};

START_TEST (bad_values_are_refused_in_one_line)
{
  char *text = NULL;

  ck_assert_ptr_null (parse (bad[_i].option, bad[_i].value, NULL, NULL,
                             &text));
  ck_assert_ptr_nonnull (text);
  ck_assert_ptr_nonnull (strstr (text, bad[_i].option));
  ck_assert_ptr_nonnull (strstr (text, bad[_i].value));
  ck_assert_ptr_nonnull (strstr (text, ": must be "));
  ck_assert_ptr_null (strchr (text, '\n'));
  g_free (text);
}
END_TEST

START_TEST (unknown_arguments_are_refused)
{
  static const char *const unknown[] = { "--frobnicate", "extra", "-x",
                                         "--ready" };
  char *text;
  size_t i;

  for (i = 0; i < G_N_ELEMENTS (unknown); i++) {
    text = NULL;
    ck_assert_ptr_null (parse (unknown[i], NULL, NULL, NULL, &text));
    ck_assert_msg (strstr (text, unknown[i]), "%s", text);
    ck_assert_ptr_null (strchr (text, '\n'));
    g_free (text);
  }
}
END_TEST

START_TEST (slab_size_is_weighed_with_memory)
{
  struct donor_config *config;
  char *text = NULL;

  config = parse ("--memory", "64M", "--slab-size", "64M", &text);
  ck_assert_ptr_nonnull (config);
  donor_config_free (config);
  ck_assert_ptr_null (parse ("--memory", "63M", "--slab-size", "64M", &text));
  ck_assert_str_eq (text,
                    "--memory 63M: must be at least one slab, which has 64M");
  g_free (text);
}
END_TEST

/* A key file with this text; parses it with up to two arguments. */
static struct donor_config *
parse_file (const char *contents, const char *a, const char *b, char **text,
            char **path)
{
  struct donor_config *config;
  int fd;

  fd = g_file_open_tmp ("donor-XXXXXX.conf", path, NULL);
  ck_assert_int_ge (fd, 0);
  g_close (fd, NULL);
  ck_assert (g_file_set_contents (*path, contents, -1, NULL));
  config = parse ("--config", *path, a, b, text);
  g_unlink (*path);
  return config;
}

START_TEST (key_file_has_the_same_names)
{
  char *text = NULL, *path = NULL;
  struct donor_config *c =
    parse_file ("[donor]\nlisten = 127.0.0.1:1\nfabric=tcp\nmemory=2G\n"
                "headroom=1M\nready=3\nslab-size=2M\nmax-borrowers=4\n"
                "max-per-borrower=4M\nsmoothing=0.5\nevict-extra=6\n"
                "deadline=7s\nlock=no\nstate=/x\nmetrics=127.0.0.1:2\n",
                NULL, NULL, &text, &path);
  const char *name, *value;
  size_t i;

  ck_assert_msg (c, "%s", text);
  ck_assert_int_eq (c->fabric, DONOR_FABRIC_TCP);
  ck_assert_uint_eq (c->memory_bytes, 2 * gib);
  ck_assert_uint_eq (c->headroom_bytes, mib);
  ck_assert_uint_eq (c->ready, 3);
  ck_assert_uint_eq (c->slab_size_bytes, 2 * mib);
  ck_assert_uint_eq (c->max_borrowers, 4);
  ck_assert_uint_eq (c->max_per_borrower_bytes, 4 * mib);
  ck_assert_double_eq (c->smoothing, 0.5);
  ck_assert_uint_eq (c->evict_extra, 6);
  ck_assert_int_eq (c->deadline_ns, 7000000000);
  ck_assert_int_eq (c->lock, MEMORY_LOCK_NO);
  ck_assert_str_eq (c->state_path, "/x");
  for (i = 0; (name = donor_config_option (c, i, &value)); i++)
    if (strcmp (name, "slab-size") == 0)
      ck_assert_str_eq (value, "2M");
  ck_assert_uint_eq (i, 14);
  donor_config_free (c);
  g_free (path);
}
END_TEST

START_TEST (command_line_wins)
{
  char *text = NULL, *path = NULL;
  struct donor_config *c;

  c = parse_file ("[donor]\nready = 3\ndeadline = 1s\n", "--ready", "5",
                  &text, &path);
  ck_assert_msg (c, "%s", text);
  ck_assert_uint_eq (c->ready, 5);
  ck_assert_int_eq (c->deadline_ns, 1000000000);
  donor_config_free (c);
  g_free (path);
}
END_TEST

START_TEST (key_file_mistakes_name_their_place)
{
  static const struct { const char *contents, *expected; } mistakes[] = {
    { "[donor]\n\nready = 3x\n", ", line 3: ready = 3x: must be " },
    { "[donor]\nredy = 3\n", ", line 2: redy: no such option" },
    { "[donor]\nconfig = x\n", ", line 2: config: no such option" },
    { "[donor]\nmemory = 1M\n", ", line 2: memory = 1M: must be at least" },
    { "[donor]\nready = 1\nready = 2\n", ", line 3: " },
    { "[borrower]\n", "unknown group [borrower]" },
  };
  size_t i;

  for (i = 0; i < G_N_ELEMENTS (mistakes); i++) {
    char *text = NULL, *path = NULL;

    ck_assert_ptr_null (parse_file (mistakes[i].contents, "--ready", "5",
                                    &text, &path));
    ck_assert_msg (strstr (text, mistakes[i].expected), "%s", text);
    ck_assert_msg (strstr (text, path), "%s", text);
    ck_assert_ptr_null (strchr (text, '\n'));
    g_free (text);
    g_free (path);
  }
}
END_TEST

START_TEST (help_names_every_option_and_its_default)
{
  char *argv[] = { "infiniswap-donor", "--help", NULL };
  struct donor_config *c = parse_good (NULL, NULL);
  struct donor_config *none = NULL;
  const char *name, *value;
  char *text = NULL, *option;
  size_t i;

  ck_assert_int_eq (donor_config_parse (argv, &none, &text), 1);
  ck_assert_ptr_null (none);
  for (i = 0; (name = donor_config_option (c, i, &value)); i++) {
    option = g_strdup_printf ("--%s=", name);
    ck_assert_msg (strstr (text, option), "%s", name);
    g_free (option);
    option = g_strdup_printf ("(default: %s)", value);
    if (strcmp (name, "headroom") != 0)
      ck_assert_msg (strstr (text, option), "%s", name);
    g_free (option);
  }
  g_free (text);
  argv[1] = "--version";
  ck_assert_int_eq (donor_config_parse (argv, &none, &text), 1);
  ck_assert_ptr_nonnull (strstr (text, ISW_VERSION));
  g_free (text);
  donor_config_free (c);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("config");
  TCase *tc = tcase_create ("config");
  SRunner *sr;
  int failed;

  tcase_add_test (tc, defaults);
  tcase_add_test (tc, values_are_taken);
  tcase_add_loop_test (tc, bad_values_are_refused_in_one_line,
                       0, G_N_ELEMENTS (bad));
  tcase_add_test (tc, unknown_arguments_are_refused);
  tcase_add_test (tc, slab_size_is_weighed_with_memory);
  tcase_add_test (tc, key_file_has_the_same_names);
  tcase_add_test (tc, command_line_wins);
  tcase_add_test (tc, key_file_mistakes_name_their_place);
  tcase_add_test (tc, help_names_every_option_and_its_default);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
