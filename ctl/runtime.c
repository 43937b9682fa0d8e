#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib.h>

#include "conf/kernel_file.h"
#include "conf/units.h"
#include "ctl/runtime.h"

enum { RECORD_MAX = 64 << 10 };

static const char group[] = "attached";

void
runtime_init (struct runtime *r, const char *folder, const char *name)
{
  *r = (struct runtime) {
    .folder = g_strdup (folder),
    .pid_path = g_strdup_printf ("%s/%s.pid", folder, name),
    .state_path = g_strdup_printf ("%s/%s.sock", folder, name),
    .nbd_path = g_strdup_printf ("%s/%s.nbd", folder, name),
    .control_path = g_strdup_printf ("%s/%s.ctl", folder, name),
    .lock_fd = -1,
  };
}

void
runtime_clear (struct runtime *r)
{
  if (r->lock_fd != -1)
    close (r->lock_fd);
  g_free (r->folder);
  g_free (r->pid_path);
  g_free (r->state_path);
  g_free (r->nbd_path);
  g_free (r->control_path);
  *r = (struct runtime) { .lock_fd = -1 };
}

/* Whoever had the lock may have removed the file since it was opened. */
static bool
is_path_of (int fd, const char *path)
{
  struct stat by_fd, by_path;

  return fstat (fd, &by_fd) == 0 && stat (path, &by_path) == 0 &&
    by_fd.st_dev == by_path.st_dev && by_fd.st_ino == by_path.st_ino;
}

int
runtime_lock (struct runtime *r, char **error)
{
  int fd;

  if (mkdir (r->folder, 0755) == -1 && errno != EEXIST)
    goto failed;
  for (;;) {
    fd = open (r->pid_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd == -1)
      goto failed;
    if (flock (fd, LOCK_EX | LOCK_NB) == -1) {
      close (fd);
      return -EBUSY;
    }
    if (is_path_of (fd, r->pid_path))
      break;
    close (fd);
  }
  r->lock_fd = fd;
  return 0;

 failed:
  *error = g_strdup_printf ("cannot create %s: %s", r->pid_path,
                            g_strerror (errno));
  return -errno;
}

bool
runtime_exists (const struct runtime *r)
{
  return access (r->pid_path, F_OK) == 0;
}

static bool
parse_record (GKeyFile *file, struct runtime_record *ret)
{
  *ret = (struct runtime_record) {
    .server.pid = g_key_file_get_integer (file, group, "server", NULL),
    .server.start = g_key_file_get_uint64 (file, group, "server-start",
                                           NULL),
    .index = g_key_file_get_integer (file, group, "index", NULL),
    .plugin = g_key_file_get_string (file, group, "plugin", NULL),
    .config = g_key_file_get_string_list (file, group, "config", NULL, NULL),
  };
  if (ret->plugin != NULL && ret->config != NULL)
    return true;
  runtime_record_clear (ret);
  return false;
}

bool
runtime_read (const struct runtime *r, struct runtime_record *ret)
{
  g_autofree char *text = g_malloc (RECORD_MAX);
  ssize_t len = pread (r->lock_fd, text, RECORD_MAX, 0);
  GKeyFile *file = g_key_file_new ();
  bool ok = len > 0 &&
    g_key_file_load_from_data (file, text, len, G_KEY_FILE_NONE, NULL) &&
    parse_record (file, ret);

  g_key_file_free (file);
  return ok;
}

/* In place, since the lock is on this file.  A reader has the lock, so
 * only a crash in between could leave half a record; nothing is made
 * before the new length is known to be written.
 */
int
runtime_write (const struct runtime *r, const struct runtime_record *record)
{
  GKeyFile *file = g_key_file_new ();
  g_autofree char *text = NULL;
  gsize len;
  int result = 0;

  g_key_file_set_integer (file, group, "supervisor", getpid ());
  g_key_file_set_integer (file, group, "server", record->server.pid);
  g_key_file_set_uint64 (file, group, "server-start", record->server.start);
  g_key_file_set_integer (file, group, "index", record->index);
  g_key_file_set_string (file, group, "plugin", record->plugin);
  g_key_file_set_string_list (file, group, "config",
                              (const char *const *) record->config,
                              g_strv_length (record->config));
  text = g_key_file_to_data (file, &len, NULL);
  g_key_file_free (file);
  if (pwrite (r->lock_fd, text, len, 0) != (ssize_t) len ||
      ftruncate (r->lock_fd, len) == -1)
    result = errno != 0 ? -errno : -EIO;
  return result;
}

void
runtime_record_clear (struct runtime_record *record)
{
  g_free (record->plugin);
  g_strfreev (record->config);
  *record = (struct runtime_record) { .index = -1 };
}

void
runtime_remove (struct runtime *r)
{
  unlink (r->control_path);
  unlink (r->state_path);
  unlink (r->nbd_path);
  unlink (r->pid_path);
  close (r->lock_fd);
  r->lock_fd = -1;
}

/* Field 22; the name in field 2 may hold anything. */
bool
runtime_process_start (pid_t pid, uint64_t *ret)
{
  char text[KERNEL_FILE_MAX], path[64];
  const char *field;

  snprintf (path, sizeof path, "/proc/%d/stat", (int) pid);
  if (kernel_file_read (path, text) < 0)
    return false;
  field = strrchr (text, ')');
  for (int i = 2; field != NULL && i < 22; i++)
    field = strchr (field + 1, ' ');
  return field != NULL && kernel_file_number (field, ret, NULL) == 0;
}

bool
runtime_process_alive (const struct runtime_process *p)
{
  uint64_t start;

  return p->pid > 0 && runtime_process_start (p->pid, &start) &&
    start == p->start;
}
