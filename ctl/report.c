#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <glib.h>

#include "ctl/report.h"

static char *device_name;
static bool journal, to_syslog;

void
report_open (const char *name)
{
  g_free (device_name);
  device_name = g_strdup (name);
  journal = getenv ("JOURNAL_STREAM") != NULL;
}

void
report_to_syslog (void)
{
  openlog ("infiniswapctl", LOG_PID, LOG_DAEMON);
  to_syslog = true;
}

void
report (int level, const char *format, ...)
{
  const char *name = device_name != NULL ? device_name : "-";
  char line[1024];
  va_list args;

  va_start (args, format);
  vsnprintf (line, sizeof line, format, args);
  va_end (args);
  if (to_syslog)
    syslog (level, "%s: %s", name, line);
  else if (journal)
    fprintf (stderr, "<%d>%s: %s\n", level, name, line);
  else
    fprintf (stderr, "infiniswapctl: %s: %s\n", name, line);
}
