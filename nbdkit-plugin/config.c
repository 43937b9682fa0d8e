#include "nbdkit-plugin/config.h"

#include <errno.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "conf/donor_list.h"
#include "conf/units.h"
#include "nbdkit-plugin/placing.h"

static const uint64_t KIB = 1 << 10, MIB = 1 << 20, TIB = UINT64_C (1) << 40;
static const int64_t MS = 1000000;

const char config_help[] =
  "size=SIZE               device size, a multiple of 4096 (required unless\n"
  "                        the backing has one)\n"
  "donors=HOST:PORT,...    donors to borrow from, srv:_SERVICE._tcp.DOMAIN\n"
  "                        for those that DNS names (required unless\n"
  "                        donors-file)\n"
  "donors-file=FILE        one of them a line, re-read when it changes\n"
  "resolve-interval=DURATION\n"
  "                        how often DNS is asked again (default 30s)\n"
  "fabric=auto|verbs|tcp   how to reach donors (default auto: verbs where\n"
  "                        both ends have it)\n"
  "slab-size=SIZE          power of two from 1M (default 1G)\n"
  "backing=FILE            file or block device for the local copy (default\n"
  "                        an unlinked file in $TMPDIR, else /var/tmp)\n"
  "backing-unsafe=0|1      allow a backing in memory or unreserved\n"
  "                        (default 0)\n"
  "hot-slab=N              page I/Os per second from which a slab is placed\n"
  "                        on a donor (default 20; 0: at the first write)\n"
  "cold-slab=N             page I/Os per second under which it may be given\n"
  "                        back (default 0: never)\n"
  "smoothing=F             weight of the last second in a slab's activity\n"
  "                        (default 0.2)\n"
  "probes=N                donors probed for each placement (default 2)\n"
  "max-slabs-per-donor=N   most slabs on one donor (default: no limit)\n"
  "lanes=N                 remote requests in flight at once (default 8)\n"
  "write-behind=SIZE       memory for writes not yet on the local copy\n"
  "                        (default 64M)\n"
  "write-delay=DURATION    longest such a write waits for others (default\n"
  "                        5s; 0: none does)\n"
  "read-ahead=SIZE         memory for pages fetched from donors ahead of\n"
  "                        sequential reads (default 1M; 0: none are)\n"
  "deadline=DURATION       longest a request waits on donors (default 2s)\n"
  "lock=require|try|no     lock memory and set PR_SET_IO_FLUSHER (default\n"
  "                        try)\n"
  "state=PATH              Unix socket for infiniswapctl (default none)\n"
  "metrics=ADDR:PORT       serve metrics to Prometheus there (default none)\n"
  "check-config=0|1        check the other keys, and exit (default 0)\n"
  "outlive-parent=0|1      go on when who started nbdkit -f has ended\n"
  "                        (default 0)";

void
config_init (struct config *c)
{
  *c = (struct config) {
    .slab_size_bytes = 1024 * MIB, .hot_slab = 20, .smoothing = 0.2,
    .probes = 2, .max_slabs_per_donor = UINT64_MAX, .lanes = 8,
    .write_behind_bytes = 64 * MIB, .write_delay_ns = 5000 * MS,
    .read_ahead_bytes = MIB, .deadline_ns = 2000 * MS,
    .resolve_interval_ns = 30000 * MS,
    .lock = MEMORY_LOCK_TRY,
  };
}

void
config_clear (struct config *c)
{
  g_clear_pointer (&c->donors, donor_list_free);
  g_clear_pointer (&c->donors_file, g_free);
  g_clear_pointer (&c->backing, g_free);
  g_clear_pointer (&c->state, g_free);
  g_clear_pointer (&c->metrics, g_free);
}

/* ---- one kind of value each ---- */

static int
refuse (const char *key, const char *value, const char *allowed)
{
  nbdkit_error ("%s=%s: must be %s", key, value, allowed);
  return -1;
}

static int
set_size (const char *key, const char *value, uint64_t min, uint64_t max,
          uint64_t multiple, const char *allowed, uint64_t *ret)
{
  uint64_t v;

  if (units_parse_size (value, &v) < 0 || v < min || v > max ||
      v % multiple != 0)
    return refuse (key, value, allowed);
  *ret = v;
  return 0;
}

static int
set_uint (const char *key, const char *value, uint64_t min, uint64_t max,
          const char *allowed, uint64_t *ret)
{
  uint64_t v;

  if (units_parse_uint (value, &v) < 0 || v < min || v > max)
    return refuse (key, value, allowed);
  *ret = v;
  return 0;
}

static int
set_fraction (const char *key, const char *value, double min, double max,
              const char *allowed, double *ret)
{
  double v;

  if (units_parse_fraction (value, &v) < 0 || v < min || v > max)
    return refuse (key, value, allowed);
  *ret = v;
  return 0;
}

static int
set_duration (const char *key, const char *value, int64_t min_ns,
              int64_t max_ns, const char *allowed, int64_t *ret_ns)
{
  int64_t v;

  if (units_parse_duration (value, &v) < 0 || v < min_ns || v > max_ns)
    return refuse (key, value, allowed);
  *ret_ns = v;
  return 0;
}

static int
set_path (const char *key, const char *value, char **ret)
{
  char *path;

  if (!*value)
    return refuse (key, value, "a path");
  path = nbdkit_absolute_path (value);
  if (!path)
    return -1;
  g_free (*ret);
  *ret = g_strdup (path);
  free (path);
  return 0;
}

/* The index of value among names; -1 if it is none of them. */
static int
find_name (const char *value, const char *const *names)
{
  for (int i = 0; names[i]; i++)
    if (strcmp (value, names[i]) == 0)
      return i;
  return -1;
}

/* ---- the keys ---- */

static int
set_size_key (struct config *c, const char *key, const char *value)
{
  return set_size (key, value, 4096, 1024 * TIB, 4096,
                   "a size such as 64G: a multiple of 4096, at most 1024T",
                   &c->size_bytes);
}

static int
set_donors (struct config *c, const char *key, const char *value)
{
  g_autofree char *error = NULL;
  struct donor_list *donors = donor_list_parse (value, &error);

  if (!donors) {
    nbdkit_error ("%s=%s: %s", key, value, error);
    return -1;
  }
  g_clear_pointer (&c->donors, donor_list_free);
  c->donors = donors;
  return 0;
}

static int
set_donors_file (struct config *c, const char *key, const char *value)
{
  return set_path (key, value, &c->donors_file);
}

static int
set_resolve_interval (struct config *c, const char *key, const char *value)
{
  return set_duration (key, value, 100 * MS, 24 * 3600 * 1000 * MS,
                       "a duration from 100ms to 24h",
                       &c->resolve_interval_ns);
}

static const char *const fabric_names[] = {
  [FABRIC_AUTO] = "auto", [FABRIC_ONLY_VERBS] = "verbs",
  [FABRIC_ONLY_TCP] = "tcp", NULL,
};

static int
set_fabric (struct config *c, const char *key, const char *value)
{
  int i = find_name (value, fabric_names);

  if (i < 0)
    return refuse (key, value, "auto, verbs or tcp");
  c->fabric = i;
  return 0;
}

static int
set_slab_size (struct config *c, const char *key, const char *value)
{
  static const char allowed[] = "a power of two from 1M to 1T";
  uint64_t v;

  if (set_size (key, value, MIB, TIB, MIB, allowed, &v) < 0)
    return -1;
  if ((v & (v - 1)) != 0)
    return refuse (key, value, allowed);
  c->slab_size_bytes = v;
  return 0;
}

static int
set_backing (struct config *c, const char *key, const char *value)
{
  return set_path (key, value, &c->backing);
}

static int
set_switch (const char *key, const char *value, bool *ret)
{
  if (strcmp (value, "0") != 0 && strcmp (value, "1") != 0)
    return refuse (key, value, "0 or 1");
  *ret = value[0] == '1';
  return 0;
}

static int
set_backing_unsafe (struct config *c, const char *key, const char *value)
{
  return set_switch (key, value, &c->backing_unsafe);
}

static int
set_check_config (struct config *c, const char *key, const char *value)
{
  return set_switch (key, value, &c->check_only);
}

static int
set_outlive_parent (struct config *c, const char *key, const char *value)
{
  return set_switch (key, value, &c->outlive_parent);
}

static int
set_hot_slab (struct config *c, const char *key, const char *value)
{
  return set_fraction (key, value, 0, 1e9, "a number of page I/Os per second",
                       &c->hot_slab);
}

static int
set_cold_slab (struct config *c, const char *key, const char *value)
{
  return set_fraction (key, value, 0, 1e9, "a number of page I/Os per second",
                       &c->cold_slab);
}

static int
set_smoothing (struct config *c, const char *key, const char *value)
{
  return set_fraction (key, value, 0.001, 1, "a number from 0.001 to 1",
                       &c->smoothing);
}

static int
set_probes (struct config *c, const char *key, const char *value)
{
  G_STATIC_ASSERT (PROBES_MAX == 16);
  return set_uint (key, value, 1, PROBES_MAX, "a number from 1 to 16",
                   &c->probes);
}

static int
set_max_slabs (struct config *c, const char *key, const char *value)
{
  return set_uint (key, value, 1, UINT64_MAX, "a number from 1",
                   &c->max_slabs_per_donor);
}

static int
set_lanes (struct config *c, const char *key, const char *value)
{
  return set_uint (key, value, 1, 64, "a number from 1 to 64", &c->lanes);
}

static int
set_write_behind (struct config *c, const char *key, const char *value)
{
  return set_size (key, value, MIB, TIB / 4, 4 * KIB,
                   "a size from 1M to 256G, a multiple of 4096",
                   &c->write_behind_bytes);
}

static int
set_write_delay (struct config *c, const char *key, const char *value)
{
  return set_duration (key, value, 0, 60000 * MS,
                       "a duration of at most 60s", &c->write_delay_ns);
}

static int
set_read_ahead (struct config *c, const char *key, const char *value)
{
  const char *allowed = "0, or a size from 256K to 64M, a multiple of 128K";
  uint64_t bytes;

  if (set_size (key, value, 0, 64 * MIB, 128 * KIB, allowed, &bytes) < 0)
    return -1;
  if (bytes == 128 * KIB)       /* what is read next takes one, too */
    return refuse (key, value, allowed);
  c->read_ahead_bytes = bytes;
  return 0;
}

static int
set_deadline (struct config *c, const char *key, const char *value)
{
  return set_duration (key, value, 100 * MS, 20000 * MS,
                       "a duration from 100ms to 20s", &c->deadline_ns);
}

static int
set_lock (struct config *c, const char *key, const char *value)
{
  if (memory_lock_parse (value, &c->lock) < 0)
    return refuse (key, value, "require, try or no");
  return 0;
}

static int
set_state (struct config *c, const char *key, const char *value)
{
  return set_path (key, value, &c->state);
}

static int
set_metrics (struct config *c, const char *key, const char *value)
{
  struct sockaddr_storage address;
  socklen_t len;

  if (!address_parse_listen (value, &address, &len))
    return refuse (key, value, address_listen_allowed);
  g_free (c->metrics);
  c->metrics = g_strdup (value);
  return 0;
}

static const struct {
  const char *key;
  int (*set) (struct config *c, const char *key, const char *value);
} keys[] = {
  { "size", set_size_key },
  { "donors", set_donors },
  { "donors-file", set_donors_file },
  { "resolve-interval", set_resolve_interval },
  { "fabric", set_fabric },
  { "slab-size", set_slab_size },
  { "backing", set_backing },
  { "backing-unsafe", set_backing_unsafe },
  { "hot-slab", set_hot_slab },
  { "cold-slab", set_cold_slab },
  { "smoothing", set_smoothing },
  { "probes", set_probes },
  { "max-slabs-per-donor", set_max_slabs },
  { "lanes", set_lanes },
  { "write-behind", set_write_behind },
  { "write-delay", set_write_delay },
  { "read-ahead", set_read_ahead },
  { "deadline", set_deadline },
  { "lock", set_lock },
  { "state", set_state },
  { "metrics", set_metrics },
  { "check-config", set_check_config },
  { "outlive-parent", set_outlive_parent },
};

int
config_set (struct config *c, const char *key, const char *value)
{
  for (size_t i = 0; i < G_N_ELEMENTS (keys); i++)
    if (strcmp (keys[i].key, key) == 0)
      return keys[i].set (c, key, value);
  nbdkit_error ("%s=%s: unknown key; see nbdkit infiniswap --help",
                key, value);
  return -1;
}

static int
read_donors_file (struct config *c)
{
  g_autofree char *error = NULL;

  if (c->donors) {
    nbdkit_error ("donors=...: give either donors or donors-file");
    return -1;
  }
  c->donors = donor_list_read_file (c->donors_file, &error);
  if (!c->donors) {
    nbdkit_error ("donors-file=%s: %s", c->donors_file, error);
    return -1;
  }
  return 0;
}

int
config_check (struct config *c)
{
  if (c->donors_file && read_donors_file (c) == -1)
    return -1;
  if (!c->donors) {
    nbdkit_error ("donors=HOST:PORT,... (or donors-file=FILE) is required");
    return -1;
  }
  if (c->size_bytes == 0 && !c->backing) {
    nbdkit_error ("size=SIZE is required, unless backing=FILE has a size");
    return -1;
  }
  if (c->cold_slab > 0 && c->cold_slab >= c->hot_slab) {
    nbdkit_error ("cold-slab=%g: must be under hot-slab=%g",
                  c->cold_slab, c->hot_slab);
    return -1;
  }
  return 0;
}

/* ---- for status ---- */

static void
add (GPtrArray *strings, const char *key, char *value)
{
  g_ptr_array_add (strings, g_strdup (key));
  g_ptr_array_add (strings, value);
}

static void
add_bytes (GPtrArray *strings, const char *key, uint64_t bytes)
{
  char text[UNITS_TEXT_MAX];

  add (strings, key, g_strdup (units_format_size (bytes, text)));
}

static void
add_number (GPtrArray *strings, const char *key, double number)
{
  char text[G_ASCII_DTOSTR_BUF_SIZE];

  add (strings, key,
       g_strdup (g_ascii_formatd (text, sizeof text, "%.10g", number)));
}

static void
add_path (GPtrArray *strings, const char *key, const char *path)
{
  add (strings, key, g_strdup (path ? path : "none"));
}

char **
config_strings (const struct config *c)
{
  GPtrArray *s = g_ptr_array_new ();
  char text[UNITS_TEXT_MAX];

  add_bytes (s, "size", c->size_bytes);
  add (s, "donors", donor_list_to_string (c->donors));
  add_path (s, "donors-file", c->donors_file);
  add (s, "resolve-interval",
       g_strdup (units_format_duration (c->resolve_interval_ns, text)));
  add (s, "fabric", g_strdup (fabric_names[c->fabric]));
  add_bytes (s, "slab-size", c->slab_size_bytes);
  add_path (s, "backing", c->backing);
  add (s, "backing-unsafe", g_strdup (c->backing_unsafe ? "1" : "0"));
  add_number (s, "hot-slab", c->hot_slab);
  add_number (s, "cold-slab", c->cold_slab);
  add_number (s, "smoothing", c->smoothing);
  add_number (s, "probes", c->probes);
  if (c->max_slabs_per_donor == UINT64_MAX)
    add (s, "max-slabs-per-donor", g_strdup ("no limit"));
  else
    add_number (s, "max-slabs-per-donor", c->max_slabs_per_donor);
  add_number (s, "lanes", c->lanes);
  add_bytes (s, "write-behind", c->write_behind_bytes);
  add (s, "write-delay",
       g_strdup (units_format_duration (c->write_delay_ns, text)));
  add_bytes (s, "read-ahead", c->read_ahead_bytes);
  add (s, "deadline",
       g_strdup (units_format_duration (c->deadline_ns, text)));
  add (s, "lock", g_strdup (memory_lock_mode_name (c->lock)));
  add_path (s, "state", c->state);
  add_path (s, "metrics", c->metrics);
  add (s, "check-config", g_strdup (c->check_only ? "1" : "0"));
  add (s, "outlive-parent", g_strdup (c->outlive_parent ? "1" : "0"));
  g_ptr_array_add (s, NULL);
  return (char **) g_ptr_array_free (s, FALSE);
}
