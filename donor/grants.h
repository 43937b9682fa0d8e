/* The slabs of one session: MAPs that wait for one, grants, and those on
 * their way back by UNMAP or EVICT.  Answers their messages.
 *
 * All in the thread that runs the GMainContext.  Where a function
 * returns a text, that is why the session must end, or NULL.
 */

#ifndef ISW_GRANTS_H
#define ISW_GRANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "donor/shared.h"
#include "fabric/fabric.h"
#include "fabric/message.h"

struct grants;

/* The session, as far as its grants need it. */
struct grants_session {
  struct donor_shared *shared;
  struct fabric_domain *domain; /* outlives the grants */
  int64_t deadline_ns;
  int64_t patience_ns;          /* how long the borrower waits for MAP */
  const char *peer;             /* for the log */
  void *data;
  const char *(*send) (void *data, const struct message *m);
  /* Something failed outside of the functions below; it may call
   * grants_free.
   */
  void (*failed) (void *data, const char *reason);
};

struct grants *grants_new (const struct grants_session *session);

/* Takes all slabs back.  No lane of the session is left. */
void grants_free (struct grants *g);

/* m is MAP or UNMAP. */
const char *grants_map (struct grants *g, const struct message *m);
const char *grants_unmap (struct grants *g, const struct message *m);

/* Ask for a grant that stands, within the session's deadline from now:
 * grants_run sends EVICT, and says that the session must end if it is
 * not answered in time.
 */
void grants_evict (struct grants *g, uint64_t id);

/* m is DONE, the borrower's answer to EVICT. */
const char *grants_done (struct grants *g, const struct message *m);

/* Do what time has come for.  Lowers *next_ns to when it shall be called
 * next.
 */
const char *grants_run (struct grants *g, int64_t now_ns, int64_t *next_ns);

/* What this borrower could get now. */
uint64_t grants_would_lend_bytes (const struct grants *g);

/* How many slabs it has, and how many of these are being evicted or have
 * been given back and are not revoked yet; the others stand.
 */
uint64_t grants_count (const struct grants *g);
uint64_t grants_going (const struct grants *g);

/* The grants that stand: puts their ids into `ids` (room for
 * grants_count), and returns how many.
 */
size_t grants_list (const struct grants *g, uint64_t *ids);
bool grants_stands (const struct grants *g, uint64_t id);

#endif /* ISW_GRANTS_H */
