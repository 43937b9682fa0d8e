/* What an operator must know of the local copy: it refuses pages, so that
 * they are in memory or with a donor alone; it has them all again.
 */

#ifndef ISW_COPY_HEALTH_H
#define ISW_COPY_HEALTH_H

#include <stdbool.h>

struct device;

struct copy_health {
  bool told;                    /* that it refuses pages */
};

/* Look, and log what has changed since the last look. */
void copy_health_check (struct copy_health *h, const struct device *d);

#endif /* ISW_COPY_HEALTH_H */
