#include "nbdkit-plugin/backing.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <glib.h>

#include "conf/units.h"

enum { ALIGNMENT = 4096, ZERO_CHUNK = 64 << 10 };

struct backing {
  int fd;
  char *name;
  uint64_t size;
  bool created;                 /* by us, so that it goes if we refuse */
};

/* O_DIRECT, where the file system can, because the page cache would grow
 * exactly when memory is short.
 */
static int
open_direct (const char *path, int flags, mode_t mode)
{
  int fd = open (path, flags | O_DIRECT, mode);

  if (fd == -1 && errno == EINVAL)
    fd = open (path, flags, mode);
  return fd;
}

static int
open_file (struct backing *b, const char *path, char **error)
{
  const char *dir = getenv ("TMPDIR");

  if (path) {
    b->name = g_strdup (path);
    b->created = access (path, F_OK) == -1 && errno == ENOENT;
    b->fd = open_direct (path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  }
  else {
    if (!dir || !*dir)
      dir = "/var/tmp";
    b->name = g_strdup_printf ("%s (unlinked file)", dir);
    b->fd = open_direct (dir, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
  }
  if (b->fd == -1) {
    *error = g_strdup_printf ("backing: cannot open %s: %s",
                              b->name, strerror (errno));
    return -1;
  }
  return 0;
}

static int
check_place (struct backing *b, const struct stat *st, bool unsafe,
             char **error)
{
  struct statfs fs;

  if (!S_ISREG (st->st_mode) && !S_ISBLK (st->st_mode)) {
    *error = g_strdup_printf ("backing: %s is neither a regular file nor a "
                              "block device", b->name);
    return -1;
  }
  if (flock (b->fd, LOCK_EX | LOCK_NB) == -1) {
    b->created = false;         /* it is theirs */
    *error = g_strdup_printf ("backing: %s is in use by another process (%s);"
                              " give each device its own", b->name,
                              strerror (errno));
    return -1;
  }
  if (S_ISREG (st->st_mode) && !unsafe && fstatfs (b->fd, &fs) == 0 &&
      (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)) {
    *error = g_strdup_printf ("backing: %s lies in memory (tmpfs or ramfs); "
                              "name a file on a disk with backing=, or set "
                              "TMPDIR, or accept it with backing-unsafe=1",
                              b->name);
    return -1;
  }
  return 0;
}

static uint64_t
present_size (const struct backing *b, const struct stat *st)
{
  uint64_t size = 0;

  if (S_ISREG (st->st_mode))
    return st->st_size;
  if (ioctl (b->fd, BLKGETSIZE64, &size) == -1)
    return 0;
  return size;
}

/* Settle the size: what was asked for, or what is there. */
static int
settle_size (struct backing *b, uint64_t present, uint64_t size_bytes,
             bool is_new, char **error)
{
  char want[UNITS_TEXT_MAX], have[UNITS_TEXT_MAX];

  b->size = size_bytes ? size_bytes : present;
  if (b->size == 0 || b->size % ALIGNMENT != 0) {
    *error = g_strdup_printf ("backing: %s has %" G_GUINT64_FORMAT " bytes, "
                              "which is no device size (a multiple of 4096 "
                              "above 0); give size=", b->name, b->size);
    return -1;
  }
  if (!is_new && present < b->size) {
    *error = g_strdup_printf ("backing: %s has only %s, and size=%s was asked "
                              "for; extend it or give a smaller size",
                              b->name, units_format_size (present, have),
                              units_format_size (b->size, want));
    return -1;
  }
  return 0;
}

static int
reserve (struct backing *b, bool unsafe, char **error)
{
  char want[UNITS_TEXT_MAX];

  if (fallocate (b->fd, 0, 0, b->size) == 0)
    return 0;
  if (unsafe && errno == EOPNOTSUPP && ftruncate (b->fd, b->size) == 0)
    return 0;
  *error = g_strdup_printf ("backing: cannot reserve %s for %s: %s%s",
                            units_format_size (b->size, want), b->name,
                            strerror (errno),
                            errno == EOPNOTSUPP ?
                            " (accept it with backing-unsafe=1)" : "");
  return -1;
}

/* A file that is as it was created may grow; one with content may not. */
static int
prepare (struct backing *b, uint64_t size_bytes, bool unsafe, char **error)
{
  struct stat st;
  uint64_t present;
  bool is_new;

  if (fstat (b->fd, &st) == -1) {
    *error = g_strdup_printf ("backing: %s: %s", b->name, strerror (errno));
    return -1;
  }
  if (check_place (b, &st, unsafe, error) == -1)
    return -1;
  present = present_size (b, &st);
  is_new = S_ISREG (st.st_mode) && present == 0;
  if (settle_size (b, present, size_bytes, is_new, error) == -1)
    return -1;
  if (!S_ISREG (st.st_mode) || reserve (b, unsafe, error) == 0)
    return 0;
  /* A later start must not take the unreserved rest for content. */
  if (is_new && ftruncate (b->fd, 0) == -1)
    return -1;
  return -1;
}

struct backing *
backing_open (const char *path, uint64_t size_bytes, bool unsafe,
              char **error)
{
  struct backing *b = g_new0 (struct backing, 1);

  *error = NULL;
  if (open_file (b, path, error) == -1 ||
      prepare (b, size_bytes, unsafe, error) == -1) {
    if (b->created)
      unlink (path);
    backing_close (b);
    return NULL;
  }
  return b;
}

void
backing_close (struct backing *b)
{
  if (!b)
    return;
  if (b->fd != -1)
    close (b->fd);
  g_free (b->name);
  g_free (b);
}

uint64_t
backing_size (const struct backing *b)
{
  return b->size;
}

const char *
backing_name (const struct backing *b)
{
  return b->name;
}

int
backing_fd (const struct backing *b)
{
  return b->fd;
}

int
backing_read (struct backing *b, void *buf, size_t len, uint64_t offset)
{
  while (len > 0) {
    ssize_t r = pread (b->fd, buf, len, offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r == -1)
      return -errno;
    if (r == 0)
      return -EIO;              /* the file was cut short behind our back */
    buf = (char *) buf + r;
    len -= r;
    offset += r;
  }
  return 0;
}

/* Drop what was written from the front of the vector. */
static int
advance (struct iovec **iov, int n, size_t done)
{
  while (n > 0 && done >= (*iov)->iov_len) {
    done -= (*iov)->iov_len;
    (*iov)++;
    n--;
  }
  if (n > 0) {
    (*iov)->iov_base = (char *) (*iov)->iov_base + done;
    (*iov)->iov_len -= done;
  }
  return n;
}

int
backing_write (struct backing *b, struct iovec *iov, int n, uint64_t offset)
{
  while (n > 0) {
    ssize_t r = pwritev (b->fd, iov, n, offset);

    if (r == -1 && errno == EINTR)
      continue;
    if (r <= 0)
      return r == 0 ? -EIO : -errno;
    offset += r;
    n = advance (&iov, n, r);
  }
  return 0;
}

static int
write_zeros (struct backing *b, uint64_t offset, uint64_t len)
{
  static const char zeros[ZERO_CHUNK] __attribute__ ((aligned (ALIGNMENT)));

  while (len > 0) {
    struct iovec iov = {
      .iov_base = (void *) zeros,
      .iov_len = len < ZERO_CHUNK ? len : ZERO_CHUNK,
    };
    size_t some = iov.iov_len;
    int r = backing_write (b, &iov, 1, offset);

    if (r < 0)
      return r;
    offset += some;
    len -= some;
  }
  return 0;
}

int
backing_zero (struct backing *b, uint64_t offset, uint64_t len)
{
  if (fallocate (b->fd, FALLOC_FL_ZERO_RANGE, offset, len) == 0)
    return 0;
  if (errno == EOPNOTSUPP || errno == EINVAL)
    return write_zeros (b, offset, len);
  return -errno;
}

int
backing_flush (struct backing *b)
{
  return fdatasync (b->fd) == -1 ? -errno : 0;
}
