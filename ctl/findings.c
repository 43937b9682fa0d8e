#include <stdarg.h>

#include <glib.h>

#include "ctl/findings.h"

static const char *const names[] = {
  [FINDING_OK] = "ok", [FINDING_WARNING] = "warning",
  [FINDING_MISSING] = "missing",
};

void
findings_add (struct findings *f, enum finding kind, const char *topic,
              const char *remedy, const char *format, ...)
{
  va_list args;

  f->count[kind]++;
  fprintf (f->out, "%-8s %s: ", names[kind], topic);
  va_start (args, format);
  vfprintf (f->out, format, args);
  va_end (args);
  fputc ('\n', f->out);
  if (remedy != NULL)
    fprintf (f->out, "         remedy: %s\n", remedy);
}

int
findings_end (struct findings *f)
{
  const unsigned missing = f->count[FINDING_MISSING];
  const unsigned warnings = f->count[FINDING_WARNING];

  fprintf (f->out, "%u missing, %u warning%s\n", missing, warnings,
           warnings == 1 ? "" : "s");
  return missing > 0 ? 1 : 0;
}
