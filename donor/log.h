/* One line an event on standard error, the program's name first. */

#ifndef ISW_DONOR_LOG_H
#define ISW_DONOR_LOG_H

void donor_log (const char *format, ...)
  __attribute__ ((format (printf, 1, 2)));

#endif /* ISW_DONOR_LOG_H */
