/* The parts of the data path, for device.c and each other.  Like
 * device.h's functions they are for many threads at once and return 0 or
 * -errno.
 */

#ifndef ISW_DEVICE_PARTS_H
#define ISW_DEVICE_PARTS_H

#include "fabric/fabric.h"
#include "nbdkit-plugin/device.h"
#include "nbdkit-plugin/span.h"

static inline void
device_count (_Atomic uint64_t *counter, uint64_t by)
{
  atomic_fetch_add_explicit (counter, by, memory_order_relaxed);
}

/* What began at begin_ns has ended now, `times` times. */
static inline void
device_note (struct device *d, enum device_latency what, int64_t begin_ns,
             uint32_t times)
{
  histogram_note (d->latencies[what], fabric_now_ns () - begin_ns, times);
}

/* Read a span into its buffer; no donor is waited for past deadline_ns. */
int device_read_span (struct device *d, const struct span *s,
                      int64_t deadline_ns);
/* Of n pages from `first` on, of one slab: how many, from the first one on, its
 * donor has; and how many of them could be read from it into buf.  The
 * parameters are read_ahead.h's.
 */
uint32_t device_count_fetchable (void *d, uint64_t first, uint32_t n);
uint32_t device_fetch (void *d, uint64_t first, uint32_t n, char *buf);
/* Write a span from its buffer, under its pages' claim. */
int device_write_span (struct device *d, const struct span *s,
                       int64_t deadline_ns);

/* --- for the writer (write_behind.h), one thread --- */

/* Have a run of slots, within one slab, written to the slab's donor as well,
 * if it has one, by a thread of its own.  If there is no room for it among
 * what that donor, or all, get already: with until_ns 0, false; else that is
 * waited for until then, but not once the oldest of it has been on its way for
 * 100 ms, and then the local copy alone gets the run.  The parameters are
 * write_behind.h's.
 */
bool device_send (void *d, uint64_t first, const uint32_t *slots, uint32_t n,
                  int64_t until_ns);

/* Start the thread: 0 or -errno; device_free_sender frees in any case. */
int device_start_sending (struct device *d);
/* Wait until everything sent has landed or is late, and end the thread. */
void device_stop_sending (struct device *d);
void device_free_sender (struct device *d);

/* Make the pages from `first` to before `end` read as zeros, in the
 * bookkeeping alone.
 */
void device_zero_pages (struct device *d, uint64_t first, uint64_t end);
/* Zero on the local copy what reads as zeros for that. */
int device_settle_zeros (struct device *d);

#endif /* ISW_DEVICE_PARTS_H */
