/* The kernel's word that tasks wait for memory (pressure stall
 * information), which comes before any sample shows it.
 */

#ifndef ISW_PRESSURE_H
#define ISW_PRESSURE_H

#include <glib.h>

struct pressure;

/* Watch `path`, /proc/pressure/memory or a test's own: `stalled` is called
 * in the thread that runs the context when tasks were stalled for memory
 * 150 ms of a second, at most once in each.  (Without CAP_SYS_RESOURCE the
 * kernel only watches windows of 2 s; these are 300 ms of those then.)
 * 0, or -errno: -ENOENT and -EOPNOTSUPP where the kernel has nothing to
 * tell, others where it refuses to.
 */
int pressure_new (const char *path, GMainContext *context,
                  void (*stalled) (void *data), void *data,
                  struct pressure **ret);

/* NULL is allowed. */
void pressure_free (struct pressure *p);

#endif /* ISW_PRESSURE_H */
