/* How much memory a donor may lend: the paper's section 4.4.
 *
 * U, what everything else on the node uses, is total - available - held;
 * the donor may hold what is left above U and the headroom, and no more
 * than its own limit.
 */

#ifndef ISW_HEADROOM_H
#define ISW_HEADROOM_H

#include <stdbool.h>
#include <stdint.h>

/* U from one sample; never negative. */
uint64_t headroom_used_by_others (uint64_t total_bytes,
                                  uint64_t available_bytes,
                                  uint64_t held_bytes);

enum { HEADROOM_SAMPLES = 5 };

/* U when the next sample is due, from the last samples, the newest first,
 * all at the same distance.  A rise that came twice in them may come
 * again: it is the second largest that is added.  If slabs only went once
 * a sample shows need, less than the headroom would be free for as long
 * as others come to need more.  A single rise says nothing about the next
 * one, and a fall is left to the samples.
 */
uint64_t headroom_foresee (const uint64_t used_bytes[HEADROOM_SAMPLES]);

/* The most the donor may hold, given U: the worse of its average and
 * what is foreseen.
 */
uint64_t headroom_may_hold (uint64_t total_bytes, uint64_t used_bytes,
                            uint64_t headroom_bytes, uint64_t limit_bytes);

/* Whether tasks that stall for memory count as need of the node: while
 * less than twice the headroom is available.  With more, they stall at
 * the limit of a cgroup of their own, and what the donor gives back does
 * not help them.
 */
bool headroom_stalls_count (uint64_t available_bytes,
                            uint64_t headroom_bytes);

/* The most the donor may lend.  It falls with what it may hold at once,
 * and rises only to the least of what `hold` samples in a row allow: a
 * node at the edge of its headroom must not have a slab prepared and
 * released again with every sample.
 */
struct headroom_lending {
  uint64_t bytes;               /* what may be lent now */
  uint64_t least_bytes;         /* allowed by the samples since it changed */
  unsigned samples;             /* how many these are */
};

/* Begin with all that may be held. */
void headroom_lending_begin (struct headroom_lending *lending,
                             uint64_t may_hold_bytes);

/* What one more sample allows; hold is at least 1. */
void headroom_lending_step (struct headroom_lending *lending,
                            uint64_t may_hold_bytes, unsigned hold);

#endif /* ISW_HEADROOM_H */
