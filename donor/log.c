#include <stdarg.h>
#include <stdio.h>

#include "donor/log.h"

void
donor_log (const char *format, ...)
{
  char line[512];
  va_list args;

  va_start (args, format);
  vsnprintf (line, sizeof line, format, args);
  va_end (args);
  /* In one write, so that lines of several programs do not mix. */
  fprintf (stderr, "infiniswap-donor: %s\n", line);
}
