#include "seeded.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

uint64_t
seeded_next (struct seeded *s)
{
  uint64_t z = s->state += UINT64_C (0x9e3779b97f4a7c15);

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

uint64_t
seeded_below (struct seeded *s, uint64_t bound)
{
  return seeded_next (s) % bound;
}

bool
seeded_once_in (struct seeded *s, uint64_t n)
{
  return seeded_below (s, n) == 0;
}

struct seeded
seeded_split (struct seeded *s)
{
  return (struct seeded) { seeded_next (s) };
}

void
seeded_init (struct seeded *s, const char *test)
{
  const char *seed = getenv ("SEED");

  s->state = seed != NULL ? strtoull (seed, NULL, 0) : 20170327;
  printf ("%s: SEED=%" PRIu64 "\n", test, s->state);
  fflush (stdout);
}
