#include <stdio.h>

#include "ctl/command.h"
#include "ctl/evict.h"

static char *timeout_text;

static const GOptionEntry options[] = {
  { "timeout", 0, 0, G_OPTION_ARG_STRING, &timeout_text,
    "Wait for the slabs at most this long (default: 5s)", "DURATION" },
  { .long_name = NULL }
};

static int
run (char *const *arguments)
{
  struct evict_options o = {
    .socket = arguments[0],
    .count = arguments[0] != NULL ? arguments[1] : NULL,
    .timeout_ns = INT64_C (5000000000),
  };

  if (o.count == NULL || arguments[2] != NULL)
    return command_usage ("evict takes a socket and a number of slabs");
  if (!evict_check_count (o.count))
    return command_usage ("evict: \"%s\" is neither a number of slabs above 0 "
                          "nor \"all\"", o.count);
  if (!command_duration ("timeout", timeout_text, &o.timeout_ns))
    return EXIT_USAGE;
  return evict_run (&o, stdout, stderr);
}

const struct command command_evict = {
  .name = "evict",
  .arguments = "SOCKET COUNT|all",
  .summary = "Make a donor take slabs back from its borrowers",
  .help =
  "SOCKET is the donor's.  Prints how many slabs were evicted.\n"
  "\n"
  "Exit status: 0 if the slabs are back, 1 if not, 2 for a wrong argument.",
  .options = options,
  .run = run,
};
