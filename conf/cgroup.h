/* What the cgroups (version 2) that this process is in let it have: its
 * own and every one above.
 */

#ifndef ISW_CGROUP_H
#define ISW_CGROUP_H

#include <stdint.h>

struct cgroup;

struct cgroup_memory {
  uint64_t limit_bytes;         /* the lowest of memory.max, memory.high */
  uint64_t available_bytes;     /* the least that is left in one of them */
};

/* self_path is /proc/self/cgroup, which outlives the object, and
 * mountinfo_path /proc/self/mountinfo, or a test's own.  NULL where no
 * cgroup2 is mounted.
 */
struct cgroup *cgroup_new (const char *self_path,
                           const char *mountinfo_path);
void cgroup_free (struct cgroup *c);

/* UINT64_MAX in both where there is no limit, or c is NULL.  File pages
 * are available, as they can be reclaimed.  -errno of reading a file,
 * -EBADMSG for a malformed one.
 */
int cgroup_get_memory (const struct cgroup *c, struct cgroup_memory *ret);

#endif /* ISW_CGROUP_H */
