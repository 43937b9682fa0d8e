#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <glib.h>
#include <linux/magic.h>

#include "conf/units.h"
#include "ctl/check.h"
#include "ctl/device_config.h"
#include "ctl/findings.h"
#include "ctl/machine.h"
#include "ctl/server_process.h"

/* The value of a "KEY=VALUE", or NULL. */
static const char *
find_key (char *const *keys, const char *name)
{
  const size_t len = strlen (name);

  for (; *keys != NULL; keys++)
    if (strncmp (*keys, name, len) == 0 && (*keys)[len] == '=')
      return *keys + len + 1;
  return NULL;
}

/* ---- the disk under the local copy ---- */

static char *
folder_of_backing (char *const *keys)
{
  const char *backing = find_key (keys, "backing");
  const char *temporary = g_getenv ("TMPDIR");

  if (backing != NULL)
    return g_path_get_dirname (backing);
  return g_strdup (temporary != NULL ? temporary : "/var/tmp");
}

static void
check_space (struct findings *f, const char *folder, uint64_t free_bytes,
             const char *size)
{
  char text[UNITS_TEXT_MAX];
  uint64_t want = 0;

  if (size == NULL || units_parse_size (size, &want) < 0 ||
      want <= free_bytes)
    findings_add (f, FINDING_OK, "disk", NULL, "%s has %s free", folder,
                  units_format_size (free_bytes >> 20 << 20, text));
  else
    findings_add (f, FINDING_WARNING, "disk", "free some, name another place "
                  "with backing, or make the device smaller",
                  "%s has only %s free for a local copy of %s (unless it is "
                  "there already)", folder,
                  units_format_size (free_bytes >> 20 << 20, text), size);
}

static bool
is_block_device (const char *path)
{
  struct stat st;

  return stat (path, &st) == 0 && S_ISBLK (st.st_mode);
}

static void
check_disk (struct findings *f, char *const *keys)
{
  g_autofree char *folder = folder_of_backing (keys);
  const char *backing = find_key (keys, "backing");
  struct statfs fs;
  struct statvfs space;

  if (backing != NULL && is_block_device (backing)) {
    findings_add (f, FINDING_OK, "disk", NULL, "%s is a block device",
                  backing);
    return;
  }
  if (statfs (folder, &fs) == -1 || statvfs (folder, &space) == -1) {
    findings_add (f, FINDING_MISSING, "disk", "make the folder, or name "
                  "another with backing", "%s: %s", folder,
                  g_strerror (errno));
    return;
  }
  if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC) {
    findings_add (f, FINDING_MISSING, "disk", "name a place on a real disk "
                  "with backing", "%s lies in memory: a local copy there "
                  "takes what swapping is to give", folder);
    return;
  }
  check_space (f, folder, (uint64_t) space.f_bavail * space.f_frsize,
               find_key (keys, "size"));
}

/* ---- one device ---- */

static void
check_config (struct findings *f, const struct check_options *o,
              const struct device_config *c)
{
  const struct server_params params = {
    .plugin = o->plugin, .lock = true, .keys = c->plugin_keys,
  };
  g_autofree char *error = NULL;

  if (server_process_check (&params, &error))
    findings_add (f, FINDING_OK, "configuration", NULL, "%s is accepted",
                  o->config);
  else
    findings_add (f, FINDING_MISSING, "configuration", NULL, "%s: %s",
                  o->config, error);
}

static struct device_config *
read_config (struct findings *f, const struct check_options *o)
{
  g_autofree char *error = NULL;
  struct device_config *c = device_config_read (o->name, o->config, NULL,
                                                &error);

  if (c == NULL)
    findings_add (f, FINDING_MISSING, "configuration",
                  "see infiniswapctl(1), DEVICES", "%s", error);
  return c;
}

int
check_run (const struct check_options *o, FILE *out)
{
  static char *const no_keys[] = { NULL };
  struct findings f = { .out = out };
  struct device_config *c = o->name != NULL ? read_config (&f, o) : NULL;

  machine_check_programs (&f, o->plugin);
  machine_check_kernel (&f);
  machine_check_memory (&f);
  machine_check_rdma (&f);
  machine_check_room (&f);
  check_disk (&f, c != NULL ? c->plugin_keys : no_keys);
  if (c != NULL)
    check_config (&f, o, c);
  device_config_free (c);
  return findings_end (&f);
}
