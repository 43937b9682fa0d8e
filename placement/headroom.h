/* How much memory a donor may lend: the paper's section 4.4.
 *
 * U, what everything else on the node uses, is total - available - held;
 * the donor may hold what is left above U and the headroom, and no more
 * than its own limit.
 */

#ifndef ISW_HEADROOM_H
#define ISW_HEADROOM_H

#include <stdint.h>

/* U from one sample; never negative. */
uint64_t headroom_used_by_others (uint64_t total_bytes,
                                  uint64_t available_bytes,
                                  uint64_t held_bytes);

/* The most the donor may hold, given U (averaged). */
uint64_t headroom_may_hold (uint64_t total_bytes, uint64_t used_bytes,
                            uint64_t headroom_bytes, uint64_t limit_bytes);

#endif /* ISW_HEADROOM_H */
