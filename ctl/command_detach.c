#include <stdio.h>
#include <unistd.h>

#include "ctl/command.h"
#include "ctl/detach.h"
#include "ctl/device_config.h"
#include "ctl/runtime.h"

static gboolean force, wait_for_room;
static char *timeout_text;

static const GOptionEntry options[] = {
  { "force", 0, 0, G_OPTION_ARG_NONE, &force,
    "Try even if there seems to be no room in memory", NULL },
  { "timeout", 0, 0, G_OPTION_ARG_STRING, &timeout_text,
    "Give up after so long (default: none)", "DURATION" },
  { "wait", 0, 0, G_OPTION_ARG_NONE, &wait_for_room,
    "Where there is no room, wait until there is", NULL },
  { .long_name = NULL }
};

static int
run (char *const *arguments)
{
  struct detach_options o = {
    .name = arguments[0],
    .folder = RUNTIME_FOLDER,
    .force = force,
    .wait = wait_for_room,
    .terminal = isatty (STDOUT_FILENO) == 1,
  };

  if (o.name == NULL || arguments[1] != NULL)
    return command_usage ("detach takes the name of one device");
  if (!device_config_check_name (o.name))
    return command_usage ("detach: \"%s\" is no name of a device", o.name);
  if (!command_duration ("timeout", timeout_text, &o.timeout_ns))
    return EXIT_USAGE;
  return detach_run (&o, stdout, stderr);
}

const struct command command_detach = {
  .name = "detach",
  .arguments = "NAME",
  .summary = "Bring back what is swapped out, and remove the device",
  .help =
  "Where there is no room in memory for what is swapped out, the device goes\n"
  "on being served.\n"
  "\n"
  "Exit status: 0 if it is not attached any more, 1 if it still is, 2 for a\n"
  "wrong argument.",
  .options = options,
  .run = run,
};
