/* The files of one device in /run/infiniswap while it is attached.
 *
 * NAME.pid is locked by the supervisor and holds a record of what it has
 * started, so that another can take over where that one was killed.  The
 * lock tells a record that is in force from a stale one.
 */

#ifndef ISW_CTL_RUNTIME_H
#define ISW_CTL_RUNTIME_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define RUNTIME_FOLDER "/run/infiniswap"

struct runtime {
  char *folder;
  char *pid_path;               /* the record, and the lock */
  char *state_path;             /* the plugin's socket for infiniswapctl */
  char *nbd_path;               /* nbdkit's socket */
  char *control_path;           /* the supervisor's socket */
  int lock_fd;                  /* -1: not ours */
};

/* A process, told from a later one that got the same number. */
struct runtime_process {
  pid_t pid;                    /* 0: none */
  uint64_t start;               /* ticks since boot, as in /proc/PID/stat */
};

struct runtime_record {
  struct runtime_process server;
  int index;                    /* of /dev/nbdN; -1: none yet */
  char *plugin;                 /* as given with --plugin */
  char **config;                /* "KEY=VALUE"; ends with NULL */
};

void runtime_init (struct runtime *r, const char *folder, const char *name);
/* Lets the lock go, if it is ours; leaves the files. */
void runtime_clear (struct runtime *r);

/* Take the lock, making folder and file if need be.  0; -EBUSY if a
 * supervisor has it; another -errno with a newly allocated *error.
 */
int runtime_lock (struct runtime *r, char **error);
/* Is there a record at all, be it stale?  Needs no lock. */
bool runtime_exists (const struct runtime *r);

/* With the lock.  What was written last; false if there is nothing whole.
 * The record is for runtime_record_clear then.
 */
bool runtime_read (const struct runtime *r, struct runtime_record *ret);
/* 0 or -errno. */
int runtime_write (const struct runtime *r,
                   const struct runtime_record *record);
void runtime_record_clear (struct runtime_record *record);

/* With the lock: remove the files and let the lock go. */
void runtime_remove (struct runtime *r);

/* When it started; false if there is no such process. */
bool runtime_process_start (pid_t pid, uint64_t *ret);
/* Is it still that process, and not dead? */
bool runtime_process_alive (const struct runtime_process *p);

#endif /* ISW_CTL_RUNTIME_H */
