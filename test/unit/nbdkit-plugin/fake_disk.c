/* Defines the C library's functions of these names for the whole test. */

#include "fake_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum access { READ, WRITE };

struct range {
  uint64_t from, to;
};

/* An access in flight, on its thread's stack. */
struct flight {
  struct range range;
  struct flight *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct range bad, held[2];
static bool bad_reads;
static int64_t slow_ns;
static unsigned waiting, overlaps;
static struct flight *writes;

static bool
overlap (struct range a, struct range b)
{
  return a.from < b.to && b.from < a.to;
}

static void
wait_at_gate (enum access access, struct range r)
{
  waiting++;
  pthread_cond_broadcast (&changed);
  while (overlap (r, held[access]))
    pthread_cond_wait (&changed, &lock);
  waiting--;
}

/* Returns whether the access fails. */
static bool
begin (enum access access, struct flight *f, uint64_t from, uint64_t len)
{
  int64_t wait_ns;
  bool fails;

  f->range = (struct range) { from, from + len };
  pthread_mutex_lock (&lock);
  if (access == WRITE) {
    for (struct flight *o = writes; o; o = o->next)
      overlaps += overlap (f->range, o->range);
    f->next = writes;
    writes = f;
  }
  wait_ns = access == WRITE ? slow_ns : 0;
  if (overlap (f->range, held[access]))
    wait_at_gate (access, f->range);
  fails = overlap (f->range, bad) && (access == WRITE || bad_reads);
  pthread_mutex_unlock (&lock);
  if (wait_ns > 0)
    nanosleep (&(struct timespec) { wait_ns / 1000000000,
                                    wait_ns % 1000000000 }, NULL);
  return fails;
}

static void
end_write (struct flight *f)
{
  struct flight **at = &writes;

  pthread_mutex_lock (&lock);
  while (*at != f)
    at = &(*at)->next;
  *at = f->next;
  pthread_mutex_unlock (&lock);
}

ssize_t
pread (int fd, void *buf, size_t len, off_t offset)
{
  struct flight f;

  if (begin (READ, &f, offset, len)) {
    errno = EIO;
    return -1;
  }
  return syscall (SYS_pread64, fd, buf, len, offset);
}

ssize_t
pwritev (int fd, const struct iovec *iov, int n, off_t offset)
{
  struct flight f;
  size_t len = 0;
  ssize_t r = -1;

  for (int i = 0; i < n; i++)
    len += iov[i].iov_len;
  if (begin (WRITE, &f, offset, len))
    errno = EIO;
  else
    r = syscall (SYS_pwritev, fd, iov, n, offset, 0);
  end_write (&f);
  return r;
}

int
fallocate (int fd, int mode, off_t offset, off_t len)
{
  struct flight f;
  int r = -1;

  if (begin (WRITE, &f, offset, len))
    errno = EIO;
  else
    r = syscall (SYS_fallocate, fd, mode, offset, len);
  end_write (&f);
  return r;
}

void
fake_disk_reset (void)
{
  pthread_mutex_lock (&lock);
  bad = held[READ] = held[WRITE] = (struct range) { 0, 0 };
  slow_ns = 0;
  overlaps = 0;
  pthread_mutex_unlock (&lock);
}

void
fake_disk_fail (uint64_t from, uint64_t to, bool reads)
{
  pthread_mutex_lock (&lock);
  bad = (struct range) { from, to };
  bad_reads = reads;
  pthread_mutex_unlock (&lock);
}

void
fake_disk_mend (void)
{
  fake_disk_fail (0, 0, false);
}

void
fake_disk_slow (int64_t ns)
{
  pthread_mutex_lock (&lock);
  slow_ns = ns;
  pthread_mutex_unlock (&lock);
}

static void
hold (enum access access, uint64_t from, uint64_t to)
{
  pthread_mutex_lock (&lock);
  held[access] = (struct range) { from, to };
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&lock);
}

void
fake_disk_hold_reads (uint64_t from, uint64_t to)
{
  hold (READ, from, to);
}

void
fake_disk_hold_writes (uint64_t from, uint64_t to)
{
  hold (WRITE, from, to);
}

void
fake_disk_wait_held (unsigned count)
{
  pthread_mutex_lock (&lock);
  while (waiting < count)
    pthread_cond_wait (&changed, &lock);
  pthread_mutex_unlock (&lock);
}

void
fake_disk_pass (void)
{
  pthread_mutex_lock (&lock);
  held[READ] = held[WRITE] = (struct range) { 0, 0 };
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&lock);
}

unsigned
fake_disk_overlaps (void)
{
  unsigned n;

  pthread_mutex_lock (&lock);
  n = overlaps;
  pthread_mutex_unlock (&lock);
  return n;
}
