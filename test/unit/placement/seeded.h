/* Random numbers for tests: splitmix64, seeded by the environment
 * variable SEED or a fixed number, and printed.
 */

#ifndef TEST_SEEDED_H
#define TEST_SEEDED_H

#include <stdint.h>

#include "placement/choose.h"

struct seeded {
  uint64_t state;
  unsigned calls;
  struct choose_random random;
};

void seeded_init (struct seeded *s, const char *test);
uint64_t seeded_next (void *seeded);

/* Uniform in [0, 1). */
double seeded_unit (struct seeded *s);

#endif /* TEST_SEEDED_H */
