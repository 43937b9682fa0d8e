#include <stdio.h>
#include <string.h>

#include <gio/gio.h>

#include "conf/address.h"
#include "conf/donor_list.h"
#include "conf/key_file.h"
#include "ctl/command.h"
#include "ctl/donors.h"

static gboolean json;
static char *timeout_text, *donors_file;
static char *config_folder;

static const GOptionEntry options[] = {
  { "donors-file", 0, 0, G_OPTION_ARG_FILENAME, &donors_file,
    "Also those in a file, one HOST:PORT a line", "FILE" },
  { "json", 0, 0, G_OPTION_ARG_NONE, &json, "Print an array of JSON objects",
    NULL },
  { "timeout", 0, 0, G_OPTION_ARG_STRING, &timeout_text,
    "Wait for all of them at most this long (default: 2s)", "DURATION" },
  { "config-folder", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_FILENAME,
    &config_folder, "Where NAME.conf is", "FOLDER" },
  { .long_name = NULL }
};

/* One that is there already is asked once. */
static void
add_address (GPtrArray *all, const char *host, uint16_t port)
{
  struct address *new = g_new (struct address, 1);
  g_autofree char *canonical = NULL;

  *new = (struct address) { .host = g_strdup (host), .port = port };
  canonical = address_canonical (new);
  for (guint i = 0; i < all->len; i++) {
    g_autofree char *other = address_canonical (all->pdata[i]);

    if (strcmp (canonical, other) == 0) {
      address_free (new);
      return;
    }
  }
  g_ptr_array_add (all, new);
}

/* Those that DNS knows under a name such as _infiniswap._tcp.DOMAIN. */
static bool
add_service (GPtrArray *all, const char *service)
{
  g_autoptr (GResolver) resolver = g_resolver_get_default ();
  g_auto (GStrv) parts = g_strsplit (service, ".", 3);
  g_autoptr (GError) error = NULL;
  GList *targets = g_resolver_lookup_service (resolver, parts[0] + 1,
                                              parts[1] + 1, parts[2], NULL,
                                              &error);

  if (error != NULL)
    fprintf (stderr, "infiniswapctl: srv:%s: %s\n", service, error->message);
  for (GList *t = targets; t != NULL; t = t->next)
    add_address (all, g_srv_target_get_hostname (t->data),
                 g_srv_target_get_port (t->data));
  g_resolver_free_targets (targets);
  return error == NULL;
}

/* found is NULL after an error, whose message is freed here. */
static bool
take (GPtrArray *all, struct donor_list *found, char *error)
{
  bool ok = true;

  if (found == NULL) {
    fprintf (stderr, "infiniswapctl: %s\n", error);
    g_free (error);
    return false;
  }
  for (guint i = 0; i < found->addresses->len; i++) {
    const struct address *a = found->addresses->pdata[i];

    add_address (all, a->host, a->port);
  }
  for (guint i = 0; i < found->services->len; i++)
    ok &= add_service (all, found->services->pdata[i]);
  donor_list_free (found);
  return ok;
}

static bool
take_list (GPtrArray *all, const char *text)
{
  char *error = NULL;
  struct donor_list *found = donor_list_parse (text, &error);

  return take (all, found, error);
}

static bool
take_file (GPtrArray *all, const char *path)
{
  char *error = NULL;
  struct donor_list *found = donor_list_read_file (path, &error);

  return take (all, found, error);
}

/* Of a device that is described in a key file. */
static bool
take_device (GPtrArray *all, const char *name)
{
  g_autofree char *file = g_strconcat (name, ".conf", NULL);
  g_autofree char *path =
    g_build_filename (config_folder ? : COMMAND_CONFIG, file, NULL);
  char *error = NULL;
  g_autoptr (GPtrArray) entries = key_file_read (path, "device", &error);
  bool ok = true, any = false;

  if (entries == NULL) {
    fprintf (stderr, "infiniswapctl: %s\n", error);
    g_free (error);
    return false;
  }
  for (guint i = 0; i < entries->len && ok; i++) {
    const struct key_file_entry *e = entries->pdata[i];

    if (strcmp (e->name, "donors") == 0)
      any = ok = take_list (all, e->value);
    else if (strcmp (e->name, "donors-file") == 0)
      any = ok = take_file (all, e->value);
  }
  if (ok && !any)
    fprintf (stderr, "infiniswapctl: %s names no donors: it must have "
             "donors or donors-file\n", path);
  return ok && any;
}

static bool
take_argument (GPtrArray *all, const char *argument)
{
  if (strchr (argument, ':') != NULL)
    return take_list (all, argument);
  if (strchr (argument, '/') == NULL && argument[0] != '\0')
    return take_device (all, argument);
  fprintf (stderr, "infiniswapctl: \"%s\" is neither HOST:PORT,... nor the "
           "name of a device; a file of donors is named with --donors-file\n",
           argument);
  return false;
}

static int
run (char *const *arguments)
{
  g_autoptr (GPtrArray) addresses =
    g_ptr_array_new_with_free_func ((GDestroyNotify) address_free);
  struct donors_options o = {
    .addresses = addresses,
    .timeout_ns = INT64_C (2000000000),
    .json = json,
    .fabrics = { &fabric_verbs, &fabric_tcp },
  };

  if (!command_duration ("timeout", timeout_text, &o.timeout_ns))
    return EXIT_USAGE;
  if (arguments[0] == NULL && donors_file == NULL)
    return command_usage ("donors takes HOST:PORT,... or the name of a "
                          "device, or --donors-file");
  for (; *arguments != NULL; arguments++)
    if (!take_argument (addresses, *arguments))
      return EXIT_USAGE;
  if (donors_file != NULL && !take_file (addresses, donors_file))
    return EXIT_USAGE;
  return donors_run (&o, stdout);
}

const struct command command_donors = {
  .name = "donors",
  .arguments = "HOST:PORT,...|NAME...",
  .summary = "Ask donors whether they are reachable, and what they lend",
  .help =
  "NAME is a device: the donors are those of " COMMAND_CONFIG "/NAME.conf.\n"
  "\n"
  "FREE is what a donor would lend now, READY the slabs that it has prepared,\n"
  "VERBS and TCP the median round trip over each fabric.\n"
  "\n"
  "Exit status: 0 if every donor is reachable, 1 if not, 2 for a wrong\n"
  "argument or option.",
  .options = options,
  .run = run,
};
