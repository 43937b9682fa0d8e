#include "conf/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Longer lines are cut. */
enum { LINE_MAX_BYTES = 1024 };

static const char *program = "infiniswap";
static bool debug;
static _Atomic unsigned dropped; /* lines, since the last one written */

void
log_start (const char *name)
{
  const char *wish = getenv ("INFINISWAP_DEBUG");

  program = name;
  debug = wish && strcmp (wish, "1") == 0;
}

/* Asked for each line, since a daemon may redirect it at any time. */
static bool
is_journal (void)
{
  const char *stream = getenv ("JOURNAL_STREAM");
  unsigned long long device, inode;
  struct stat st;
  char rest;

  return stream &&
    sscanf (stream, "%llu:%llu%c", &device, &inode, &rest) == 2 &&
    fstat (STDERR_FILENO, &st) == 0 &&
    st.st_dev == device && st.st_ino == inode;
}

static size_t
begin (char *line, size_t size, enum log_level level)
{
  static const char *const words[] = {
    [LOG_LEVEL_ERROR] = "error: ", [LOG_LEVEL_WARNING] = "warning: ",
    [LOG_LEVEL_NOTICE] = "", [LOG_LEVEL_INFO] = "",
    [LOG_LEVEL_DEBUG] = "debug: ",
  };
  int n = is_journal ()
    ? snprintf (line, size, "<%d>%s: ", level, program)
    : snprintf (line, size, "%s: %s", program, words[level]);

  return (size_t) n < size ? (size_t) n : size - 1;
}

/* A pipe or socket that polls as writable has room for a whole line. */
static bool
try_write (const char *line, size_t len)
{
  struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };
  ssize_t n = 0;

  if (poll (&p, 1, 0) != 1)
    return false;
  do
    n = write (STDERR_FILENO, line, len);
  while (n == -1 && errno == EINTR);
  return n != -1;
}

static size_t
add_count (char *line, size_t size, unsigned count, const char *what)
{
  return count == 0 ? 0 : snprintf (line, size, " (%u %s)", count, what);
}

static void
vlog (enum log_level level, unsigned left_out, const char *format,
      va_list args)
{
  char line[LINE_MAX_BYTES];
  const size_t size = sizeof line - 128; /* for what comes after the text */
  const int error = errno;
  unsigned lost;
  size_t len, from;

  if (level == LOG_LEVEL_DEBUG && !debug)
    return;
  from = begin (line, size, level);
  errno = error;                /* for %m */
  vsnprintf (line + from, size - from, format, args);
  len = from + strlen (line + from);
  for (size_t i = from; i < len; i++)
    if ((unsigned char) line[i] < ' ' || line[i] == 0x7f)
      line[i] = '?';
  lost = atomic_exchange (&dropped, 0);
  len += add_count (line + len, sizeof line - len, left_out,
                    "more such lines were left out");
  len += add_count (line + len, sizeof line - len, lost,
                    "lines before this one were lost");
  line[len++] = '\n';
  if (!try_write (line, len))
    atomic_fetch_add (&dropped, lost + 1);
  errno = error;
}

void
log_write (enum log_level level, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  vlog (level, 0, format, args);
  va_end (args);
}

bool
log_limit_allows (struct log_limit *limit, int64_t now_ns,
                  unsigned *left_out)
{
  int64_t began_ns = atomic_load (&limit->began_ns);
  unsigned lines;

  *left_out = 0;
  if ((began_ns == 0 || now_ns - began_ns >= LOG_PERIOD_NS) &&
      atomic_compare_exchange_strong (&limit->began_ns, &began_ns, now_ns)) {
    lines = atomic_exchange (&limit->lines, 1);
    *left_out = lines > LOG_BURST ? lines - LOG_BURST : 0;
    return true;
  }
  return atomic_fetch_add (&limit->lines, 1) < LOG_BURST;
}

void
log_write_limited (struct log_limit *limit, enum log_level level,
                   const char *format, ...)
{
  struct timespec now;
  unsigned left_out;
  va_list args;

  clock_gettime (CLOCK_MONOTONIC, &now);
  if (!log_limit_allows (limit, now.tv_sec * INT64_C (1000000000) +
                         now.tv_nsec, &left_out))
    return;
  va_start (args, format);
  vlog (level, left_out, format, args);
  va_end (args);
}
