#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <glib.h>

#include "conf/kernel_file.h"
#include "conf/units.h"
#include "ctl/room.h"

/* Of the RAM, kept for what the machine needs while it swaps in. */
enum { RESERVE_DIVISOR = 64 };

const struct room_paths room_system = {
  .swaps = "/proc/swaps",
  .meminfo = "/proc/meminfo",
  .cgroups = "/sys/fs/cgroup",
};

/* ---- /proc/swaps ---- */

/* "FILE TYPE SIZE USED PRIORITY", in KiB; blanks in FILE are "\040".  A
 * device that was unplugged has " (deleted)" behind it, escaped.
 */
static void
parse_swap (const char *line, const char *device, struct room_swap *ret)
{
  g_auto (GStrv) fields = g_strsplit_set (line, " \t", -1);
  const char *field[5];
  g_autofree char *file = NULL;
  uint64_t size, used;
  int n = 0;

  for (char **f = fields; *f != NULL && n < 5; f++)
    if (**f != '\0')
      field[n++] = *f;
  if (n < 5 || units_parse_uint (field[2], &size) < 0 ||
      units_parse_uint (field[3], &used) < 0 || used > size)
    return;
  file = g_strcompress (field[0]);
  if (strcmp (file, device) != 0) {
    ret->others_free_bytes += (size - used) * 1024;
    return;
  }
  ret->active = true;
  ret->size_bytes = size * 1024;
  ret->used_bytes = used * 1024;
  ret->priority = atoi (field[4]);
}

void
room_parse_swaps (const char *text, const char *device,
                  struct room_swap *ret)
{
  g_auto (GStrv) lines = g_strsplit (text, "\n", -1);

  *ret = (struct room_swap) { .active = false };
  /* The first line is the heading. */
  for (char **line = lines; *line != NULL; line++)
    if (line != lines)
      parse_swap (*line, device, ret);
}

/* ---- /proc/meminfo ---- */

static int
parse_kib (const char *text, const char *label, uint64_t *ret_bytes)
{
  const char *value = kernel_file_find (text, label);
  uint64_t kib;

  if (value == NULL || kernel_file_number (value, &kib, NULL) < 0)
    return -EBADMSG;
  *ret_bytes = kib * 1024;
  return 0;
}

int
room_parse_meminfo (const char *text, uint64_t *ret_total_bytes,
                    uint64_t *ret_available_bytes)
{
  int r = parse_kib (text, "MemTotal:", ret_total_bytes);

  return r < 0 ? r : parse_kib (text, "MemAvailable:", ret_available_bytes);
}

/* ---- cgroups ---- */

struct cgroup_use {
  uint64_t swapped_bytes, limit_bytes, current_bytes, file_bytes;
};

static bool
read_bytes (const char *folder, const char *name, uint64_t *ret)
{
  g_autofree char *path = g_build_filename (folder, name, NULL);
  char text[KERNEL_FILE_MAX];

  return kernel_file_read (path, text) == 0 &&
    kernel_file_number (text, ret, NULL) == 0;
}

/* What could be dropped to make room. */
static uint64_t
read_files (const char *folder)
{
  g_autofree char *path = g_build_filename (folder, "memory.stat", NULL);
  char text[KERNEL_FILE_MAX];
  const char *active, *inactive;
  uint64_t a = 0, i = 0;

  if (kernel_file_read (path, text) < 0)
    return 0;
  active = kernel_file_find (text, "active_file ");
  inactive = kernel_file_find (text, "inactive_file ");
  if (active == NULL || kernel_file_number (active, &a, NULL) < 0 ||
      inactive == NULL || kernel_file_number (inactive, &i, NULL) < 0)
    return 0;
  return a + i;
}

/* false if it has no limit, or nothing swapped out. */
static bool
read_cgroup (const char *folder, struct cgroup_use *ret)
{
  if (!read_bytes (folder, "memory.max", &ret->limit_bytes) ||
      !read_bytes (folder, "memory.swap.current", &ret->swapped_bytes) ||
      !read_bytes (folder, "memory.current", &ret->current_bytes) ||
      ret->swapped_bytes == 0)
    return false;
  ret->file_bytes = MIN (read_files (folder), ret->current_bytes);
  return true;
}

static char *
check_cgroup (const char *folder, const struct room_swap *swap)
{
  char swapped[UNITS_TEXT_MAX], limit[UNITS_TEXT_MAX];
  struct cgroup_use use;
  uint64_t back, held, mib = 1 << 20;

  if (!read_cgroup (folder, &use))
    return NULL;
  back = MIN (use.swapped_bytes, swap->used_bytes);
  held = use.current_bytes - use.file_bytes;
  if (held + back <= use.limit_bytes ||
      held + back - use.limit_bytes <= swap->others_free_bytes)
    return NULL;
  return g_strdup_printf ("cgroup %s has up to %s swapped out, which its "
                          "memory.max of %s has no room for; raise that, or "
                          "end programs in it", folder,
                          units_format_size (back / mib * mib, swapped),
                          units_format_size (use.limit_bytes, limit));
}

/* The first that is too tight, in folder or below. */
static char *
check_cgroups (const char *folder, const struct room_swap *swap)
{
  GDir *dir = g_dir_open (folder, 0, NULL);
  char *problem = check_cgroup (folder, swap);
  const char *name;

  while (dir != NULL && problem == NULL &&
         (name = g_dir_read_name (dir)) != NULL) {
    g_autofree char *path = g_build_filename (folder, name, NULL);

    if (g_file_test (path, G_FILE_TEST_IS_DIR) &&
        !g_file_test (path, G_FILE_TEST_IS_SYMLINK))
      problem = check_cgroups (path, swap);
  }
  if (dir != NULL)
    g_dir_close (dir);
  return problem;
}

/* ---- all together ---- */

int
room_get_swap (const struct room_paths *paths, const char *device,
               struct room_swap *ret)
{
  g_autofree char *text = NULL;

  if (!g_file_get_contents (paths->swaps, &text, NULL, NULL))
    return -EIO;
  room_parse_swaps (text, device, ret);
  return 0;
}

static char *
explain (const char *device, const struct room_swap *swap,
         uint64_t available_bytes, uint64_t reserve_bytes)
{
  const uint64_t mib = 1 << 20;

  return g_strdup_printf ("%" G_GUINT64_FORMAT "M are swapped out on %s, but "
                          "only %" G_GUINT64_FORMAT "M of memory are "
                          "available (less %" G_GUINT64_FORMAT "M in reserve) "
                          "and %" G_GUINT64_FORMAT "M of other swap free; end "
                          "programs, or add swap", swap->used_bytes / mib,
                          device, available_bytes / mib, reserve_bytes / mib,
                          swap->others_free_bytes / mib);
}

char *
room_check (const struct room_paths *paths, const char *device)
{
  char text[KERNEL_FILE_MAX];
  uint64_t total, available, reserve;
  struct room_swap swap;

  if (room_get_swap (paths, device, &swap) < 0)
    return g_strdup_printf ("cannot read %s", paths->swaps);
  if (swap.used_bytes == 0)
    return NULL;
  if (kernel_file_read (paths->meminfo, text) < 0 ||
      room_parse_meminfo (text, &total, &available) < 0)
    return g_strdup_printf ("cannot read %s", paths->meminfo);
  reserve = total / RESERVE_DIVISOR;
  if (swap.used_bytes > swap.others_free_bytes +
      (available > reserve ? available - reserve : 0))
    return explain (device, &swap, available, reserve);
  return check_cgroups (paths->cgroups, &swap);
}
