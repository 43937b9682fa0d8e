#include <stdarg.h>
#include <stdio.h>

#include "conf/units.h"
#include "ctl/command.h"

int
command_usage (const char *format, ...)
{
  va_list args;

  fprintf (stderr, "infiniswapctl: ");
  va_start (args, format);
  vfprintf (stderr, format, args);
  va_end (args);
  fprintf (stderr, "; try %s --help\n", g_get_prgname ());
  return EXIT_USAGE;
}

bool
command_duration (const char *name, const char *text, int64_t *ret)
{
  int64_t ns;

  if (text == NULL)
    return true;
  if (units_parse_duration (text, &ns) < 0 || ns <= 0) {
    command_usage ("--%s: \"%s\" is not a duration above 0, such as 500ms or "
                   "5s", name, text);
    return false;
  }
  *ret = ns;
  return true;
}
