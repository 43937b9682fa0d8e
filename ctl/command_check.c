#include <stdio.h>

#include "ctl/check.h"
#include "ctl/command.h"
#include "ctl/device_config.h"

static char *config_path, *plugin;

static const GOptionEntry options[] = {
  { "config", 0, 0, G_OPTION_ARG_FILENAME, &config_path,
    "Key file (default: /etc/infiniswap/NAME.conf)", "FILE" },
  { "plugin", 0, 0, G_OPTION_ARG_FILENAME, &plugin,
    "nbdkit's plugin, by name or path (default: infiniswap)", "PLUGIN" },
  { .long_name = NULL }
};

static int
run (char *const *arguments)
{
  struct check_options o = {
    .name = arguments[0],
    .plugin = plugin != NULL ? plugin : "infiniswap",
  };
  g_autofree char *path = NULL;

  if (o.name != NULL && arguments[1] != NULL)
    return command_usage ("check takes the name of one device");
  if (o.name == NULL && config_path != NULL)
    return command_usage ("check takes --config with the name of a device");
  if (o.name != NULL && !device_config_check_name (o.name))
    return command_usage ("check: \"%s\" is no name of a device", o.name);
  if (o.name != NULL)
    path = config_path != NULL ? g_strdup (config_path) :
      g_strdup_printf (COMMAND_CONFIG "/%s.conf", o.name);
  o.config = path;
  return check_run (&o, stdout);
}

const struct command command_check = {
  .name = "check",
  .arguments = "[NAME]",
  .summary = "Find what is missing or risky here for swapping",
  .help =
  "Looks at programs, the kernel, limits, RDMA devices and the disk of local\n"
  "copies, and with the name of a device at its key file too.  Changes\n"
  "nothing.\n"
  "\n"
  "Exit status: 0 if nothing is missing, 1 if something is (a warning is\n"
  "not), 2 for a wrong argument or option.",
  .options = options,
  .run = run,
};
