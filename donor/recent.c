#include <stdlib.h>
#include <string.h>

#include "donor/recent.h"

void
recent_note (struct recent *r, int64_t value)
{
  r->values[r->count++ % RECENT_MAX] = value;
}

static int
compare (const void *a, const void *b)
{
  const int64_t x = *(const int64_t *) a, y = *(const int64_t *) b;

  return (x > y) - (x < y);
}

/* The value that is greater than `part` of the latest. */
static int64_t
quantile (const struct recent *r, double part)
{
  const size_t n = r->count < RECENT_MAX ? r->count : RECENT_MAX;
  int64_t sorted[RECENT_MAX];

  if (n == 0)
    return 0;
  memcpy (sorted, r->values, n * sizeof *sorted);
  qsort (sorted, n, sizeof *sorted, compare);
  return sorted[(size_t) ((n - 1) * part + 0.5)];
}

int64_t
recent_median (const struct recent *r)
{
  return quantile (r, 0.5);
}

int64_t
recent_greatest (const struct recent *r)
{
  return quantile (r, 1);
}
