/* What a check has found, and how it is printed. */

#ifndef ISW_CTL_FINDINGS_H
#define ISW_CTL_FINDINGS_H

#include <stdio.h>

enum finding { FINDING_OK, FINDING_WARNING, FINDING_MISSING };

struct findings {
  FILE *out;
  unsigned count[FINDING_MISSING + 1];
};

/* topic is a word or two; what is one line; remedy is what to do about it,
 * NULL where there is nothing to do.
 */
void findings_add (struct findings *f, enum finding kind, const char *topic,
                   const char *remedy, const char *format, ...)
  __attribute__ ((format (printf, 5, 6)));

/* The last line.  The exit status: 1 if anything is missing. */
int findings_end (struct findings *f);

#endif /* ISW_CTL_FINDINGS_H */
