#include <stdio.h>

#include "ctl/command.h"
#include "ctl/status.h"

static gboolean json;
static char *timeout_text;

static const GOptionEntry options[] = {
  { "json", 0, 0, G_OPTION_ARG_NONE, &json,
    "Print the JSON document; of several sockets an array", NULL },
  { "timeout", 0, 0, G_OPTION_ARG_STRING, &timeout_text,
    "Wait for each socket at most this long (default: 5s)", "DURATION" },
  { .long_name = NULL }
};

static int
run (char *const *arguments)
{
  struct status_options o = {
    .sockets = arguments,
    .folder = COMMAND_SOCKETS,
    .timeout_ns = INT64_C (5000000000),
    .json = json,
  };

  if (!command_duration ("timeout", timeout_text, &o.timeout_ns))
    return EXIT_USAGE;
  return status_run (&o, stdout, stderr);
}

const struct command command_status = {
  .name = "status",
  .arguments = "[SOCKET...]",
  .summary = "Show the state of devices and donors",
  .help =
  "Without SOCKET, those of " COMMAND_SOCKETS "/*.sock are shown.\n"
  "\n"
  "Exit status: 0 if every program answered, 1 if not, 2 for a wrong\n"
  "option.",
  .options = options,
  .run = run,
};
