/* Protecting the processes that swap depends on from the lack of memory
 * that makes swap needed.
 */

#ifndef ISW_CTL_PROTECTION_H
#define ISW_CTL_PROTECTION_H

#include <stdbool.h>
#include <stdint.h>

/* What of this is missing is an error, or with allow (ALLOW_* in
 * device_config.h) a warning:
 *
 * - no cgroup that this process is in, and so the server will be, may have
 *   a memory limit: at the limit the kernel reclaims from the server itself,
 *   or stops it (ALLOW_CGROUP);
 * - the OOM killer must not choose it or what it starts (ALLOW_OOM);
 * - its memory is locked, and it may do I/O for others' reclaim
 *   (ALLOW_LOCK; the server locks its own).
 *
 * Call it in the process that stays.  Memory is locked as it is used first,
 * which spares what the libraries have and nobody needs: do all that must
 * work later once, after this.  false with a newly allocated line in *error.
 */
bool protection_apply (unsigned allow, char **error);

/* The limit that is in the way, as a newly allocated line; NULL if none is:
 * one that is no lower than total_bytes limits nothing.  The paths are
 * /proc/self/cgroup and /proc/self/mountinfo, or a test's own.
 */
char *protection_check_cgroup (const char *self_path,
                               const char *mountinfo_path,
                               uint64_t total_bytes);

#endif /* ISW_CTL_PROTECTION_H */
