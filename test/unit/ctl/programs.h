/* Programs behind state sockets, and a command that is run on them. */

#ifndef TEST_PROGRAMS_H
#define TEST_PROGRAMS_H

#include <stdio.h>

#include "conf/state_socket.h"

/* A folder for their sockets, gone after programs_teardown; what else is
 * put there is the test's to remove.
 */
void programs_setup (void);
void programs_teardown (void);
const char *programs_folder (void);

/* One more, whose answers are this handler's; returns its socket's path,
 * which lives as long.
 */
char *programs_add (const char *name, state_socket_handler answer,
                    void *data);

struct outcome {
  int status;
  char *out, *err;              /* what it printed */
};

/* Runs the command; meanwhile, and only then, a thread answers for the
 * programs.
 */
struct outcome programs_run (int (*command) (const void *options, FILE *out,
                                             FILE *err),
                             const void *options);
void outcome_free (struct outcome *r);

#endif /* TEST_PROGRAMS_H */
