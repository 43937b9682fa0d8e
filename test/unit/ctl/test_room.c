/* Whether what is swapped out fits back, from made-up files of the kernel. */

#include <check.h>
#include <glib/gstdio.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/room.h"

static const uint64_t mib = 1 << 20;

static char *folder;
static struct room_paths paths;

static void
put (const char *name, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));

static void
put (const char *name, const char *format, ...)
{
  g_autofree char *path = g_build_filename (folder, name, NULL);
  g_autofree char *parent = g_path_get_dirname (path);
  g_autofree char *text = NULL;
  va_list args;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  ck_assert_int_eq (g_mkdir_with_parents (parent, 0700), 0);
  ck_assert (g_file_set_contents (path, text, -1, NULL));
}

static void
put_swap (unsigned used_mib, unsigned other_free_mib)
{
  put ("swaps", "Filename\tType\tSize\tUsed\tPriority\n"
       "/dev/nbd0   partition\t1048576\t%u\t100\n"
       "/swap\\040file  file\t%u\t1024\t-2\n", used_mib * 1024,
       (other_free_mib + 1) * 1024);
}

static void
put_memory (unsigned total_mib, unsigned available_mib)
{
  put ("meminfo", "MemTotal: %u kB\nMemFree: 5 kB\nMemAvailable: %u kB\n",
       total_mib * 1024, available_mib * 1024);
}

static void
put_cgroup (const char *name, unsigned max_mib, unsigned current_mib,
            unsigned swapped_mib)
{
  const struct { const char *file; unsigned mib; } files[] = {
    { "memory.max", max_mib }, { "memory.current", current_mib },
    { "memory.swap.current", swapped_mib },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (files); i++) {
    g_autofree char *path = g_build_filename ("cgroups", name, files[i].file,
                                              NULL);

    put (path, "%llu\n", (unsigned long long) (files[i].mib * mib));
  }
}

static void
set_up (void)
{
  folder = g_dir_make_tmp ("room-XXXXXX", NULL);
  paths = (struct room_paths) {
    .swaps = g_build_filename (folder, "swaps", NULL),
    .meminfo = g_build_filename (folder, "meminfo", NULL),
    .cgroups = g_build_filename (folder, "cgroups", NULL),
  };
  put_swap (100, 0);
  put_memory (640, 200);
}

static void
tear_down (void)
{
  const char *argv[] = { "rm", "-rf", folder, NULL };

  ck_assert (g_spawn_sync (NULL, (char **) argv, NULL, G_SPAWN_SEARCH_PATH,
                           NULL, NULL, NULL, NULL, NULL, NULL));
  g_free ((char *) paths.swaps);
  g_free ((char *) paths.meminfo);
  g_free ((char *) paths.cgroups);
  g_free (folder);
}

static void
ck_room (const char *problem)
{
  g_autofree char *text = room_check (&paths, "/dev/nbd0");

  if (problem == NULL)
    ck_assert_ptr_null (text);
  else {
    ck_assert_ptr_nonnull (text);
    ck_assert_ptr_nonnull (strstr (text, problem));
  }
}

START_TEST (the_area_and_the_others)
{
  struct room_swap swap;

  put_swap (100, 50);
  ck_assert_int_eq (room_get_swap (&paths, "/dev/nbd0", &swap), 0);
  ck_assert (swap.active);
  ck_assert_int_eq (swap.priority, 100);
  ck_assert_uint_eq (swap.size_bytes, 1024 * mib);
  ck_assert_uint_eq (swap.used_bytes, 100 * mib);
  ck_assert_uint_eq (swap.others_free_bytes, 50 * mib);

  ck_assert_int_eq (room_get_swap (&paths, "/swap file", &swap), 0);
  ck_assert_int_eq (swap.priority, -2);
  ck_assert_uint_eq (swap.used_bytes, mib);

  ck_assert_int_eq (room_get_swap (&paths, "/dev/nbd1", &swap), 0);
  ck_assert (!swap.active);
}
END_TEST

/* 10 of the 640 MiB are the reserve. */
START_TEST (memory)
{
  ck_room (NULL);
  put_memory (640, 110);
  ck_room (NULL);
  put_memory (640, 109);
  ck_room ("100M are swapped out on /dev/nbd0, but only 109M of memory are "
           "available (less 10M in reserve) and 0M of other swap free");
  put_swap (100, 1);
  ck_room (NULL);
  put_memory (640, 5);
  ck_room ("5M of memory");
  put_swap (0, 0);
  ck_room (NULL);
}
END_TEST

START_TEST (a_limit_of_a_cgroup)
{
  put_cgroup ("a", 50, 40, 10);
  put_cgroup ("b/inner", 50, 40, 10);
  ck_room (NULL);
  put_cgroup ("b/inner", 50, 40, 11);
  ck_room ("b/inner has up to 11M swapped out, which its memory.max of 50M "
           "has no room for");
  /* What files take can be dropped. */
  put ("cgroups/b/inner/memory.stat", "active_file 524288\n"
       "inactive_file 524288\n");
  ck_room (NULL);
  /* No more than all that is out there can come back. */
  put_cgroup ("b/inner", 150, 40, 1000);
  ck_room (NULL);
}
END_TEST

START_TEST (no_limit)
{
  put_cgroup ("a", 50, 40, 100);
  put ("cgroups/a/memory.max", "max\n");
  ck_room (NULL);
}
END_TEST

START_TEST (what_cannot_be_read)
{
  put ("meminfo", "MemTotal: 5 kB\n");
  ck_room ("cannot read");
  g_unlink (paths.swaps);
  ck_room ("cannot read");
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("room");
  TCase *tc = tcase_create ("room");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_add_checked_fixture (tc, set_up, tear_down);
  tcase_add_test (tc, the_area_and_the_others);
  tcase_add_test (tc, memory);
  tcase_add_test (tc, a_limit_of_a_cgroup);
  tcase_add_test (tc, no_limit);
  tcase_add_test (tc, what_cannot_be_read);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_ENV);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
