/* Where a slab goes: power of two choices, the paper's section 4.3.
 *
 * Donors without a slab of this device (M_new) come before those with
 * one (M_old); `probes` of them, drawn at random, are asked for their
 * free memory, and the one with the most gets the slab.
 */

#ifndef ISW_CHOOSE_H
#define ISW_CHOOSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "placement/random.h"

struct choose_donor {
  bool usable;                  /* reachable, not at its limit, not refusing */
  uint64_t slabs;               /* of this device, those under way included */
};

/* Draw up to `probes` distinct usable donors of n, uniformly from M_new,
 * or from M_old when no usable donor is in M_new.  Their indices go to
 * out (room for `probes`); returns how many, 0 if none is usable.
 */
size_t choose_probes (const struct choose_donor *donors, size_t n,
                      size_t probes, struct choose_random *random,
                      size_t *out);

/* Of n answers, the index of the one with the most free memory that can
 * hold a slab of slab_bytes; ties are broken at random; -1 if none can.
 */
ssize_t choose_most_free (const uint64_t *free_bytes, size_t n,
                          uint64_t slab_bytes,
                          struct choose_random *random);

#endif /* ISW_CHOOSE_H */
