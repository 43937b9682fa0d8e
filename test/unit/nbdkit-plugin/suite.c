#include "suite.h"

enum { TIMEOUT_S = 120 };       /* valgrind is slow */

int
suite_run (const char *name, TCase *c)
{
  Suite *s = suite_create (name);
  SRunner *r = srunner_create (s);
  int failed;

  tcase_set_timeout (c, TIMEOUT_S);
  suite_add_tcase (s, c);
  srunner_run_all (r, CK_NORMAL);
  failed = srunner_ntests_failed (r);
  srunner_free (r);
  return failed != 0;
}
