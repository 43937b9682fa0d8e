#include <stdbool.h>

#include "placement/evict.h"

static size_t
least (size_t a, size_t b)
{
  return a < b ? a : b;
}

size_t
evict_sample_size (size_t evict, size_t extra, size_t mapped)
{
  if (evict >= mapped)
    return mapped;
  return evict + least (least (extra, evict), mapped - evict);
}

static bool
contains (const size_t *indices, size_t n, size_t index)
{
  for (size_t i = 0; i < n; i++)
    if (indices[i] == index)
      return true;
  return false;
}

/* Floyd's algorithm: below each bound in turn one is drawn; if that is
 * taken already, it is the newest index, which nothing before it could
 * be.
 */
size_t
evict_sample (size_t n, size_t k, struct choose_random *random, size_t *out)
{
  const size_t take = least (n, k);

  for (size_t i = 0; i < take; i++) {
    const size_t newest = n - take + i;
    const size_t drawn = random_below (random, newest + 1);

    out[i] = contains (out, i, drawn) ? newest : drawn;
  }
  return take;
}

/* The activity of the most active of the `evict` least active, by
 * insertion into out, which is scratch here.
 */
static double
edge_activity (const double *activity, size_t n, size_t evict, size_t *out)
{
  size_t kept = 0;

  for (size_t i = 0; i < n; i++) {
    size_t place = kept;

    if (kept < evict)
      kept++;
    else if (activity[i] < activity[out[evict - 1]])
      place--;
    else
      continue;
    for (; place > 0 && activity[i] < activity[out[place - 1]]; place--)
      out[place] = out[place - 1];
    out[place] = i;
  }
  return activity[out[kept - 1]];
}

size_t
evict_least_active (const double *activity, size_t n, size_t evict,
                    struct choose_random *random, size_t *out)
{
  const size_t take = least (n, evict);
  size_t below = 0, tied = 0, wanted, taken = 0;
  double edge;

  if (take == 0)
    return 0;
  edge = edge_activity (activity, n, take, out);
  for (size_t i = 0; i < n; i++) {
    below += activity[i] < edge;
    tied += activity[i] == edge;
  }

  /* Of the tied ones still to come, each is as likely to be among those
   * still wanted.
   */
  wanted = take - below;
  for (size_t i = 0; i < n; i++)
    if (activity[i] < edge)
      out[taken++] = i;
    else if (activity[i] == edge && random_below (random, tied--) < wanted) {
      out[taken++] = i;
      wanted--;
    }
  return taken;
}
