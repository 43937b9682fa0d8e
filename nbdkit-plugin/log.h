/* One line an event on stderr.  Not for the I/O path. */

#ifndef ISW_LOG_H
#define ISW_LOG_H

void log_line (const char *format, ...)
  __attribute__ ((format (printf, 1, 2)));

#endif /* ISW_LOG_H */
