#include <stdio.h>

#include "ctl/attach.h"
#include "ctl/command.h"
#include "ctl/device_config.h"

static gboolean foreground, check;
static char *config_path, *plugin;

static const GOptionEntry options[] = {
  { "check-config", 0, 0, G_OPTION_ARG_NONE, &check,
    "Check the configuration, and start nothing", NULL },
  { "config", 0, 0, G_OPTION_ARG_FILENAME, &config_path,
    "Key file (default: /etc/infiniswap/NAME.conf)", "FILE" },
  { "foreground", 0, 0, G_OPTION_ARG_NONE, &foreground,
    "Stay, and log to standard error", NULL },
  { "plugin", 0, 0, G_OPTION_ARG_FILENAME, &plugin,
    "nbdkit's plugin, by name or path (default: infiniswap)", "PLUGIN" },
  { .long_name = NULL }
};

static int
run (char *const *arguments)
{
  struct attach_options o = {
    .name = arguments[0],
    .config = config_path,
    .plugin = plugin != NULL ? plugin : "infiniswap",
    .foreground = foreground,
  };

  if (o.name == NULL)
    return command_usage ("attach takes the name of a device");
  if (!device_config_check_name (o.name))
    return command_usage ("attach: \"%s\" is no name: letters, digits, "
                          "\"_\", \".\" and \"-\", at most 32", o.name);
  o.overrides = (const char *const *) arguments + 1;
  return check ? attach_check_config (&o) : attach_run (&o);
}

const struct command command_attach = {
  .name = "attach",
  .arguments = "NAME [KEY=VALUE...]",
  .summary = "Make a device, use it for swap, and look after it",
  .help =
  "NAME is a name of your own for the device.  It is set up by the group\n"
  "[device] of its key file, whose keys are those of the plugin\n"
  "(nbdkit infiniswap --help) and these; KEY=VALUE wins over the file:\n"
  "\n"
  "  device=/dev/nbdN        (default: the first that is free)\n"
  "  connections=N           to the server (default: one for two CPUs, 1 to 4)\n"
  "  threads=N               of the server for each (default 4)\n"
  "  dead-timeout=DURATION   how long the kernel waits for a new connection\n"
  "                          where all have died (default 60s)\n"
  "  swap=yes|no             swap there, or only make the device (default\n"
  "                          yes)\n"
  "  priority=N              of the swap area, 0 to 32767 (default 100)\n"
  "  discard=yes|no          tell the device of pages given up (default no)\n"
  "  allow=PROTECTION,...    what may be missing: lock, oom, cgroup, donors\n"
  "                          (default none)\n"
  "\n"
  "Returns when the device is in use.  A supervisor stays in the background,\n"
  "until infiniswapctl detach NAME.\n"
  "\n"
  "Exit status: 0 if it is attached, 1 if not: then nothing is left behind;\n"
  "2 for a wrong argument.",
  .options = options,
  .run = run,
};
