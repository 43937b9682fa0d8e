/* The commands of infiniswapctl: what each is called with, and what they
 * share in reading it.
 */

#ifndef ISW_CTL_COMMAND_H
#define ISW_CTL_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include <glib.h>

enum { EXIT_USAGE = 2 };

struct command {
  const char *name;
  const char *arguments;        /* as its --help shows them, or NULL */
  const char *summary;          /* one line of at most 66 columns */
  const char *help;             /* more, below that line in its --help */
  const GOptionEntry *options;  /* its own; NULL: none */

  /* What is behind the options, without the name; ends with NULL.  The
   * exit status.
   */
  int (*run) (char *const *arguments);
};

extern const struct command command_attach;
extern const struct command command_check;
extern const struct command command_detach;
extern const struct command command_donors;
extern const struct command command_evict;
extern const struct command command_status;
extern const struct command command_top;

/* Say on stderr what is wrong with the command line; EXIT_USAGE. */
int command_usage (const char *format, ...)
  __attribute__ ((format (printf, 1, 2)));

/* The duration above 0 that was given with --NAME; *ret stays as it is
 * where text is NULL.  false after a message.
 */
bool command_duration (const char *name, const char *text, int64_t *ret);

/* Where sockets are looked for that are not named. */
#define COMMAND_SOCKETS "/run/infiniswap"

/* And the key files of devices. */
#define COMMAND_CONFIG "/etc/infiniswap"

#endif /* ISW_CTL_COMMAND_H */
