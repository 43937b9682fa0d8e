/* Writes of a file in flight, begun and ended many at a time: one system
 * call, and one notification of the disk, for all of them.  For one
 * thread.
 */

#ifndef ISW_DISK_QUEUE_H
#define ISW_DISK_QUEUE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <libaio.h>

/* The caller's, from its start until it is reaped, like the vector and
 * what that points at.
 */
struct disk_write {
  struct iocb iocb;             /* internal, like the next */
  struct disk_write *link;
  size_t len;                   /* all of the vector */
  int result;                   /* once reaped: 0 or -errno */
};

struct disk_queue;

/* For at most `depth` writes of fd in flight.  Where the kernel refuses to
 * have them (fs.aio-max-nr, a seccomp filter), disk_queue_submit writes by
 * itself, one after the other.  NULL if memory is short.
 */
struct disk_queue *disk_queue_new (int fd, unsigned depth);
/* Waits until nothing is in flight.  NULL is allowed. */
void disk_queue_free (struct disk_queue *q);

/* Put a write of n elements into the batch, which is full after `depth`. */
void disk_queue_add (struct disk_queue *q, struct disk_write *w,
                     const struct iovec *iov, int n, uint64_t offset);
/* Begin the batch.  What the kernel does not begin is written meanwhile. */
void disk_queue_submit (struct disk_queue *q);
/* One that has ended; NULL if none is in flight, or none ends within
 * wait_ns (DISK_QUEUE_EVER: as long as that takes).
 */
#define DISK_QUEUE_EVER INT64_MAX
struct disk_write *disk_queue_reap (struct disk_queue *q, int64_t wait_ns);

#endif /* ISW_DISK_QUEUE_H */
