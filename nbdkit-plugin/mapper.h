/* The control thread: donors and sessions, the activity of slabs, their
 * placement, and letting them go.
 */

#ifndef ISW_MAPPER_H
#define ISW_MAPPER_H

#include <stdint.h>

#include "conf/donor_list.h"
#include "conf/memory_lock.h"
#include "nbdkit-plugin/donor_pool.h"

struct device;
struct mapper;
struct metrics_server;
struct state_socket;

struct mapper_params {
  struct device *device;
  const struct donor_list *donors; /* may be empty */
  const char *donors_file;      /* re-read when it changes; or NULL */
  int64_t resolve_interval_ns;
  enum fabric_choice fabric;
  unsigned probes;
  uint64_t max_slabs_per_donor;
  struct state_socket *state;   /* to serve; or NULL */
  struct metrics_server *metrics; /* to serve; or NULL */
  char *const *config;          /* key, value, ..., NULL: for status */
  struct memory_lock_result lock;
};

/* NULL with errno set.  It can be woken at once. */
struct mapper *mapper_new (void);

/* Start the thread: 0 or -errno.  params' pointers must live on. */
int mapper_start (struct mapper *m, const struct mapper_params *params);

/* From any thread: there may be a hot slab, a drained one, or an ended
 * session.  Does not block or allocate.
 */
void mapper_wake (void *mapper);

/* End the thread and all sessions.  No request may be running.  NULL is
 * allowed.
 */
void mapper_free (struct mapper *m);

#endif /* ISW_MAPPER_H */
