#include "placement/activity.h"

double
activity_step (double average, double measured, double weight)
{
  return weight * measured + (1 - weight) * average;
}

/* Bisection, not division: activity_step never falls as pages are added,
 * so the answer is exact whatever the rounding.
 */
uint64_t
activity_pages_to_hot (double average, double hot_pages_per_second,
                       double weight)
{
  uint64_t low = 0, high = UINT64_MAX;

  while (low < high) {
    uint64_t middle = low + (high - low) / 2;

    if (activity_step (average, middle, weight) >= hot_pages_per_second)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}
