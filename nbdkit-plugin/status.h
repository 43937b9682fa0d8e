/* What `infiniswapctl status` shows of a device, as JSON. */

#ifndef ISW_STATUS_H
#define ISW_STATUS_H

#include <json-glib/json-glib.h>
#include <stdint.h>

#include "nbdkit-plugin/mapper.h"

struct status_counters {
  uint64_t slabs_mapped, slabs_lost, slabs_unmapped;
};

/* A new node.  owners: the donor of each slab, or NULL. */
JsonNode *status_report (const struct mapper_params *params,
                         const uint8_t *device_id,
                         const struct donor_pool *donors,
                         struct donor *const *owners,
                         const struct status_counters *counters);

#endif /* ISW_STATUS_H */
