/* Where the donors are: the configured list, a file that is read again when
 * it changes, and services that DNS is asked for again and again (SRV
 * records).  Tells when the list changes.  For the mapper thread only;
 * never blocks on DNS.
 */

#ifndef ISW_DONOR_SOURCE_H
#define ISW_DONOR_SOURCE_H

#include <glib.h>
#include <stdint.h>

#include "conf/donor_list.h"

struct donor_source;

struct donor_source_params {
  GMainContext *context;
  const struct donor_list *list; /* what there is at first */
  const char *file;             /* what `list` was read from; or NULL */
  int64_t resolve_interval_ns;  /* how often DNS is asked */
  /* The donors are these now (struct address *, no duplicates; the
   * source's).  Perhaps the same as before.  Must not free the source.
   */
  void (*changed) (void *data, GPtrArray *addresses);
  void *data;
};

/* Begins, and calls `changed` with what is known at once.  The pointers of
 * params must live on, and context be the calling thread's default.
 */
struct donor_source *donor_source_new (const struct donor_source_params *p);

/* Nothing is called any more.  NULL is allowed. */
void donor_source_free (struct donor_source *s);

/* The services that DNS is asked for now. */
struct donor_source_service {
  const char *name;
  guint donors;                 /* in the last good answer */
  const char *error;            /* of the last try; or NULL */
};
guint donor_source_services (const struct donor_source *s);
void donor_source_get_service (const struct donor_source *s, guint i,
                               struct donor_source_service *ret);

#endif /* ISW_DONOR_SOURCE_H */
