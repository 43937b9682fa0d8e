/* What one lane carries between memory of the device and one home of one
 * slab, which the caller holds pinned from before the first post until
 * after the landing.  Several may share a lane.
 */

#ifndef ISW_FLIGHT_H
#define ISW_FLIGHT_H

#include "nbdkit-plugin/device.h"
#include "nbdkit-plugin/slab_table.h"

struct flight {
  unsigned lane;
  struct fabric_op *ops;        /* the caller's; posted are the first n */
  unsigned n;
  struct slab_home home;
  uint64_t slab;
  int error;                    /* of posting */
};

/* Is enough of the request's deadline left to begin one?  A flight that is
 * late ends its session, which must not happen to a donor that is well
 * because the request has waited for something else.
 */
bool flight_has_time (const struct device *d, int64_t deadline_ns);

/* Post one operation for n adjacent pages, from or to `local` in the
 * device's arena; after a failure no more are posted.
 */
void flight_post (struct device *d, struct flight *f, enum fabric_type type,
                  void *local, uint64_t page, uint32_t n);

/* Are all its operations known to be over?  Does not look. */
bool flight_has_landed (const struct flight *f);

/* Wait for the operations, at most until deadline_ns; if anything failed
 * or was late the session ends.  0 or the error; op->status tells of
 * each.
 */
int flight_land (struct device *d, struct flight *f, int64_t deadline_ns);

#endif /* ISW_FLIGHT_H */
