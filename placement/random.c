#include "placement/random.h"

/* Numbers from the incomplete last multiple of bound are drawn again, a
 * plain remainder would favour small results.
 */
uint64_t
random_below (struct choose_random *random, uint64_t bound)
{
  uint64_t incomplete = -bound % bound;
  uint64_t x;

  do
    x = random->next (random->state);
  while (x < incomplete);
  return x % bound;
}
