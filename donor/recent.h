/* The latest values of a figure, for their median. */

#ifndef ISW_RECENT_H
#define ISW_RECENT_H

#include <stdint.h>

enum { RECENT_MAX = 1024 };

/* Zero to begin with. */
struct recent {
  int64_t values[RECENT_MAX];
  uint64_t count;               /* noted so far */
};

void recent_note (struct recent *r, int64_t value);

/* Of the RECENT_MAX latest values, or of all if there were fewer: the
 * median (the upper one of two) and the greatest; 0 if there is none.
 */
int64_t recent_median (const struct recent *r);
int64_t recent_greatest (const struct recent *r);

#endif /* ISW_RECENT_H */
