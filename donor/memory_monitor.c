#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "conf/units.h"
#include "donor/memory_monitor.h"
#include "placement/activity.h"
#include "placement/headroom.h"

enum { FILE_BYTES_MAX = 16 << 10 };

/* The whole file, terminated; longer files are cut. */
static int
read_file (const char *path, char *buf, size_t size)
{
  size_t len = 0;
  ssize_t r;
  int fd;

  fd = open (path, O_RDONLY | O_CLOEXEC);
  if (fd == -1)
    return -errno;
  do {
    r = read (fd, buf + len, size - 1 - len);
    if (r > 0)
      len += r;
  } while (r > 0 || (r == -1 && errno == EINTR));
  r = r == -1 ? -errno : 0;
  close (fd);
  buf[len] = '\0';
  return r;
}

/* The text after "NAME:" at the start of a line, or NULL. */
static const char *
find_field (const char *text, const char *name)
{
  const size_t len = strlen (name);
  const char *line = text;

  while (line) {
    if (strncmp (line, name, len) == 0 && line[len] == ':')
      return line + len + 1;
    line = strchr (line, '\n');
    if (line)
      line++;
  }
  return NULL;
}

/* "   16384 kB\n" */
static int
parse_kilobytes (const char *text, uint64_t *ret_bytes)
{
  char number[UNITS_TEXT_MAX];
  uint64_t kilobytes;
  size_t len;

  text += strspn (text, " \t");
  len = strcspn (text, " \t\n");
  if (len >= sizeof number)
    return -EBADMSG;
  memcpy (number, text, len);
  number[len] = '\0';
  text += len;
  text += strspn (text, " \t");
  if (strncmp (text, "kB", 2) != 0 || (text[2] != '\n' && text[2] != '\0'))
    return -EBADMSG;
  if (units_parse_uint (number, &kilobytes) < 0
      || kilobytes > UINT64_MAX / 1024)
    return -EBADMSG;
  *ret_bytes = kilobytes * 1024;
  return 0;
}

static int
get_field (const char *text, const char *name, uint64_t *ret_bytes)
{
  const char *value = find_field (text, name);

  if (value == NULL)
    return -ENOENT;
  return parse_kilobytes (value, ret_bytes);
}

void
memory_monitor_init (struct memory_monitor *m, const char *path,
                     double smoothing)
{
  *m = (struct memory_monitor) { .path = path, .smoothing = smoothing };
}

int
memory_monitor_sample (struct memory_monitor *m, uint64_t held_bytes)
{
  char text[FILE_BYTES_MAX];
  uint64_t total, available;
  int r;

  r = read_file (m->path, text, sizeof text);
  if (r == 0)
    r = get_field (text, "MemTotal", &total);
  if (r == 0)
    r = get_field (text, "MemAvailable", &available);
  if (r < 0)
    return r;

  m->total_bytes = total;
  m->available_bytes = available;
  m->used_bytes = headroom_used_by_others (total, available, held_bytes);
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
  return m->used_average_bytes > m->used_bytes
    ? m->used_average_bytes : m->used_bytes;
}
