/* Randomness as policy gets it: passed in. */

#ifndef ISW_RANDOM_H
#define ISW_RANDOM_H

#include <stdint.h>

/* Uniform 64-bit random numbers; the caller's generator and its state. */
struct choose_random {
  uint64_t (*next) (void *state);
  void *state;
};

/* Uniform in [0, bound), bound at least 1. */
uint64_t random_below (struct choose_random *random, uint64_t bound);

#endif /* ISW_RANDOM_H */
