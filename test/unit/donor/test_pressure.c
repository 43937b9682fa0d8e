/* Watching for tasks that stall for memory.  This program's own open
 * puts a socket in the kernel's place: urgent data is its event.
 */

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "donor/pressure.h"

static int kernel, trigger;     /* the two ends */
static unsigned stalls;
static GMainContext *context;

int
open (const char *path, int flags, ...)
{
  va_list args;
  int mode;

  if (strcmp (path, "pressure") == 0) {
    ck_assert_int_eq (flags & O_ACCMODE, O_RDWR);
    return trigger;
  }
  va_start (args, flags);
  mode = flags & O_CREAT ? va_arg (args, int) : 0;
  va_end (args);
  return syscall (SYS_openat, AT_FDCWD, path, flags, mode);
}

static void
set_up (void)
{
  struct sockaddr_in address = { .sin_family = AF_INET,
                                 .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
  socklen_t len = sizeof address;
  const int listener = socket (AF_INET, SOCK_STREAM, 0);

  ck_assert_int_eq (bind (listener, (struct sockaddr *) &address, len), 0);
  ck_assert_int_eq (listen (listener, 1), 0);
  getsockname (listener, (struct sockaddr *) &address, &len);
  trigger = socket (AF_INET, SOCK_STREAM, 0);
  ck_assert_int_eq (connect (trigger, (struct sockaddr *) &address, len), 0);
  kernel = accept (listener, NULL, NULL);
  ck_assert_int_ge (kernel, 0);
  close (listener);
  stalls = 0;
  context = g_main_context_new ();
}

static void
tear_down (void)
{
  close (kernel);
  g_main_context_unref (context);
}

/* Takes the event, as the kernel's poll does. */
static void
stalled (void *data)
{
  char c;

  ck_assert_ptr_eq (data, &stalls);
  ck_assert_int_eq (recv (trigger, &c, 1, MSG_OOB), 1);
  stalls++;
}

START_TEST (sets_a_trigger_and_tells_its_events)
{
  static const char wanted[] = "some 150000 1000000";
  struct pressure *p;
  char text[64];

  ck_assert_int_eq (pressure_new ("pressure", context, stalled, &stalls, &p),
                    0);
  ck_assert_int_eq (read (kernel, text, sizeof text), sizeof wanted);
  ck_assert_str_eq (text, wanted);
  for (unsigned i = 0; i < 3; i++) {
    ck_assert_int_eq (send (kernel, "!", 1, MSG_OOB), 1);
    while (stalls == i)
      g_main_context_iteration (context, TRUE);
  }
  ck_assert_uint_eq (stalls, 3);

  /* What is no event is none. */
  ck_assert_int_eq (send (kernel, "?", 1, 0), 1);
  while (g_main_context_iteration (context, FALSE))
    ;
  ck_assert_uint_eq (stalls, 3);
  pressure_free (p);
}
END_TEST

/* A descriptor in error is always ready: it must not be asked for ever. */
START_TEST (an_error_ends_it)
{
  const struct linger at_once = { .l_onoff = 1 };
  struct pressure *p;
  unsigned turns = 0;

  ck_assert_int_eq (pressure_new ("pressure", context, stalled, &stalls, &p),
                    0);
  setsockopt (kernel, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close (kernel);
  g_main_context_iteration (context, TRUE);
  while (g_main_context_iteration (context, FALSE))
    ck_assert_uint_lt (turns++, 10);
  ck_assert_uint_eq (stalls, 0);
  pressure_free (p);
  kernel = -1;
}
END_TEST

START_TEST (refusals_are_told)
{
  struct pressure *p = NULL;

  ck_assert_int_eq (pressure_new ("/nonexistent", context, stalled, &stalls,
                                  &p), -ENOENT);
  ck_assert_int_eq (pressure_new ("/dev/full", context, stalled, &stalls, &p),
                    -ENOSPC);
  ck_assert_ptr_null (p);
  pressure_free (p);
  close (trigger);
}
END_TEST

/* Whatever this kernel has and allows. */
START_TEST (the_real_one)
{
  struct pressure *p = NULL;
  const int r = pressure_new ("/proc/pressure/memory", context, stalled,
                              &stalls, &p);

  ck_assert_int_eq (r == 0, p != NULL);
  pressure_free (p);
  close (trigger);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("pressure");
  TCase *tc = tcase_create ("pressure");
  SRunner *sr;
  int failed;

  tcase_add_checked_fixture (tc, set_up, tear_down);
  tcase_add_test (tc, sets_a_trigger_and_tells_its_events);
  tcase_add_test (tc, an_error_ends_it);
  tcase_add_test (tc, refusals_are_told);
  tcase_add_test (tc, the_real_one);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
