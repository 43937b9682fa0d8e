/* Keeping a process out of reclaim: memory locked, and marked for the
 * kernel as part of the path that writes pages out.
 */

#ifndef ISW_MEMORY_LOCK_H
#define ISW_MEMORY_LOCK_H

#include <stdbool.h>

enum memory_lock_mode { MEMORY_LOCK_NO, MEMORY_LOCK_TRY, MEMORY_LOCK_REQUIRE };

struct memory_lock_result {
  enum memory_lock_mode mode;
  int mlock_error;              /* 0 or -errno of mlockall */
  int flusher_error;            /* 0 or -errno of PR_SET_IO_FLUSHER */
};

/* "no", "try", "require"; -EINVAL for anything else. */
int memory_lock_parse (const char *text, enum memory_lock_mode *ret);
const char *memory_lock_mode_name (enum memory_lock_mode mode);

/* Lock all present and future memory; with io_flusher also set
 * PR_SET_IO_FLUSHER for the calling thread and those it starts later.
 * Tries nothing if the mode is NO.  Fills in *ret; returns false only
 * where the mode is REQUIRE and something failed.  Call it after the
 * last fork.
 */
bool memory_lock (enum memory_lock_mode mode, bool io_flusher,
                  struct memory_lock_result *ret);

/* One line, newly allocated, that says what failed and the remedy (as
 * "cannot lock memory: Operation not permitted (raise RLIMIT_MEMLOCK,
 * ulimit -l, or give CAP_IPC_LOCK)"); NULL if nothing did.
 */
char *memory_lock_explain (const struct memory_lock_result *r);

/* VmLck of this process in bytes, 0 if unknown. */
unsigned long long memory_locked_bytes (void);

#endif /* ISW_MEMORY_LOCK_H */
