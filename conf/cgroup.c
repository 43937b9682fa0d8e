#include <errno.h>
#include <glib.h>
#include <stdbool.h>
#include <string.h>

#include "conf/cgroup.h"
#include "conf/kernel_file.h"

struct cgroup {
  const char *self_path;
  char *mount;                  /* where cgroup2 is mounted */
  char *root;                   /* which cgroup is there; "" for the root */
};

/* Whether this line of mountinfo tells of a cgroup2:
 * "38 31 0:28 ROOT MOUNT OPTIONS [...] - cgroup2 SOURCE OPTIONS".
 */
static bool
parse_mount (const char *line, struct cgroup *c)
{
  const char *type = strstr (line, " - ");
  g_auto (GStrv) fields = NULL;

  if (type == NULL || !g_str_has_prefix (type, " - cgroup2 "))
    return false;
  fields = g_strsplit (line, " ", 6);
  if (g_strv_length (fields) < 6)
    return false;
  /* Blanks are written as \040. */
  c->root = g_strcompress (fields[3]);
  c->mount = g_strcompress (fields[4]);
  if (strcmp (c->root, "/") == 0)
    c->root[0] = '\0';
  return true;
}

struct cgroup *
cgroup_new (const char *self_path, const char *mountinfo_path)
{
  struct cgroup *c = g_new0 (struct cgroup, 1);
  g_autofree char *text = NULL;
  g_auto (GStrv) lines = NULL;
  size_t i;

  c->self_path = self_path;
  if (g_file_get_contents (mountinfo_path, &text, NULL, NULL)) {
    lines = g_strsplit (text, "\n", -1);
    for (i = 0; lines[i]; i++)
      if (parse_mount (lines[i], c))
        return c;
  }
  cgroup_free (c);
  return NULL;
}

void
cgroup_free (struct cgroup *c)
{
  if (c == NULL)
    return;
  g_free (c->mount);
  g_free (c->root);
  g_free (c);
}

/* The folder of this process's cgroup, or NULL if it is not below the
 * mount.  Asked for each time, since processes are moved.
 */
static char *
find_folder (const struct cgroup *c, int *error)
{
  char text[KERNEL_FILE_MAX];
  char *path;

  *error = kernel_file_read (c->self_path, text);
  if (*error < 0)
    return NULL;
  path = (char *) kernel_file_find (text, "0::");
  if (path == NULL || !g_str_has_prefix (path, c->root))
    return NULL;
  path[strcspn (path, "\n")] = '\0';
  path += strlen (c->root);
  /* "/../other" is a cgroup outside of this namespace. */
  if ((path[0] != '/' && path[0] != '\0') || g_str_has_prefix (path, "/.."))
    return NULL;
  return g_strconcat (c->mount, strcmp (path, "/") == 0 ? "" : path, NULL);
}

static int
read_file (const char *folder, const char *name, char text[KERNEL_FILE_MAX])
{
  g_autofree char *path = g_build_filename (folder, name, NULL);

  return kernel_file_read (path, text);
}

/* A file that is not there, as in the root, limits nothing. */
static int
lower_limit (const char *folder, const char *name, uint64_t *limit_bytes)
{
  char text[KERNEL_FILE_MAX];
  uint64_t bytes;
  int r;

  r = read_file (folder, name, text);
  if (r == -ENOENT)
    return 0;
  if (r < 0 || strcmp (text, "max\n") == 0)
    return r;
  r = kernel_file_number (text, &bytes, NULL);
  if (r == 0)
    *limit_bytes = MIN (*limit_bytes, bytes);
  return r;
}

static int
get_stat (const char *text, const char *label, uint64_t *ret_bytes)
{
  const char *value = kernel_file_find (text, label);

  return value ? kernel_file_number (value, ret_bytes, NULL) : -EBADMSG;
}

/* What cannot be reclaimed, at least not by dropping file pages. */
static int
get_used (const char *folder, uint64_t *ret_bytes)
{
  char text[KERNEL_FILE_MAX];
  uint64_t current, active, inactive;
  int r;

  r = read_file (folder, "memory.current", text);
  if (r == 0)
    r = kernel_file_number (text, &current, NULL);
  if (r == 0)
    r = read_file (folder, "memory.stat", text);
  if (r == 0)
    r = get_stat (text, "active_file ", &active);
  if (r == 0)
    r = get_stat (text, "inactive_file ", &inactive);
  if (r < 0)
    return r;
  /* The files were not read at the same instant. */
  *ret_bytes = current - MIN (current, active + inactive);
  return 0;
}

static int
add_level (const char *folder, struct cgroup_memory *memory)
{
  uint64_t limit = UINT64_MAX, used;
  int r;

  r = lower_limit (folder, "memory.max", &limit);
  if (r == 0)
    r = lower_limit (folder, "memory.high", &limit);
  if (r < 0 || limit == UINT64_MAX)
    return r;
  r = get_used (folder, &used);
  if (r < 0)
    return r;
  memory->limit_bytes = MIN (memory->limit_bytes, limit);
  memory->available_bytes = MIN (memory->available_bytes,
                                 limit - MIN (limit, used));
  return 0;
}

int
cgroup_get_memory (const struct cgroup *c, struct cgroup_memory *ret)
{
  struct cgroup_memory memory = { UINT64_MAX, UINT64_MAX };
  g_autofree char *folder = NULL;
  int r = 0;

  *ret = memory;
  if (c == NULL)
    return 0;
  folder = find_folder (c, &r);
  if (folder == NULL)
    return r;
  /* From its own up to the one that is mounted. */
  for (;;) {
    r = add_level (folder, &memory);
    if (r < 0)
      return r;
    if (strlen (folder) <= strlen (c->mount))
      break;
    *strrchr (folder, '/') = '\0';
  }
  *ret = memory;
  return 0;
}
