#include <errno.h>
#include <string.h>

#include "conf/kernel_file.h"
#include "donor/memory_monitor.h"
#include "placement/activity.h"
#include "placement/headroom.h"

/* "MemTotal:       16384 kB\n" */
static int
get_field (const char *text, const char *label, uint64_t *ret_bytes)
{
  const char *value = kernel_file_find (text, label), *unit;
  uint64_t kilobytes;

  if (value == NULL)
    return -ENOENT;
  if (kernel_file_number (value, &kilobytes, &unit) < 0
      || kilobytes > UINT64_MAX / 1024)
    return -EBADMSG;
  unit += strspn (unit, " \t");
  if (strncmp (unit, "kB", 2) != 0 || (unit[2] != '\n' && unit[2] != '\0'))
    return -EBADMSG;
  *ret_bytes = kilobytes * 1024;
  return 0;
}

void
memory_monitor_init (struct memory_monitor *m, const char *path,
                     const struct cgroup *cgroup, double smoothing)
{
  *m = (struct memory_monitor) {
    .path = path,
    .cgroup = cgroup,
    .smoothing = smoothing,
  };
}

/* Before the first sample all was as it is. */
static void
remember (struct memory_monitor *m)
{
  size_t i;

  for (i = HEADROOM_SAMPLES - 1; i > 0; i--)
    m->recent_bytes[i] = m->sampled ? m->recent_bytes[i - 1] : m->used_bytes;
  m->recent_bytes[0] = m->used_bytes;
}

int
memory_monitor_sample (struct memory_monitor *m, uint64_t held_bytes)
{
  char text[KERNEL_FILE_MAX];
  struct cgroup_memory cgroup;
  uint64_t total, available;
  int r;

  r = kernel_file_read (m->path, text);
  if (r == 0)
    r = get_field (text, "MemTotal:", &total);
  if (r == 0)
    r = get_field (text, "MemAvailable:", &available);
  if (r == 0)
    r = cgroup_get_memory (m->cgroup, &cgroup);
  if (r < 0)
    return r;
  if (cgroup.available_bytes < available)
    available = cgroup.available_bytes;

  m->total_bytes = total;
  m->available_bytes = available;
  m->used_bytes = headroom_used_by_others (total, available, held_bytes);
  remember (m);
  if (!m->sampled)
    m->used_average_bytes = m->used_bytes;
  m->sampled = true;
  return 0;
}

void
memory_monitor_step (struct memory_monitor *m)
{
  m->used_average_bytes = activity_step (m->used_average_bytes,
                                         m->used_bytes, m->smoothing);
}

uint64_t
memory_monitor_worse_bytes (const struct memory_monitor *m)
{
  const uint64_t foreseen = headroom_foresee (m->recent_bytes);

  return m->used_average_bytes > foreseen ? m->used_average_bytes : foreseen;
}
