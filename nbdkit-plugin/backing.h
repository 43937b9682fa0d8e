/* The local copy: a file or block device as large as the device. */

#ifndef ISW_BACKING_H
#define ISW_BACKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct backing;

/* Open and lock the local copy, and reserve size_bytes for it.  path NULL:
 * an unlinked file in $TMPDIR, else /var/tmp.  size_bytes 0: the size
 * that it has.  unsafe allows one in memory and one whose space cannot be
 * reserved.  NULL with a newly allocated line in *error that names the
 * path and the remedy.
 */
struct backing *backing_open (const char *path, uint64_t size_bytes,
                              bool unsafe, char **error);
void backing_close (struct backing *b);

uint64_t backing_size (const struct backing *b);
/* What to call it in messages. */
const char *backing_name (const struct backing *b);

/* For transfers by other means; stays the backing's. */
int backing_fd (const struct backing *b);

/* Whole transfers at page-aligned offsets from page-aligned memory: 0 or
 * -errno.  They block on the disk, and may be called from any thread.
 */
int backing_read (struct backing *b, void *buf, size_t len, uint64_t offset);
int backing_write (struct backing *b, struct iovec *iov, int n,
                   uint64_t offset);
/* Make a range read as zeros, keeping its space reserved. */
int backing_zero (struct backing *b, uint64_t offset, uint64_t len);
/* Everything written before is on stable storage afterwards. */
int backing_flush (struct backing *b);

#endif /* ISW_BACKING_H */
