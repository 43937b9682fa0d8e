#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "seeded.h"

uint64_t
seeded_next (void *seeded)
{
  struct seeded *s = seeded;
  uint64_t z = s->state += UINT64_C (0x9e3779b97f4a7c15);

  s->calls++;
  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

double
seeded_unit (struct seeded *s)
{
  return (seeded_next (s) >> 11) * 0x1p-53;
}

void
seeded_init (struct seeded *s, const char *test)
{
  const char *seed = getenv ("SEED");

  s->state = seed != NULL ? strtoull (seed, NULL, 0) : 20170327;
  s->calls = 0;
  s->random = (struct choose_random) { seeded_next, s };
  printf ("%s: SEED=%" PRIu64 "\n", test, s->state);
  fflush (stdout);
}
