/* LD_PRELOAD for a program whose disk is to be slow or to fail: what it
 * does to the file $SICK_DISK_FILE goes as the words in the file
 * $SICK_DISK_CONTROL say at that moment.  Needs no device-mapper.
 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* What test/chaos/trouble.py writes. */
struct control {
  _Atomic uint32_t write_errors; /* of 1000 writes, so many fail */
  _Atomic uint32_t read_errors;  /* of 1000 reads */
  _Atomic uint32_t flush_errors; /* of 1000 flushes */
  _Atomic uint32_t delay_us;     /* of each, from none to twice as long */
};

static struct control healthy, *control = &healthy;

static void __attribute__ ((constructor))
map_control (void)
{
  const char *path = getenv ("SICK_DISK_CONTROL");
  int fd = path ? open (path, O_RDONLY | O_CLOEXEC) : -1;
  void *p;

  if (fd == -1)
    return;
  p = mmap (NULL, sizeof *control, PROT_READ, MAP_SHARED, fd, 0);
  close (fd);
  if (p != MAP_FAILED)
    control = p;
}

/* Asked each time, since descriptors are reused; the file may be made
 * after we are.
 */
static bool
is_sick (int fd)
{
  const char *path = getenv ("SICK_DISK_FILE");
  struct stat a, b;

  return path && fstat (fd, &a) == 0 && stat (path, &b) == 0 &&
    a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static uint32_t
random_below (uint32_t n)
{
  static _Atomic uint64_t state;
  uint64_t z = atomic_fetch_add (&state, UINT64_C (0x9e3779b97f4a7c15));

  z = (z ^ z >> 30) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C (0x94d049bb133111eb);
  return (z >> 32) % n;
}

/* Also tells whether the operation is to fail. */
static bool
suffer (int fd, const _Atomic uint32_t *errors)
{
  uint32_t delay_us;

  if (!is_sick (fd))
    return false;
  delay_us = atomic_load (&control->delay_us);
  if (delay_us > 0)
    usleep (random_below (2 * delay_us));
  if (random_below (1000) >= atomic_load (errors))
    return false;
  errno = EIO;
  return true;
}

/* The next definition of a function, with the type of ours. */
#define NEXT(function) ((__typeof__ (&function)) dlsym (RTLD_NEXT, #function))

#define EXPORT __attribute__ ((visibility ("default")))

/* Half of what fails has been done before that. */
static ssize_t
half_write (int fd, const struct iovec *iov, off_t offset)
{
  size_t half = iov->iov_len / 2 / 4096 * 4096;

  if (half > 0 && random_below (2) == 0 &&
      NEXT (pwrite) (fd, iov->iov_base, half, offset) == -1)
    return -1;
  errno = EIO;
  return -1;
}

EXPORT ssize_t
pwritev (int fd, const struct iovec *iov, int n, off_t offset)
{
  return suffer (fd, &control->write_errors) ? half_write (fd, iov, offset) :
    NEXT (pwritev) (fd, iov, n, offset);
}

EXPORT ssize_t
pwrite (int fd, const void *buf, size_t len, off_t offset)
{
  const struct iovec iov = { (void *) buf, len };

  return suffer (fd, &control->write_errors) ? half_write (fd, &iov, offset) :
    NEXT (pwrite) (fd, buf, len, offset);
}

EXPORT ssize_t
pread (int fd, void *buf, size_t len, off_t offset)
{
  return suffer (fd, &control->read_errors) ? -1 :
    NEXT (pread) (fd, buf, len, offset);
}

EXPORT int
fdatasync (int fd)
{
  return suffer (fd, &control->flush_errors) ? -1 : NEXT (fdatasync) (fd);
}

EXPORT int
fallocate (int fd, int mode, off_t offset, off_t len)
{
  return suffer (fd, &control->write_errors) ? -1 :
    NEXT (fallocate) (fd, mode, offset, len);
}

/* The same under the names that programs with large files use. */
EXPORT ssize_t pwritev64 (int, const struct iovec *, int, off_t)
  __attribute__ ((alias ("pwritev")));
EXPORT ssize_t pwrite64 (int, const void *, size_t, off_t)
  __attribute__ ((alias ("pwrite")));
EXPORT ssize_t pread64 (int, void *, size_t, off_t)
  __attribute__ ((alias ("pread")));
EXPORT int fallocate64 (int, int, off_t, off_t)
  __attribute__ ((alias ("fallocate")));
