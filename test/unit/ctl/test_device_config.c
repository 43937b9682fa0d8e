/* The key file of a device: what attach takes of it, what goes on to the
 * plugin, and how mistakes are told.
 */

#include <check.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/device_config.h"

static char *folder, *path;

static void
set_up (void)
{
  folder = g_dir_make_tmp ("device-config-XXXXXX", NULL);
  path = g_build_filename (folder, "isw0.conf", NULL);
}

static void
tear_down (void)
{
  g_unlink (path);
  g_rmdir (folder);
  g_free (path);
  g_free (folder);
}

static void
write_file (const char *text)
{
  ck_assert (g_file_set_contents (path, text, -1, NULL));
}

static void
ck_keys (char *const *keys, const char *expected)
{
  g_autofree char *joined = g_strjoinv (" ", (char **) keys);

  ck_assert_str_eq (joined, expected);
}

/* With an override. */
static void
ck_refused (const char *override, const char *problem)
{
  const char *const overrides[] = { override, NULL };
  g_autofree char *error = NULL;

  ck_assert_ptr_null (device_config_read ("isw0", NULL, overrides, &error));
  ck_assert_str_eq (error, problem);
}

START_TEST (nothing_given)
{
  char *error = NULL;
  struct device_config *c = device_config_read ("isw0", NULL, NULL, &error);

  ck_assert_ptr_nonnull (c);
  ck_assert_str_eq (c->name, "isw0");
  ck_assert_int_eq (c->index, -1);
  ck_assert_uint_eq (c->connections,
                     CLAMP (g_get_num_processors () / 2, 1, 4));
  ck_assert_uint_eq (c->threads, 4);
  ck_assert_uint_eq (c->dead_timeout_s, 60);
  ck_assert (c->swap);
  ck_assert_uint_eq (c->priority, 100);
  ck_assert (!c->discard);
  ck_assert_uint_eq (c->allow, 0);
  ck_keys (c->plugin_keys, "");
  ck_keys (c->strings, "");
  device_config_free (c);
}
END_TEST

START_TEST (own_keys_and_the_plugins)
{
  const char *const overrides[] = { "priority=7", "size=2G", NULL };
  char *error = NULL;
  struct device_config *c;

  write_file ("# a comment\n[device]\nsize=1G\ndonors=a:1,b:2\n"
              "device=/dev/nbd3\nconnections=2\ndead-timeout=1m\nswap=yes\n"
              "priority=5\ndiscard=yes\nallow=lock,donors\nlock=try\n");
  c = device_config_read ("isw0", path, overrides, &error);
  ck_assert_ptr_nonnull (c);
  ck_assert_int_eq (c->index, 3);
  ck_assert_uint_eq (c->connections, 2);
  ck_assert_uint_eq (c->dead_timeout_s, 60);
  ck_assert_uint_eq (c->priority, 7);
  ck_assert (c->discard);
  ck_assert_uint_eq (c->allow, ALLOW_LOCK | ALLOW_DONORS);
  ck_keys (c->plugin_keys, "donors=a:1,b:2 lock=try size=2G");
  ck_keys (c->strings, "allow=lock,donors connections=2 dead-timeout=1m "
           "device=/dev/nbd3 discard=yes donors=a:1,b:2 lock=try priority=7 "
           "size=2G swap=yes");
  device_config_free (c);
}
END_TEST

/* It is the same file wherever the server runs. */
START_TEST (files_get_whole_paths)
{
  const char *const overrides[] = { "backing=copy", NULL };
  g_autofree char *here = g_get_current_dir ();
  g_autofree char *expected = g_strdup_printf ("backing=%s/copy", here);
  char *error = NULL;
  struct device_config *c = device_config_read ("isw0", NULL, overrides,
                                                &error);

  ck_assert_ptr_nonnull (c);
  ck_keys (c->plugin_keys, expected);
  device_config_free (c);
}
END_TEST

START_TEST (mistakes_in_the_file_are_located)
{
  g_autofree char *error = NULL, *expected = NULL;

  write_file ("[device]\nsize=1G\n\npriority=32768\n");
  ck_assert_ptr_null (device_config_read ("isw0", path, NULL, &error));
  expected = g_strdup_printf ("%s, line 4: priority=32768: must be a number "
                              "from 0 to 32767", path);
  ck_assert_str_eq (error, expected);
}
END_TEST

START_TEST (no_file)
{
  g_autofree char *error = NULL;

  ck_assert_ptr_null (device_config_read ("isw0", path, NULL, &error));
  ck_assert_ptr_nonnull (strstr (error, path));
}
END_TEST

START_TEST (mistakes_in_overrides)
{
  ck_refused ("priority", "\"priority\" is not KEY=VALUE");
  ck_refused ("device=/dev/sda", "device=/dev/sda: must be a device such as "
              "/dev/nbd0");
  ck_refused ("device=/dev/nbd", "device=/dev/nbd: must be a device such as "
              "/dev/nbd0");
  ck_refused ("connections=0", "connections=0: must be a number from 1 to "
              "64");
  ck_refused ("threads=65", "threads=65: must be a number from 1 to 64");
  ck_refused ("dead-timeout=1500ms", "dead-timeout=1500ms: must be whole "
              "seconds from 1s to 1h");
  ck_refused ("swap=maybe", "swap=maybe: must be yes or no");
  ck_refused ("discard=", "discard=: must be yes or no");
  ck_refused ("allow=lock,all", "allow=lock,all: must be none, or some of "
              "lock,oom,cgroup,donors");
  ck_refused ("allow=", "allow=: must be none, or some of "
              "lock,oom,cgroup,donors");
  ck_refused ("state=/tmp/x", "state=/tmp/x: attach sets this key itself; "
              "leave it out");
  ck_refused ("lock=try", "lock=try: must be require, unless there is "
              "allow=lock");
}
END_TEST

/* What nbdkit would take for something else than a key. */
START_TEST (no_keys)
{
  ck_refused ("--run=reboot", "--run=reboot: this is no key; see "
              "infiniswapctl(1)");
  ck_refused ("=x", "=x: this is no key; see infiniswapctl(1)");
  ck_refused ("/etc/passwd=x", "/etc/passwd=x: this is no key; see "
              "infiniswapctl(1)");
}
END_TEST

START_TEST (names)
{
  ck_assert (device_config_check_name ("isw0"));
  ck_assert (device_config_check_name ("a.b-c_D9"));
  ck_assert (!device_config_check_name (""));
  ck_assert (!device_config_check_name (".."));
  ck_assert (!device_config_check_name ("-x"));
  ck_assert (!device_config_check_name ("a/b"));
  ck_assert (!device_config_check_name ("a b"));
  ck_assert (device_config_check_name ("12345678901234567890123456789012"));
  ck_assert (!device_config_check_name ("123456789012345678901234567890123"));
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("device_config");
  TCase *tc = tcase_create ("device_config");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_add_checked_fixture (tc, set_up, tear_down);
  tcase_add_test (tc, nothing_given);
  tcase_add_test (tc, own_keys_and_the_plugins);
  tcase_add_test (tc, files_get_whole_paths);
  tcase_add_test (tc, mistakes_in_the_file_are_located);
  tcase_add_test (tc, no_file);
  tcase_add_test (tc, mistakes_in_overrides);
  tcase_add_test (tc, no_keys);
  tcase_add_test (tc, names);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_ENV);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
