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
/* Write a span from its buffer, under its pages' claim. */
int device_write_span (struct device *d, const struct span *s,
                       int64_t deadline_ns);

/* A lane that is free, or has landed for the caller, who gives it back with
 * lane_pool_put; NULL if there is none until deadline_ns.
 */
struct lane *device_take_lane (struct device *d, int64_t deadline_ns);

/* Begin to write the claimed pages to their donor, from filled slots, and
 * make these their content; the claim is the lane's then.  False, and
 * nothing done, if no donor can take them in time.
 */
bool device_send (struct device *d, struct page_claim *claim,
                  const uint32_t *slots, int64_t deadline_ns);
/* Claim pages (page_order.h), having seen to it that what is being sent of
 * them lands.
 */
void device_claim (struct device *d, struct page_claim *claim,
                   uint64_t first, uint64_t n);
/* True if some of these pages have landed just now. */
bool device_land_pages (struct device *d, uint64_t first, uint64_t n);
/* Wait until nothing is being sent of these pages, or written by anyone. */
void device_settle_pages (struct device *d, uint64_t first, uint64_t n);

int device_start_sending (struct device *d);
/* Wait for what is being sent; no request may be running. */
void device_stop_sending (struct device *d);

/* Make the pages from `first` to before `end` read as zeros, in the
 * bookkeeping alone.
 */
void device_zero_pages (struct device *d, uint64_t first, uint64_t end);
/* Zero on the local copy what reads as zeros for that. */
int device_settle_zeros (struct device *d);

#endif /* ISW_DEVICE_PARTS_H */
