#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib.h>

#include "conf/text_file.h"

enum { TEXT_FILE_MAX = 1 << 20 };

static bool
read_all (int fd, GString *text)
{
  char buf[4096];
  ssize_t n;

  while (text->len <= TEXT_FILE_MAX) {
    n = read (fd, buf, sizeof buf);
    if (n == 0)
      return true;
    if (n > 0)
      g_string_append_len (text, buf, n);
    else if (errno != EINTR)
      return false;
  }
  return true;
}

char *
text_file_read (const char *path, char **error)
{
  GString *text = g_string_new (NULL);
  int fd = open (path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  struct stat st;
  bool ok = false;

  if (fd == -1 || fstat (fd, &st) == -1)
    *error = g_strdup_printf ("cannot open %s: %s", path, g_strerror (errno));
  else if (!S_ISREG (st.st_mode))
    *error = g_strdup_printf ("%s is not a regular file", path);
  else if (!read_all (fd, text))
    *error = g_strdup_printf ("cannot read %s: %s", path, g_strerror (errno));
  else if (text->len > TEXT_FILE_MAX)
    *error = g_strdup_printf ("%s is larger than 1M", path);
  else if (!g_utf8_validate (text->str, text->len, NULL))
    *error = g_strdup_printf ("%s is not UTF-8 text", path);
  else
    ok = true;

  if (fd != -1)
    close (fd);
  return g_string_free (text, !ok);
}
