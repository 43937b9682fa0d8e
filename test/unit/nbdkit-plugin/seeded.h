/* Random numbers for tests: splitmix64, seeded by the environment
 * variable SEED or a fixed number, and printed.  One generator a thread.
 */

#ifndef TEST_SEEDED_H
#define TEST_SEEDED_H

#include <stdbool.h>
#include <stdint.h>

struct seeded {
  uint64_t state;
};

/* Prints the seed under the name of the test. */
void seeded_init (struct seeded *s, const char *test);
/* Another generator, that follows from the first. */
struct seeded seeded_split (struct seeded *s);

uint64_t seeded_next (struct seeded *s);
/* Uniform enough in [0, bound). */
uint64_t seeded_below (struct seeded *s, uint64_t bound);
/* True once in n times. */
bool seeded_once_in (struct seeded *s, uint64_t n);

#endif /* TEST_SEEDED_H */
