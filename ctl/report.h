/* Where attach and its supervisor say what happens: one line an event.
 *
 * At first all goes to standard error.  A supervisor that has gone to the
 * background has no terminal any more, and writes to syslog.  Where
 * standard error is the journal, lines begin with their level.
 */

#ifndef ISW_CTL_REPORT_H
#define ISW_CTL_REPORT_H

#include <syslog.h>

/* name is the device's; it is copied. */
void report_open (const char *name);
/* From now on to syslog. */
void report_to_syslog (void);

/* level is LOG_ERR, LOG_WARNING or LOG_INFO; no newline in format. */
void report (int level, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));

#endif /* ISW_CTL_REPORT_H */
