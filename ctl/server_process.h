/* The nbdkit process that serves a device. */

#ifndef ISW_CTL_SERVER_PROCESS_H
#define ISW_CTL_SERVER_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

#include "ctl/runtime.h"

struct server_process {
  struct runtime_process id;    /* pid 0: none */
  int pidfd;                    /* readable once it has ended; -1: none */
  int log_fd;                   /* what it says; -1: nobody listens */
  GString *said;                /* of that, what is no whole line yet */
};

struct server_params {
  const char *plugin;           /* its name or path */
  const char *socket;           /* Unix sockets: for NBD, */
  const char *state;            /* and for infiniswapctl */
  uint64_t threads;             /* for each connection */
  bool lock;                    /* refuse to start unless memory is locked */
  char *const *keys;            /* "KEY=VALUE"; ends with NULL */
};

void server_process_init (struct server_process *s);
/* Leaves the process alone. */
void server_process_clear (struct server_process *s);

/* Of what nbdkit has said, the first error, without what stands before it
 * ("nbdkit: error: "); or the first line, where there is none.  Newly
 * allocated.
 */
char *server_process_first_error (const char *said);

/* Have nbdkit check the keys; nothing is started or left.  false with a
 * newly allocated line in *error.
 */
bool server_process_check (const struct server_params *params, char **error);

/* Start it, in a session of its own, where no signal of a terminal gets to
 * it.  It does not end with its parent, and never waits for anybody to read
 * what it says.  false with *error; true says only that it runs.
 */
bool server_process_start (struct server_process *s,
                           const struct server_params *params, char **error);
/* One that another process has started; false if it is no more. */
bool server_process_adopt (struct server_process *s,
                           const struct runtime_process *id);

/* It has not ended. */
bool server_process_runs (const struct server_process *s);

/* Pass on each whole line that it has said meanwhile; does not block. */
void server_process_read_log (struct server_process *s,
                              void (*line) (const char *text, void *data),
                              void *data);

/* Ask it to end; it first writes everything to the local copy. */
void server_process_end (const struct server_process *s);
void server_process_kill (const struct server_process *s);
/* Wait until it has ended, at most so long; -1: for ever.  false then. */
bool server_process_await (const struct server_process *s, int timeout_ms);

/* After it has ended: how, newly allocated ("exit status 1", "signal 9", or
 * "" if it was not our child), *clean as in status 0; forget it.
 */
char *server_process_reap (struct server_process *s, bool *clean);

#endif /* ISW_CTL_SERVER_PROCESS_H */
