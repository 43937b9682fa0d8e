/* What Prometheus gets of a donor: the same as status.h shows. */

#ifndef ISW_DONOR_METRICS_H
#define ISW_DONOR_METRICS_H

#include "conf/exposition.h"
#include "donor/status.h"

void donor_metrics_report (struct exposition *e,
                           const struct donor_status *status);

#endif /* ISW_DONOR_METRICS_H */
