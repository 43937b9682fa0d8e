/* What a program logs: one line an event, on standard error.
 *
 * Where standard error is the journal, a line begins with its level as
 * sd-daemon(3) has it ("<4>"), else errors and warnings say so in words.
 * Each line is one write(2), so that lines of several threads and programs
 * do not mix; control characters in it, which may come from a peer, are
 * shown as "?".  A line that its reader has no room for is dropped, and the
 * next one says so: the reader may wait for memory that this program gives.
 * From any thread; not for the I/O path.
 */

#ifndef ISW_LOG_H
#define ISW_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* syslog's numbers. */
enum log_level {
  LOG_LEVEL_ERROR = 3,          /* it does not work */
  LOG_LEVEL_WARNING,            /* it works, but somebody should look */
  LOG_LEVEL_NOTICE,             /* a change that an operator made or awaits */
  LOG_LEVEL_INFO,               /* what goes on */
  LOG_LEVEL_DEBUG,              /* only if it was asked for */
};

/* What begins each line, such as "infiniswap"; it must live on.  Shows
 * debugging lines if INFINISWAP_DEBUG=1 is in the environment.  Before any
 * thread that logs.
 */
void log_start (const char *name);

void log_write (enum log_level level, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));

#define log_error(...) log_write (LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write (LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_write (LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_write (LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write (LOG_LEVEL_DEBUG, __VA_ARGS__)

/* For what a peer can bring about as often as it likes: of one place in
 * the source LOG_BURST lines in LOG_PERIOD_NS are written, and the next one
 * after that says how many were left out.
 */
enum { LOG_BURST = 20 };
#define LOG_PERIOD_NS INT64_C (10000000000)

struct log_limit {
  _Atomic int64_t began_ns;     /* the period; 0: none yet */
  _Atomic unsigned lines;       /* in it */
};

void log_write_limited (struct log_limit *limit, enum log_level level,
                        const char *format, ...)
  __attribute__ ((format (printf, 3, 4)));

#define log_limited(level, ...)                                 \
  do {                                                          \
    static struct log_limit log_limit_;                         \
    log_write_limited (&log_limit_, level, __VA_ARGS__);        \
  } while (0)

/* May a line be written at now_ns?  Then *left_out is how many were not in
 * the period before.
 */
bool log_limit_allows (struct log_limit *limit, int64_t now_ns,
                      unsigned *left_out);

#endif /* ISW_LOG_H */
