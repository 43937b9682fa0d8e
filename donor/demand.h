/* infiniswapctl evict: slabs that are taken back because somebody says
 * so.
 *
 * The answer comes at once; what has become of it is in the status.
 */

#ifndef ISW_DEMAND_H
#define ISW_DEMAND_H

#include <json-glib/json-glib.h>

#include "donor/shared.h"

/* Begin to evict `count` slabs, a number or "all".  A new object:
 *   slabs  how many that will be, at most as many as are lent
 *   until  all have come back when the counters evictions_done and
 *          evictions_unanswered together have reached this
 * or one with the member "error".
 */
JsonNode *demand_answer (struct donor_shared *shared, const char *count);

#endif /* ISW_DEMAND_H */
