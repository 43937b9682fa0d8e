#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "conf/units.h"
#include "conf/kernel_file.h"

int
kernel_file_read (const char *path, char buf[KERNEL_FILE_MAX])
{
  size_t len = 0;
  ssize_t r;
  int fd;

  fd = open (path, O_RDONLY | O_CLOEXEC);
  if (fd == -1)
    return -errno;
  do {
    r = read (fd, buf + len, KERNEL_FILE_MAX - 1 - len);
    if (r > 0)
      len += r;
  } while (r > 0 || (r == -1 && errno == EINTR));
  r = r == -1 ? -errno : 0;
  close (fd);
  buf[len] = '\0';
  return r;
}

const char *
kernel_file_find (const char *text, const char *label)
{
  const size_t len = strlen (label);
  const char *line = text;

  while (line) {
    if (strncmp (line, label, len) == 0)
      return line + len;
    line = strchr (line, '\n');
    if (line)
      line++;
  }
  return NULL;
}

int
kernel_file_number (const char *text, uint64_t *ret, const char **end)
{
  char number[UNITS_TEXT_MAX];
  size_t len;

  text += strspn (text, " \t");
  len = strcspn (text, " \t\n");
  if (len >= sizeof number)
    return -EBADMSG;
  memcpy (number, text, len);
  number[len] = '\0';
  if (units_parse_uint (number, ret) < 0)
    return -EBADMSG;
  if (end)
    *end = text + len;
  return 0;
}
