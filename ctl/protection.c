#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <glib.h>

#include "conf/cgroup.h"
#include "conf/memory_lock.h"
#include "conf/units.h"
#include "ctl/device_config.h"
#include "ctl/protection.h"
#include "ctl/report.h"

char *
protection_check_cgroup (const char *self_path, const char *mountinfo_path,
                         uint64_t total_bytes)
{
  struct cgroup *cgroup = cgroup_new (self_path, mountinfo_path);
  struct cgroup_memory memory;
  char text[UNITS_TEXT_MAX];
  int r = cgroup_get_memory (cgroup, &memory);

  cgroup_free (cgroup);
  if (r < 0)
    return g_strdup_printf ("cannot read the limits of this cgroup: %s",
                            g_strerror (-r));
  if (memory.limit_bytes >= total_bytes)
    return NULL;
  return g_strdup_printf ("this runs in a cgroup with a memory limit of %s "
                          "(memory.max or memory.high, its own or one above),"
                          " at which the kernel would reclaim from the server"
                          " of the swap itself; run it in one without",
                          units_format_size (memory.limit_bytes, text));
}

static char *
check_own_cgroup (void)
{
  const uint64_t pages = sysconf (_SC_PHYS_PAGES);

  return protection_check_cgroup ("/proc/self/cgroup",
                                  "/proc/self/mountinfo",
                                  pages * sysconf (_SC_PAGESIZE));
}

/* Inherited by what it starts. */
static char *
hide_from_oom_killer (void)
{
  static const char score[] = "-1000";
  int fd = open ("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  bool ok = fd != -1 && write (fd, score, strlen (score)) > 0;
  int e = errno;

  if (fd != -1)
    close (fd);
  return ok ? NULL :
    g_strdup_printf ("cannot set oom_score_adj to %s: %s (give "
                     "CAP_SYS_RESOURCE)", score, g_strerror (e));
}

static char *
lock_memory (void)
{
  struct memory_lock_result result = { .mode = MEMORY_LOCK_REQUIRE };

  if (mlockall (MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == -1)
    result.mlock_error = -errno;
  if (prctl (PR_SET_IO_FLUSHER, 1, 0, 0, 0) == -1)
    result.flusher_error = -errno;
  return memory_lock_explain (&result);
}

static bool
judge (char *problem, bool allowed, const char *name, char **error)
{
  g_autofree char *text = problem;

  if (text == NULL)
    return true;
  if (allowed) {
    report (LOG_WARNING, "%s", text);
    return true;
  }
  *error = g_strdup_printf ("%s; or say allow=%s", text, name);
  return false;
}

bool
protection_apply (unsigned allow, char **error)
{
  return judge (check_own_cgroup (), allow & ALLOW_CGROUP, "cgroup", error)
    && judge (hide_from_oom_killer (), allow & ALLOW_OOM, "oom", error)
    && judge (lock_memory (), allow & ALLOW_LOCK, "lock", error);
}
