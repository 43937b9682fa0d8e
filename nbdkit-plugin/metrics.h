/* What Prometheus gets of a device: the same as status.h shows.  For the
 * mapper thread only.
 */

#ifndef ISW_PLUGIN_METRICS_H
#define ISW_PLUGIN_METRICS_H

#include "conf/exposition.h"
#include "nbdkit-plugin/homes.h"
#include "nbdkit-plugin/mapper.h"

void metrics_report (struct exposition *e, const struct mapper_params *params,
                     const struct donor_pool *donors,
                     const struct homes *homes);

#endif /* ISW_PLUGIN_METRICS_H */
