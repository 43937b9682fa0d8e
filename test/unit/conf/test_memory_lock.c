/* Locking memory: what is asked for, and what a failure says. */

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <glib.h>

#include "conf/memory_lock.h"

#if defined (__SANITIZE_ADDRESS__) || defined (__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined (__has_feature)
#if __has_feature (address_sanitizer) || __has_feature (thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { NOBODY = 65534 };

static bool
skipped_when_sanitized (const char *test)
{
  if (SANITIZED)
    printf ("%s: skipped: the sanitizers make mlockall do nothing\n", test);
  return SANITIZED;
}

START_TEST (modes)
{
  static const char *const bad[] = { "", "NO", "Try", "yes", "1", "0",
    "require ", " try", "tr", "tryy", "no\n", "off" };
  static const char *const good[] = { "no", "try", "require" };
  enum memory_lock_mode mode;

  for (size_t i = 0; i < G_N_ELEMENTS (good); i++) {
    ck_assert_int_eq (memory_lock_parse (good[i], &mode), 0);
    ck_assert_int_eq (mode, i);
    ck_assert_str_eq (memory_lock_mode_name (mode), good[i]);
  }
  mode = MEMORY_LOCK_TRY;
  for (size_t i = 0; i < G_N_ELEMENTS (bad); i++) {
    ck_assert_int_eq (memory_lock_parse (bad[i], &mode), -EINVAL);
    ck_assert_int_eq (mode, MEMORY_LOCK_TRY);
  }
}
END_TEST

START_TEST (no_tries_nothing)
{
  struct memory_lock_result r = { MEMORY_LOCK_REQUIRE, -1, -1 };
  unsigned long long before = memory_locked_bytes ();

  ck_assert (memory_lock (MEMORY_LOCK_NO, true, &r));
  ck_assert_int_eq (r.mode, MEMORY_LOCK_NO);
  ck_assert_int_eq (r.mlock_error, 0);
  ck_assert_int_eq (r.flusher_error, 0);
  ck_assert_uint_eq (memory_locked_bytes (), before);
  ck_assert_ptr_null (memory_lock_explain (&r));
}
END_TEST

START_TEST (failures_say_what_and_the_remedy)
{
  struct memory_lock_result r = { MEMORY_LOCK_TRY, -EPERM, 0 };
  g_autofree char *mlock_text = memory_lock_explain (&r);
  g_autofree char *flusher_text = NULL;
  g_autofree char *old_text = NULL;
  g_autofree char *both_text = NULL;

  ck_assert_str_eq (mlock_text, "cannot lock memory: Operation not permitted "
                    "(raise RLIMIT_MEMLOCK, ulimit -l, or give "
                    "CAP_IPC_LOCK)");
  r = (struct memory_lock_result) { MEMORY_LOCK_TRY, 0, -EPERM };
  flusher_text = memory_lock_explain (&r);
  ck_assert_ptr_null (strstr (flusher_text, "cannot lock"));
  ck_assert_ptr_nonnull (strstr (flusher_text, "CAP_SYS_RESOURCE"));
  r.flusher_error = -EINVAL;
  old_text = memory_lock_explain (&r);
  ck_assert_ptr_nonnull (strstr (old_text, "Linux 5.6"));
  r.mlock_error = -ENOMEM;
  both_text = memory_lock_explain (&r);
  ck_assert_ptr_nonnull (strstr (both_text, "memory: Cannot allocate"));
  ck_assert_ptr_nonnull (strstr (both_text, "; cannot set"));
  ck_assert_ptr_null (strchr (both_text, '\n'));
}
END_TEST

/* Run check in a child and pass on what it exits with. */
static int
in_child (int (*check) (void))
{
  pid_t pid = fork ();
  int status;

  ck_assert_int_ge (pid, 0);
  if (pid == 0)
    _exit (check ());
  ck_assert_int_eq (waitpid (pid, &status, 0), pid);
  ck_assert (WIFEXITED (status));
  return WEXITSTATUS (status);
}

static int
lock_without_rights (void)
{
  const struct rlimit tiny = { 65536, 65536 };
  struct memory_lock_result r;
  g_autofree char *text = NULL;

  if (setrlimit (RLIMIT_MEMLOCK, &tiny) == -1)
    return 1;
  if (geteuid () == 0 && setuid (NOBODY) == -1)
    return 2;
  if (memory_lock (MEMORY_LOCK_REQUIRE, true, &r) || r.mlock_error == 0)
    return 3;
  if (memory_locked_bytes () != 0)
    return 4;
  text = memory_lock_explain (&r);
  if (text == NULL || strstr (text, "RLIMIT_MEMLOCK") == NULL)
    return 5;
  if (!memory_lock (MEMORY_LOCK_TRY, true, &r) || r.mlock_error == 0)
    return 6;
  return 0;
}

START_TEST (require_fails_where_locking_is_not_allowed)
{
  if (!skipped_when_sanitized (__func__))
    ck_assert_int_eq (in_child (lock_without_rights), 0);
}
END_TEST

/* 77 where this user may not lock memory at all. */
static int
lock_and_grow (void)
{
  enum { GROWTH = 8 << 20 };
  struct memory_lock_result r;
  unsigned long long before;
  void *memory;

  if (!memory_lock (MEMORY_LOCK_TRY, false, &r))
    return 1;
  if (r.mlock_error != 0)
    return 77;
  if (r.flusher_error != 0 || r.mode != MEMORY_LOCK_TRY)
    return 2;
  before = memory_locked_bytes ();
  memory = mmap (NULL, GROWTH, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (before == 0 || memory == MAP_FAILED ||
      memory_locked_bytes () < before + GROWTH)
    return 3;
  return 0;
}

START_TEST (locks_what_is_there_and_what_comes)
{
  int r = skipped_when_sanitized (__func__) ? 0 : in_child (lock_and_grow);

  if (r == 77)
    printf ("locks_what_is_there_and_what_comes: skipped: this user may not "
            "lock memory (ulimit -l)\n");
  else
    ck_assert_int_eq (r, 0);
}
END_TEST

static int
raise_soft_limit (void)
{
  struct memory_lock_result r;
  struct rlimit limit;

  if (getrlimit (RLIMIT_MEMLOCK, &limit) == -1)
    return 1;
  limit.rlim_cur = 0;
  if (setrlimit (RLIMIT_MEMLOCK, &limit) == -1 ||
      (geteuid () == 0 && setuid (NOBODY) == -1))
    return 2;
  memory_lock (MEMORY_LOCK_TRY, false, &r);
  if (getrlimit (RLIMIT_MEMLOCK, &limit) == -1 ||
      limit.rlim_cur != limit.rlim_max)
    return 3;
  return 0;
}

START_TEST (soft_limit_is_raised_first)
{
  ck_assert_int_eq (in_child (raise_soft_limit), 0);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("memory_lock");
  TCase *tc = tcase_create ("memory_lock");
  SRunner *runner = srunner_create (suite);
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_test (tc, modes);
  tcase_add_test (tc, no_tries_nothing);
  tcase_add_test (tc, failures_say_what_and_the_remedy);
  tcase_add_test (tc, require_fails_where_locking_is_not_allowed);
  tcase_add_test (tc, locks_what_is_there_and_what_comes);
  tcase_add_test (tc, soft_limit_is_raised_first);
  suite_add_tcase (suite, tc);
  srunner_run_all (runner, CK_NORMAL);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
