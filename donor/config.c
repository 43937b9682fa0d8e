#include <errno.h>
#include <glib.h>
#include <stdbool.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "conf/address.h"
#include "conf/cgroup.h"
#include "conf/key_file.h"
#include "conf/units.h"
#include "donor/config.h"

static const int64_t millisecond_ns = 1000000;
static const int64_t second_ns = 1000000000;

/* One option: its parser puts a text into the config, or returns false
 * where the text is not `allowed`.
 */
struct option {
  const char *name;
  const char *argument;         /* as --help shows it */
  const char *help;
  const char *fallback;         /* the default, parsed like any value */
  const char *shown;            /* where that cannot be parsed: NULL fallback */
  const char *allowed;
  bool (*parse) (const char *text, struct donor_config *config);
};

static bool
parse_listen (const char *text, struct donor_config *config)
{
  return address_parse_listen (text, &config->listen, &config->listen_len);
}

static bool
parse_fabric (const char *text, struct donor_config *config)
{
  static const char *const names[] = {
    [DONOR_FABRIC_AUTO] = "auto",
    [DONOR_FABRIC_VERBS] = "verbs",
    [DONOR_FABRIC_TCP] = "tcp",
  };
  size_t i;

  for (i = 0; i < G_N_ELEMENTS (names); i++)
    if (strcmp (text, names[i]) == 0) {
      config->fabric = i;
      return true;
    }
  return false;
}

static bool
parse_memory (const char *text, struct donor_config *config)
{
  return units_parse_size (text, &config->memory_bytes) == 0;
}

static bool
parse_headroom (const char *text, struct donor_config *config)
{
  return units_parse_size (text, &config->headroom_bytes) == 0;
}

static bool
parse_ready (const char *text, struct donor_config *config)
{
  return units_parse_uint (text, &config->ready) == 0
    && config->ready <= 65536;
}

static bool
parse_slab_size (const char *text, struct donor_config *config)
{
  uint64_t bytes;

  if (units_parse_size (text, &bytes) < 0)
    return false;
  config->slab_size_bytes = bytes;
  return bytes >= UINT64_C (1) << 20 && bytes <= UINT64_C (1) << 40
    && (bytes & (bytes - 1)) == 0;
}

static bool
parse_max_borrowers (const char *text, struct donor_config *config)
{
  return units_parse_uint (text, &config->max_borrowers) == 0
    && config->max_borrowers >= 1 && config->max_borrowers <= 65536;
}

static bool
parse_max_per_borrower (const char *text, struct donor_config *config)
{
  return units_parse_size (text, &config->max_per_borrower_bytes) == 0;
}

static bool
parse_smoothing (const char *text, struct donor_config *config)
{
  return units_parse_fraction (text, &config->smoothing) == 0
    && config->smoothing > 0 && config->smoothing <= 1;
}

static bool
parse_evict_extra (const char *text, struct donor_config *config)
{
  return units_parse_uint (text, &config->evict_extra) == 0
    && config->evict_extra <= 65536;
}

static bool
parse_deadline (const char *text, struct donor_config *config)
{
  return units_parse_duration (text, &config->deadline_ns) == 0
    && config->deadline_ns >= millisecond_ns
    && config->deadline_ns <= 60 * second_ns;
}

static bool
parse_lock (const char *text, struct donor_config *config)
{
  return memory_lock_parse (text, &config->lock) == 0;
}

static bool
parse_state (const char *text, struct donor_config *config)
{
  const struct sockaddr_un *address = NULL;

  config->state_path = text;
  return text[0] != '\0' && strlen (text) < sizeof address->sun_path;
}

static bool
parse_metrics (const char *text, struct donor_config *config)
{
  struct sockaddr_storage address;
  socklen_t len;

  config->metrics = text;
  return address_parse_listen (text, &address, &len);
}

static const struct option options[] = {
  { "listen", "ADDR:PORT", "address and port to listen on",
    "127.0.0.1:9400", NULL,
    address_listen_allowed, parse_listen },
  { "fabric", "FABRIC", "verbs, tcp, or auto: all that work",
    "auto", NULL, "verbs, tcp or auto", parse_fabric },
  { "memory", "SIZE", "most memory ever lent",
    NULL, "all above the headroom",
    "a size, as 48G", parse_memory },
  { "headroom", "SIZE", "free memory kept for this node",
    NULL, "1/8 of RAM", "a size, as 8G",
    parse_headroom },
  { "ready", "N", "slabs kept prepared ahead",
    "2", NULL, "a number from 0 to 65536", parse_ready },
  { "slab-size", "SIZE", "size of a slab, the same as the borrowers'",
    "1G", NULL, "a power of two from 1M to 1T, as 64M", parse_slab_size },
  { "max-borrowers", "N", "most sessions at a time",
    "64", NULL, "a number from 1 to 65536", parse_max_borrowers },
  { "max-per-borrower", "SIZE", "most memory of one session",
    NULL, "no limit", "a size, as 16G",
    parse_max_per_borrower },
  { "smoothing", "BETA",
    "weight of the newest sample of this node's memory use",
    "0.2", NULL, "a number above 0 and up to 1", parse_smoothing },
  { "evict-extra", "N",
    "slabs compared beyond those to evict, at most as many as these",
    NULL, "as many", "a number from 0 to 65536", parse_evict_extra },
  { "deadline", "TIME", "longest wait for a borrower",
    "3s", NULL, "a duration from 1ms to 60s, as 3s or 500ms",
    parse_deadline },
  { "lock", "MODE", "lock memory: require, try or no",
    "try", NULL, "require, try or no", parse_lock },
  { "state", "PATH", "Unix socket for infiniswapctl",
    NULL, "none", "a path of at most 107 bytes", parse_state },
  { "metrics", "ADDR:PORT", "serve metrics to Prometheus there",
    NULL, "none", address_listen_allowed, parse_metrics },
};

enum { NR_OPTIONS = G_N_ELEMENTS (options) };

G_STATIC_ASSERT ((size_t) NR_OPTIONS <= DONOR_OPTIONS_MAX);

const char *
donor_config_option (const struct donor_config *config, size_t i,
                     const char **value)
{
  if (i >= NR_OPTIONS)
    return NULL;
  *value = config->values[i];
  return options[i].name;
}

void
donor_config_free (struct donor_config *config)
{
  size_t i;

  if (config == NULL)
    return;
  for (i = 0; i < NR_OPTIONS; i++)
    g_free (config->values[i]);
  g_free (config);
}

/* One run of the parser. */
struct parse {
  struct donor_config *config;
  /* Where each value came from: NULL for the command line, else the
   * key file's name and line.
   */
  char *origins[NR_OPTIONS];
  char **text;                  /* the message */
};

static bool
refuse (const struct parse *p, size_t i, const char *allowed)
{
  const char *name = options[i].name, *value = p->config->values[i];

  *p->text = p->origins[i]
    ? g_strdup_printf ("%s: %s = %s: must be %s", p->origins[i], name, value,
                       allowed)
    : g_strdup_printf ("--%s %s: must be %s", name, value, allowed);
  return false;
}

/* Replaces an earlier value of option i.  Takes over origin. */
static bool
set_value (struct parse *p, size_t i, const char *value, char *origin)
{
  g_free (p->config->values[i]);
  p->config->values[i] = g_strdup (value);
  g_free (p->origins[i]);
  p->origins[i] = origin;
  return options[i].parse (p->config->values[i], p->config)
    || refuse (p, i, options[i].allowed);
}

static size_t
find_option (const char *name)
{
  size_t i;

  for (i = 0; i < NR_OPTIONS; i++)
    if (strcmp (options[i].name, name) == 0)
      break;
  return i;
}

static bool
take_file (struct parse *p, const char *path)
{
  g_autofree char *problem = NULL;
  g_autoptr (GPtrArray) entries = key_file_read (path, "donor", &problem);
  size_t i, option;

  if (entries == NULL) {
    *p->text = g_strdup_printf ("--config %s: %s", path, problem);
    return false;
  }
  for (i = 0; i < entries->len; i++) {
    const struct key_file_entry *entry = g_ptr_array_index (entries, i);
    g_autofree char *origin = g_strdup_printf ("%s, line %u", path,
                                               entry->line);

    option = find_option (entry->name);
    if (option == NR_OPTIONS) {
      *p->text = g_strdup_printf ("%s: %s: no such option (see --help)",
                                  origin, entry->name);
      return false;
    }
    if (!set_value (p, option, entry->value, g_steal_pointer (&origin)))
      return false;
  }
  return true;
}

static bool
take_command_line (struct parse *p, char *const *given)
{
  size_t i;

  for (i = 0; i < NR_OPTIONS; i++)
    if (given[i] && !set_value (p, i, given[i], NULL))
      return false;
  return true;
}

/* RAM, or what the cgroup's limit leaves of it.  That it cannot be read
 * is for the first sample to tell.
 */
static uint64_t
node_bytes (const struct donor_config *config)
{
  const uint64_t ram_bytes =
    (uint64_t) sysconf (_SC_PHYS_PAGES) * sysconf (_SC_PAGESIZE);
  struct cgroup *cgroup = cgroup_new (config->cgroup_path,
                                      config->mountinfo_path);
  struct cgroup_memory memory;
  const int r = cgroup_get_memory (cgroup, &memory);

  cgroup_free (cgroup);
  return r == 0 ? MIN (ram_bytes, memory.limit_bytes) : ram_bytes;
}

static bool
take_defaults (struct parse *p)
{
  const size_t headroom = find_option ("headroom");
  char text[UNITS_TEXT_MAX];
  size_t i;

  if (p->config->values[headroom] == NULL) {
    /* In whole MiB, so that it can be shown and given in few digits. */
    units_format_size (node_bytes (p->config) / 8 & ~UINT64_C (0xfffff),
                       text);
    if (!set_value (p, headroom, text, NULL))
      return false;
  }
  for (i = 0; i < NR_OPTIONS; i++) {
    if (p->config->values[i])
      continue;
    if (options[i].fallback == NULL)
      p->config->values[i] = g_strdup (options[i].shown);
    else if (!set_value (p, i, options[i].fallback, NULL))
      return false;
  }
  return true;
}

/* What no value can tell by itself. */
static bool
check_together (struct parse *p)
{
  const struct donor_config *config = p->config;
  const uint64_t node = node_bytes (config);
  char size[UNITS_TEXT_MAX], allowed[128];

  units_format_size (config->slab_size_bytes, size);
  g_snprintf (allowed, sizeof allowed, "at least one slab, which has %s",
              size);
  if (config->memory_bytes < config->slab_size_bytes)
    return refuse (p, find_option ("memory"), allowed);
  if (config->max_per_borrower_bytes < config->slab_size_bytes)
    return refuse (p, find_option ("max-per-borrower"), allowed);

  g_snprintf (allowed, sizeof allowed,
              "less than this node's RAM or its cgroup's limit, %s",
              units_format_size (node, size));
  if (config->headroom_bytes >= node)
    return refuse (p, find_option ("headroom"), allowed);
  return true;
}

static struct donor_config *
build (const char *file, char *const *given, char **text)
{
  struct parse p = { .config = g_new0 (struct donor_config, 1),
                     .text = text };
  bool ok;
  size_t i;

  p.config->memory_bytes = UINT64_MAX;
  p.config->max_per_borrower_bytes = UINT64_MAX;
  p.config->evict_extra = UINT64_MAX;
  p.config->meminfo_path = "/proc/meminfo";
  p.config->cgroup_path = "/proc/self/cgroup";
  p.config->mountinfo_path = "/proc/self/mountinfo";
  p.config->pressure_path = "/proc/pressure/memory";
  /* The file comes first, so that its mistakes show even where the
   * command line wins.
   */
  ok = (file == NULL || take_file (&p, file)) && take_command_line (&p, given)
    && take_defaults (&p) && check_together (&p);
  for (i = 0; i < NR_OPTIONS; i++)
    g_free (p.origins[i]);
  if (!ok)
    g_clear_pointer (&p.config, donor_config_free);
  return p.config;
}

/* What the command line gave, as GOption stores it. */
struct given {
  char *values[NR_OPTIONS];     /* NULL: not given */
  char *config;
  gboolean check, help, version;
  char **rest;
};

static GOptionContext *
new_context (struct given *given, GPtrArray *descriptions)
{
  const GOptionEntry others[] = {
    { "config", 0, 0, G_OPTION_ARG_FILENAME, &given->config,
      "key file with the same options; the command line wins "
      "(default: none)", "FILE" },
    { "check-config", 0, 0, G_OPTION_ARG_NONE, &given->check,
      "show what would be in force, and start nothing", NULL },
    { "help", 'h', 0, G_OPTION_ARG_NONE, &given->help, "show this", NULL },
    { "version", 'V', 0, G_OPTION_ARG_NONE, &given->version,
      "show the version", NULL },
    { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &given->rest,
      NULL, NULL },
    G_OPTION_ENTRY_NULL
  };
  GOptionEntry entries[NR_OPTIONS + 1] = { 0 };
  GOptionContext *context;
  size_t i;

  for (i = 0; i < NR_OPTIONS; i++) {
    const struct option *o = &options[i];
    char *description = g_strdup_printf ("%s (default: %s)", o->help,
                                         o->fallback ? o->fallback
                                         : o->shown);

    g_ptr_array_add (descriptions, description);
    entries[i] = (GOptionEntry) {
      o->name, 0, 0, G_OPTION_ARG_FILENAME, &given->values[i],
      description, o->argument
    };
  }
  context = g_option_context_new (NULL);
  g_option_context_set_help_enabled (context, FALSE);
  g_option_context_set_summary (context, "Lends this node's idle memory to "
                                "Infiniswap borrowers.");
  g_option_context_set_description (context, "See infiniswap-donor(1).");
  g_option_context_add_main_entries (context, entries, NULL);
  g_option_context_add_main_entries (context, others, NULL);
  return context;
}

/* As a key file that has the same meaning. */
static char *
show (const struct donor_config *config)
{
  GString *text = g_string_new ("[donor]\n");
  size_t i;

  for (i = 0; i < NR_OPTIONS; i++) {
    const char *value = config->values[i];
    const bool none = options[i].fallback == NULL
      && strcmp (value, options[i].shown) == 0;

    g_string_append_printf (text, none ? "#%s: %s\n" : "%s = %s\n",
                            options[i].name, value);
  }
  return g_string_free (text, FALSE);
}

static int
parse_given (const struct given *given, struct donor_config **ret,
             char **text)
{
  if (given->version) {
    *text = g_strdup ("infiniswap-donor " ISW_VERSION "\n");
    return 1;
  }
  if (given->rest) {
    *text = g_strdup_printf ("%s: not an option (see --help)",
                             given->rest[0]);
    return -EINVAL;
  }
  *ret = build (given->config, given->values, text);
  if (*ret == NULL)
    return -EINVAL;
  if (!given->check)
    return 0;
  *text = show (*ret);
  g_clear_pointer (ret, donor_config_free);
  return 1;
}

int
donor_config_parse (char *const *argv, struct donor_config **ret,
                    char **text)
{
  g_auto (GStrv) args = g_strdupv ((char **) argv);
  g_autoptr (GPtrArray) descriptions = g_ptr_array_new_with_free_func (g_free);
  struct given given = { 0 };
  g_autoptr (GOptionContext) context = new_context (&given, descriptions);
  g_autoptr (GError) error = NULL;
  size_t i;
  int r;

  if (!g_option_context_parse_strv (context, &args, &error)) {
    *text = g_strdup_printf ("%s (see --help)", error->message);
    r = -EINVAL;
  }
  else if (given.help) {
    *text = g_option_context_get_help (context, TRUE, NULL);
    r = 1;
  }
  else
    r = parse_given (&given, ret, text);

  for (i = 0; i < NR_OPTIONS; i++)
    g_free (given.values[i]);
  g_free (given.config);
  g_strfreev (given.rest);
  return r;
}
