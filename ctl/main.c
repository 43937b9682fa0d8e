#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <glib.h>

#include "conf/units.h"
#include "ctl/evict.h"
#include "ctl/status.h"

enum { EXIT_USAGE = 2 };

static gboolean version, json;
static char *timeout_text;
static char **arguments;

static const GOptionEntry entries[] = {
  { "version", 0, 0, G_OPTION_ARG_NONE, &version,
    "Print the version and exit", NULL },
  { "json", 0, 0, G_OPTION_ARG_NONE, &json,
    "Print the JSON document; of several sockets an array", NULL },
  { "timeout", 0, 0, G_OPTION_ARG_STRING, &timeout_text,
    "Wait for each socket, or for slabs, at most this long (default: 5s)",
    "DURATION" },
  { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &arguments,
    NULL, "COMMAND" },
  { .long_name = NULL }
};

static const char summary[] =
  "Asks running Infiniswap devices and donors what they do, and donors to\n"
  "take slabs back.\n"
  "\n"
  "Commands:\n"
  "  status [SOCKET...]   Show the state of the device or donor behind each\n"
  "                       socket; without SOCKET, of /run/infiniswap/*.sock\n"
  "  evict SOCKET COUNT   Make the donor behind the socket take COUNT slabs\n"
  "                       back from its borrowers, or all of them: \"all\"";

static const char description[] =
  "DURATION is a number with a unit, such as 500ms, 2s, 1.5s or 1m; without\n"
  "a unit it is in seconds.\n"
  "\n"
  "A program has a socket if it was started with one: the nbdkit plugin with\n"
  "state=PATH, infiniswap-donor with --state PATH.\n"
  "\n"
  "Exit status: 0 if every program answered and the slabs are back, 1 if not,\n"
  "2 for a wrong command or option.\n"
  "\n"
  "Example: infiniswapctl status --json /run/infiniswap/isw0.sock";

static int
usage (const char *format, const char *detail)
{
  fprintf (stderr, "infiniswapctl: ");
  fprintf (stderr, format, detail);
  fprintf (stderr, "; try --help\n");
  return EXIT_USAGE;
}

static int
run_status (char *const *sockets, int64_t timeout_ns)
{
  const struct status_options o = {
    .sockets = sockets,
    .folder = "/run/infiniswap",
    .timeout_ns = timeout_ns,
    .json = json,
  };

  return status_run (&o, stdout, stderr);
}

static int
run_evict (char *const *given, int64_t timeout_ns)
{
  const struct evict_options o = {
    .socket = given[0],
    .count = given[0] != NULL ? given[1] : NULL,
    .timeout_ns = timeout_ns,
  };

  if (o.count == NULL || given[2] != NULL)
    return usage ("%s", "evict takes a socket and a number of slabs");
  if (!evict_check_count (o.count))
    return usage ("evict: \"%s\" is neither a number of slabs above 0 nor "
                  "\"all\"", o.count);
  if (json)
    return usage ("%s", "--json is for status");
  return evict_run (&o, stdout, stderr);
}

static int
run (void)
{
  int64_t timeout_ns = INT64_C (5000000000);

  if (version) {
    printf ("infiniswapctl %s\n", ISW_VERSION);
    return 0;
  }
  if (arguments == NULL)
    return usage ("%s", "there is no command");
  if (timeout_text != NULL &&
      (units_parse_duration (timeout_text, &timeout_ns) < 0 ||
       timeout_ns <= 0))
    return usage ("--timeout: \"%s\" is not a duration above 0, such as "
                  "500ms or 5s", timeout_text);
  if (strcmp (arguments[0], "status") == 0)
    return run_status (arguments + 1, timeout_ns);
  if (strcmp (arguments[0], "evict") == 0)
    return run_evict (arguments + 1, timeout_ns);
  return usage ("unknown command \"%s\"", arguments[0]);
}

int
main (int argc, char *argv[])
{
  g_autoptr (GOptionContext) context = g_option_context_new (NULL);
  g_autoptr (GError) wrong = NULL;
  int status;

  /* Not LC_NUMERIC: the output has decimal points. */
  setlocale (LC_CTYPE, "");
  g_option_context_add_main_entries (context, entries, NULL);
  g_option_context_set_summary (context, summary);
  g_option_context_set_description (context, description);
  if (!g_option_context_parse (context, &argc, &argv, &wrong))
    return usage ("%s", wrong->message);
  status = run ();
  g_strfreev (arguments);
  g_free (timeout_text);
  if (fflush (stdout) != 0 || ferror (stdout)) {
    fprintf (stderr, "infiniswapctl: cannot write the output\n");
    return 1;
  }
  return status;
}
