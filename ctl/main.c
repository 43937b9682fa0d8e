#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <glib.h>

#include "ctl/command.h"

/* In the order of --help. */
static const struct command *const commands[] = {
  &command_attach,
  &command_detach,
  &command_check,
  &command_status,
  &command_top,
  &command_donors,
  &command_evict,
};

static const char about[] =
  "Asks running Infiniswap devices and donors what they do, and donors to\n"
  "take slabs back.\n"
  "\n"
  "Commands (infiniswapctl COMMAND --help tells more of each):\n";

static const char notes[] =
  "DURATION is a number with a unit, such as 500ms, 2s, 1.5s or 1m; without\n"
  "a unit it is in seconds.\n"
  "\n"
  "A program has a socket if it was started with one: the nbdkit plugin with\n"
  "state=PATH, infiniswap-donor with --state PATH.\n"
  "\n"
  "Exit status: 0 if it was done, 1 if not, 2 for a wrong command, argument\n"
  "or option.\n"
  "\n"
  "Example: infiniswapctl status --json /run/infiniswap/isw0.sock";

static const struct command *
find (const char *name)
{
  for (size_t i = 0; i < G_N_ELEMENTS (commands); i++)
    if (strcmp (commands[i]->name, name) == 0)
      return commands[i];
  return NULL;
}

/* What is printed must arrive. */
static int
flushed (int status)
{
  if (fflush (stdout) == 0 && !ferror (stdout))
    return status;
  fprintf (stderr, "infiniswapctl: cannot write the output\n");
  return 1;
}

static char *
list_commands (void)
{
  GString *text = g_string_new (about);

  for (size_t i = 0; i < G_N_ELEMENTS (commands); i++)
    g_string_append_printf (text, "%s  %-8s  %s", i > 0 ? "\n" : "",
                            commands[i]->name, commands[i]->summary);
  return g_string_free (text, FALSE);
}

/* What is in front of any command: --help and --version. */
static int
run_none (int argc, char **argv)
{
  gboolean version = FALSE;
  const GOptionEntry options[] = {
    { "version", 0, 0, G_OPTION_ARG_NONE, &version,
      "Print the version and exit", NULL },
    { .long_name = NULL }
  };
  g_autoptr (GOptionContext) context =
    g_option_context_new ("COMMAND [ARGUMENT...]");
  g_autofree char *summary = list_commands ();
  g_autoptr (GError) wrong = NULL;

  g_option_context_add_main_entries (context, options, NULL);
  g_option_context_set_summary (context, summary);
  g_option_context_set_description (context, notes);
  if (!g_option_context_parse (context, &argc, &argv, &wrong))
    return command_usage ("%s; the options of a command come after it",
                          wrong->message);
  if (!version)
    return command_usage ("there is no command");
  printf ("infiniswapctl %s\n", ISW_VERSION);
  return 0;
}

/* argv[0] is its name. */
static int
run_command (const struct command *c, int argc, char **argv)
{
  g_autoptr (GOptionContext) context = g_option_context_new (c->arguments);
  g_autofree char *name = g_strconcat ("infiniswapctl ", c->name, NULL);
  g_autofree char *summary = g_strconcat (c->summary, ".", NULL);
  g_autoptr (GError) wrong = NULL;

  g_set_prgname (name);
  g_option_context_set_summary (context, summary);
  g_option_context_set_description (context, c->help);
  if (c->options != NULL)
    g_option_context_add_main_entries (context, c->options, NULL);
  if (!g_option_context_parse (context, &argc, &argv, &wrong))
    return command_usage ("%s: %s", c->name, wrong->message);
  if (argc > 1 && strcmp (argv[1], "--") == 0)
    argv++;
  return c->run (argv + 1);
}

int
main (int argc, char *argv[])
{
  const struct command *c;

  /* Not LC_NUMERIC: the output has decimal points. */
  setlocale (LC_CTYPE, "");
  g_set_prgname ("infiniswapctl");
  if (argc < 2 || argv[1][0] == '-')
    return flushed (run_none (argc, argv));
  c = find (argv[1]);
  if (c == NULL)
    return command_usage ("unknown command \"%s\"", argv[1]);
  return flushed (run_command (c, argc - 1, argv + 1));
}
