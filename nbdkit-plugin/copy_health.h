/* What an operator must know of the local copy: it refuses pages; it has
 * them all again.
 */

#ifndef ISW_COPY_HEALTH_H
#define ISW_COPY_HEALTH_H

#include <stdbool.h>
#include <stdint.h>

struct device;

/* All zeros to begin with. */
struct copy_health {
  bool told;                    /* that it refuses pages */
  uint64_t errors;              /* at the last look */
  int64_t refused_ns;           /* when it did last, as far as was seen */
};

/* Look, and log what has changed since the last look. */
void copy_health_check (struct copy_health *h, const struct device *d);

#endif /* ISW_COPY_HEALTH_H */
