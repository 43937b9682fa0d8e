/* The data path: cuts a request at slab edges and into spans of at most
 * 128 KiB, sends each span to its source, and joins.
 *
 * All functions are for many threads at once.  They return 0 or -errno
 * (-EIO, -ENOSPC) as the NBD client is to see it.
 */

#ifndef ISW_DEVICE_H
#define ISW_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "conf/histogram.h"
#include "nbdkit-plugin/lane_pool.h"
#include "nbdkit-plugin/page_order.h"

struct backing;
struct slab_table;
struct slot_pool;
struct write_behind;
struct sender;
struct read_ahead;

struct device_counters {
  _Atomic uint64_t read_slots, read_donors, read_disk, read_zero;
  _Atomic uint64_t fetched_ahead; /* from donors, before they were read */
  _Atomic uint64_t read_ahead;  /* of read_donors: had been fetched so */
  _Atomic uint64_t written, written_donors, written_disk, trimmed;
  _Atomic uint64_t promoted;    /* read from disk, and written to a donor */
  _Atomic uint64_t saved;       /* refused by the local copy, and there now */
  _Atomic uint64_t deadlines_missed, io_errors;
};

/* What is timed: requests, from their coming to their result; and page
 * reads, from asking the source that had the page to its content, each
 * page of a run for itself.
 */
enum device_latency {
  LATENCY_READ, LATENCY_WRITE, LATENCY_FLUSH,
  LATENCY_DISCARD,              /* trim and zero */
  LATENCY_READ_SLOTS, LATENCY_READ_DONORS, LATENCY_READ_DISK,
  LATENCY_READ_ZERO,
  LATENCIES
};

struct device_params {
  uint64_t size_bytes;
  uint64_t slab_size_bytes;
  double smoothing, hot_slab, cold_slab;
  unsigned lanes;
  uint64_t write_behind_bytes;
  int64_t write_delay_ns;
  uint64_t read_ahead_bytes;
  int64_t deadline_ns;
  struct backing *backing;      /* stays the caller's */
  /* From any thread: a slab became hot or drained, see to it.  Must not
   * block or allocate.
   */
  void (*wake) (void *data);
  void *data;
};

struct device {
  struct device_params params;
  char *arena;                  /* slots, then the lanes' landing buffers */
  size_t arena_bytes;
  struct slab_table *slabs;
  struct slot_pool *slots;
  struct page_order order;
  struct lane_pool lanes;
  struct lane_pool disk_buffers; /* aligned memory for reads from disk */
  struct write_behind *writers;
  struct read_ahead *ahead;
  atomic_uint reading;          /* read requests in flight */
  struct sender *sender;
  _Atomic uint64_t overtaken;   /* commits of pages that the local copy did not
                                   have as they were acknowledged before */
  struct device_counters counters;
  struct histogram *latencies[LATENCIES];
};

/* The sender's lane comes after those of the requests: so many queues a
 * session needs.
 */
static inline unsigned
device_sender_lane (const struct device *d)
{
  return d->params.lanes;
}

static inline unsigned
device_queues (const struct device *d)
{
  return d->params.lanes + 1;
}

/* Allocate, and start the threads.  NULL with errno set. */
struct device *device_new (const struct device_params *params);

/* Write everything to the local copy (0 or the error of that), stop the
 * threads.  No request may be running; slabs may still be mapped.
 */
int device_stop (struct device *d);
/* After device_stop, once no session uses the arena. */
void device_free (struct device *d);

int device_read (struct device *d, void *buf, uint32_t count,
                 uint64_t offset);
int device_write (struct device *d, const void *buf, uint32_t count,
                  uint64_t offset);
/* The range reads as zeros afterwards. */
int device_zero (struct device *d, uint32_t count, uint64_t offset);
/* The same for whole pages; partial ones at the ends stay as they are. */
int device_trim (struct device *d, uint32_t count, uint64_t offset);
/* The local copy has everything acknowledged before, on stable storage. */
int device_flush (struct device *d);

/* Bring to the local copy what it refused and only a donor has, of one
 * slab or of all: 0 if nothing is left.  Passes over single pages that the
 * local copy refuses, and begins nothing after until_ns, which may
 * change meanwhile.
 */
int device_save (struct device *d, uint64_t slab,
                 const _Atomic int64_t *until_ns);
int device_save_all (struct device *d, int64_t until_ns);

/* Copy what a mapped slab's donor has to `next`, a home which nobody uses
 * yet, and let the slab live there.  Requests go on meanwhile; what they
 * write is copied again, and at last writers wait for what is left.  From
 * until_ns (which may change) on only that is copied: pages that only the
 * donor has, and as many of the others as half a deadline suffices for; the
 * rest is on the local copy as well.  On success no request uses the former
 * home any more; on failure the slab still lives there.  May end either
 * session.
 */
struct slab_home;
int device_move (struct device *d, uint64_t slab,
                 const struct slab_home *next,
                 const _Atomic int64_t *until_ns);

#endif /* ISW_DEVICE_H */
