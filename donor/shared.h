/* What all sessions of a donor share. */

#ifndef ISW_DONOR_SHARED_H
#define ISW_DONOR_SHARED_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "conf/histogram.h"
#include "donor/config.h"
#include "donor/lender.h"
#include "donor/recent.h"

struct donor_counters {
  uint64_t sessions_started;    /* WELCOME sent */
  uint64_t sessions_ended;
  uint64_t maps;
  uint64_t maps_refused;
  uint64_t unmaps;
  uint64_t messages_bad;        /* malformed, unexpected or out of order */
  uint64_t eviction_rounds;
  uint64_t activity_unanswered; /* CHECK_ACTIVITYs, in time */
  uint64_t evictions_asked;     /* slabs; those under way are neither of: */
  uint64_t evictions_done;
  uint64_t evictions_unanswered; /* the session ended first */
};

struct evictor;

struct donor_shared {
  const struct donor_config *config;
  GMainContext *context;
  struct lender *lender;
  struct evictor *evictor;
  bool stopping;                /* lends nothing any more */
  struct donor_counters counters;
  struct recent eviction_ns;    /* from EVICT to DONE */
  struct histogram *eviction_durations; /* the same, of all */
  uint64_t last_grant;          /* never reused while the donor runs */
};

#endif /* ISW_DONOR_SHARED_H */
