#include "suite.h"

enum { TIMEOUT_S = 120 };       /* valgrind is slow */

static int
run (Suite *s)
{
  SRunner *r = srunner_create (s);
  int failed;

  srunner_run_all (r, CK_NORMAL);
  failed = srunner_ntests_failed (r);
  srunner_free (r);
  return failed != 0;
}

static void
add (Suite *s, TCase *c)
{
  tcase_set_timeout (c, TIMEOUT_S);
  suite_add_tcase (s, c);
}

int
suite_run (const char *name, TCase *c)
{
  Suite *s = suite_create (name);

  add (s, c);
  return run (s);
}

int
suite_run_both (const char *name, TCase *c, TCase *more)
{
  Suite *s = suite_create (name);

  add (s, c);
  add (s, more);
  return run (s);
}
