/* What is written: bytes that tell of which write, and of which place on
 * the device, they are.  Seed 0 gives zeros.
 */

#ifndef CHAOS_PATTERN_H
#define CHAOS_PATTERN_H

#include <stdint.h>

static inline uint64_t
pattern_mix (uint64_t z)
{
  z = (z ^ z >> 30) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C (0x94d049bb133111eb);
  return z ^ z >> 31;
}

static inline unsigned char
pattern_byte (uint64_t seed, uint64_t at)
{
  return seed == 0 ? 0 :
    pattern_mix (seed ^ at / 8 * UINT64_C (0x9e3779b97f4a7c15))
      >> (at % 8 * 8);
}

static inline void
pattern_fill (unsigned char *buf, uint64_t len, uint64_t seed, uint64_t at)
{
  for (uint64_t i = 0; i < len; i++)
    buf[i] = pattern_byte (seed, at + i);
}

/* Random numbers from the same. */
static inline uint64_t
pattern_random (uint64_t *state)
{
  return pattern_mix (*state += UINT64_C (0x9e3779b97f4a7c15));
}

static inline uint64_t
pattern_below (uint64_t *state, uint64_t n)
{
  return pattern_random (state) % n;
}

#endif /* CHAOS_PATTERN_H */
