/* Which slabs a donor takes back: batch eviction, the paper's section
 * 4.4.
 *
 * To evict E mapped slabs, E + E' of them are drawn at random, their
 * owners are asked how active they are, and the E least active go.
 */

#ifndef ISW_EVICT_H
#define ISW_EVICT_H

#include <stddef.h>

#include "placement/choose.h"

/* How many to draw: E + E', with E' (`extra`) at most E and the whole
 * at most `mapped`.
 */
size_t evict_sample_size (size_t evict, size_t extra, size_t mapped);

/* Draw k distinct indices below n, or all n where k is more; every set
 * of so many is equally likely, their order is not random.  They go to
 * out (room for as many); returns how many.  Takes k random numbers, and
 * time that grows with k squared, however large n is.
 */
size_t evict_sample (size_t n, size_t k, struct choose_random *random,
                     size_t *out);

/* Of n slabs with these activities (none a NaN), the `evict` least
 * active, or all n where that is more; of those equally active at the
 * edge, each has the same chance.  Their indices go to out (room for as
 * many), in rising order; returns how many.
 */
size_t evict_least_active (const double *activity, size_t n, size_t evict,
                           struct choose_random *random, size_t *out);

#endif /* ISW_EVICT_H */
