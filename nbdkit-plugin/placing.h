/* One slab's way to a donor: draw donors and probe them, choose the one
 * with the most free memory, ask it for a slab, wait for the lanes.
 * Every step is a state with a timer, so that slow donors delay nobody
 * else.  For the mapper thread only.
 */

#ifndef ISW_PLACING_H
#define ISW_PLACING_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "nbdkit-plugin/donor_pool.h"
#include "nbdkit-plugin/slab_table.h"

enum {
  PROBES_MAX = 16,
  /* Slabs that a donor is asked about at a time: it has to answer all of
   * them within the deadline, and may have to register memory for each.
   */
  ASKED_MAX = 8,
};

struct placing;

struct placing_params {
  GMainContext *context;
  struct donor_pool *donors;
  unsigned probes;
  uint64_t max_slabs_per_donor;
  uint64_t slab_size_bytes;
  int64_t deadline_ns;
  /* Called once, at the end: the slab's home, or NULL if no donor takes
   * it now.  The placing is freed afterwards.
   */
  void (*done) (void *data, uint64_t slab, struct donor *donor,
                const struct slab_home *home);
  void *data;
};

/* Begin; NULL if no donor can be asked now (`done` is not called).  `avoid`
 * (or NULL) is asked only when no other donor takes the slab.  What is
 * urgent is asked for however much a donor is asked for already.
 */
struct placing *placing_start (const struct placing_params *params,
                               uint64_t slab, const struct donor *avoid,
                               bool urgent);
/* Give up, without calling `done`. */
void placing_free (struct placing *p);

/* What happens at the donors.  placing_message is true if the message was
 * this placing's.  `done` may be called, and the placing be freed, in
 * each.
 */
bool placing_message (struct placing *p, struct donor *d,
                      const struct message *m);
void placing_lanes_ready (struct placing *p, struct donor *d);
void placing_donor_ended (struct placing *p, struct donor *d);
/* The donor wants a grant back; true if it is this placing's, which looks
 * elsewhere then.
 */
bool placing_evicted (struct placing *p, struct donor *d, uint64_t grant);

#endif /* ISW_PLACING_H */
