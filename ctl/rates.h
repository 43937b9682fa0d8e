/* What changed between two status documents of one program. */

#ifndef ISW_CTL_RATES_H
#define ISW_CTL_RATES_H

#include <stdbool.h>

#include <json-glib/json-glib.h>

struct rates {
  JsonObject *before, *now;     /* before NULL: nothing to compare with */
  double seconds;               /* between them */
};

/* Is `now` of a program that was started after `before`?  Then it is
 * another device, or its counters have fallen.
 */
bool rates_restarted (JsonObject *before, JsonObject *now);

/* How much a second a member of "counters" grew by; false where either
 * document lacks it, or it fell.
 */
bool rates_counter (const struct rates *r, const char *name, double *ret);

/* The mean of what was measured between the documents, in microseconds:
 * the member `name` of "latency".  false where nothing was.
 */
bool rates_mean_us (const struct rates *r, const char *name, double *ret);

#endif /* ISW_CTL_RATES_H */
