/* What infiniswapctl shows of a donor. */

#ifndef ISW_DONOR_STATUS_H
#define ISW_DONOR_STATUS_H

#include <json-glib/json-glib.h>

#include "conf/memory_lock.h"
#include "donor/listeners.h"
#include "donor/session.h"

struct donor_status {
  const struct donor_shared *shared;
  const GPtrArray *sessions;    /* struct session * */
  const char *listen;
  const char *fabrics[LISTENERS_MAX + 1]; /* NULL behind the last */
  const struct memory_lock_result *lock;
};

/* A new JSON object. */
JsonNode *donor_status_new (const struct donor_status *status);

#endif /* ISW_DONOR_STATUS_H */
