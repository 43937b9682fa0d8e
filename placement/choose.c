#include "placement/choose.h"

static bool
any_new (const struct choose_donor *donors, size_t n)
{
  for (size_t i = 0; i < n; i++)
    if (donors[i].usable && donors[i].slabs == 0)
      return true;
  return false;
}

size_t
choose_probes (const struct choose_donor *donors, size_t n, size_t probes,
               struct choose_random *random, size_t *out)
{
  bool only_new = any_new (donors, n);
  size_t seen = 0;

  if (probes == 0)
    return 0;

  /* Reservoir sampling: of the candidates seen so far, every set of
   * `probes` is equally likely to be in out.
   */
  for (size_t i = 0; i < n; i++) {
    if (!donors[i].usable || (only_new && donors[i].slabs > 0))
      continue;
    seen++;
    if (seen <= probes)
      out[seen - 1] = i;
    else {
      uint64_t place = random_below (random, seen);

      if (place < probes)
        out[place] = i;
    }
  }
  return seen < probes ? seen : probes;
}

ssize_t
choose_most_free (const uint64_t *free_bytes, size_t n, uint64_t slab_bytes,
                  struct choose_random *random)
{
  ssize_t best = -1;
  uint64_t ties = 0;

  for (size_t i = 0; i < n; i++) {
    if (free_bytes[i] < slab_bytes)
      continue;
    if (best == -1 || free_bytes[i] > free_bytes[best]) {
      best = i;
      ties = 1;
    }
    else if (free_bytes[i] == free_bytes[best]) {
      ties++;
      if (random_below (random, ties) == 0)
        best = i;
    }
  }
  return best;
}
