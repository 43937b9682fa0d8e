/* What `infiniswapctl status` shows of a device, as JSON. */

#ifndef ISW_STATUS_H
#define ISW_STATUS_H

#include <json-glib/json-glib.h>
#include <stdint.h>

#include "nbdkit-plugin/donor_source.h"
#include "nbdkit-plugin/homes.h"
#include "nbdkit-plugin/mapper.h"

/* A new node. */
JsonNode *status_report (const struct mapper_params *params,
                         const uint8_t *device_id,
                         const struct donor_source *source,
                         const struct donor_pool *donors,
                         const struct homes *homes);

#endif /* ISW_STATUS_H */
