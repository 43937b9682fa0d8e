/* The promises of fabric.h as tests, for any implementation.
 *
 * Both ends play in one process.  Every test runs in a process of its
 * own (Check forks) and leaves no descriptor open.
 */

#ifndef ISW_CONFORMANCE_H
#define ISW_CONFORMANCE_H

#include <check.h>

#include "fabric/fabric.h"

/* The tests over `ops`, listening on free ports of `host`, a numeric
 * address of this machine ("127.0.0.1").  One suite at a time: the
 * tests have no other way to be told what they run on.
 */
Suite *conformance_suite (const struct fabric_ops *ops, const char *host);

/* Run a suite, with whatever cases were added to it, and print Check's
 * summary.  Returns main's exit status.
 */
int conformance_run (Suite *suite);

#endif /* ISW_CONFORMANCE_H */
