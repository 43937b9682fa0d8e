#include "nbdkit-plugin/log.h"

#include <stdarg.h>
#include <stdio.h>

void
log_line (const char *format, ...)
{
  va_list args;
  char line[512];

  va_start (args, format);
  vsnprintf (line, sizeof line, format, args);
  va_end (args);
  /* One call, so that lines of several threads do not mix. */
  fprintf (stderr, "infiniswap: %s\n", line);
}
