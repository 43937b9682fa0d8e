/* What a lane carries for one span: operations, all to one home of one
 * slab, which the caller holds pinned from before the first post until
 * after the landing.
 */

#ifndef ISW_FLIGHT_H
#define ISW_FLIGHT_H

#include "nbdkit-plugin/device.h"
#include "nbdkit-plugin/slab_table.h"

struct flight {
  struct lane *lane;
  struct slab_home home;
  uint64_t slab;
  unsigned ops;                 /* posted: lane->ops[0 .. ops - 1] */
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

/* Are all operations over by until_ns (0: now)?  Those that are not go
 * on.
 */
bool flight_has_landed (const struct flight *f, int64_t until_ns);

/* Wait for the operations, at most until deadline_ns; if anything failed
 * or was late the session ends.  0 or the error; op->status tells of
 * each.
 */
int flight_land (struct device *d, struct flight *f, int64_t deadline_ns);

#endif /* ISW_FLIGHT_H */
