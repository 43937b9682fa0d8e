#include <stdio.h>

#include "conf/units.h"
#include "ctl/command.h"
#include "ctl/top.h"

static gboolean batch;
static char *count_text, *interval_text, *timeout_text;

static const GOptionEntry options[] = {
  { "batch", 0, 0, G_OPTION_ARG_NONE, &batch,
    "Print one page below the other, also in a terminal", NULL },
  { "count", 0, 0, G_OPTION_ARG_STRING, &count_text,
    "Print so many pages and exit; implies --batch", "N" },
  { "interval", 0, 0, G_OPTION_ARG_STRING, &interval_text,
    "Time between pages, 100ms to 1h (default: 1s)", "DURATION" },
  { "timeout", 0, 0, G_OPTION_ARG_STRING, &timeout_text,
    "Wait for each socket at most this long (default: 5s)", "DURATION" },
  { .long_name = NULL }
};

static int
run (char *const *arguments)
{
  struct top_options o = {
    .sockets = arguments,
    .folder = COMMAND_SOCKETS,
    .interval_ns = INT64_C (1000000000),
    .timeout_ns = INT64_C (5000000000),
    .plain = batch || count_text != NULL,
  };

  if (!command_duration ("interval", interval_text, &o.interval_ns) ||
      !command_duration ("timeout", timeout_text, &o.timeout_ns))
    return EXIT_USAGE;
  if (o.interval_ns < INT64_C (100000000) ||
      o.interval_ns > INT64_C (3600000000000))
    return command_usage ("--interval: \"%s\" must be 100ms to 1h",
                          interval_text);
  if (count_text != NULL &&
      (units_parse_uint (count_text, &o.count) < 0 || o.count == 0))
    return command_usage ("--count: \"%s\" is not a number above 0",
                          count_text);
  return top_run (&o, stdout, stderr);
}

const struct command command_top = {
  .name = "top",
  .arguments = "[SOCKET...]",
  .summary = "Show what devices and donors do, every second",
  .help =
  "Without SOCKET, those of " COMMAND_SOCKETS "/*.sock are shown.\n"
  "\n"
  "In a terminal: q quits, the space bar asks at once, up and down (or k and\n"
  "j) and the page keys scroll.  Elsewhere, pages are printed one below the\n"
  "other.\n"
  "\n"
  "Exit status: 0 when it was ended; 1 if there is no socket, or with --count\n"
  "if any program did not answer; 2 for a wrong option.",
  .options = options,
  .run = run,
};
