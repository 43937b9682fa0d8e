#ifndef TEST_SUITE_H
#define TEST_SUITE_H

#include <check.h>

/* Run the tests of c as a suite of that name: the program's status. */
int suite_run (const char *name, TCase *c);
/* Those of both. */
int suite_run_both (const char *name, TCase *c, TCase *more);

#endif /* TEST_SUITE_H */
