/* The slabs of one session: MAPs that wait for one, grants, and UNMAPs
 * under way.  Answers their messages.
 *
 * All in the thread that runs the GMainContext.  Where a function
 * returns a text, that is why the session must end, or NULL.
 */

#ifndef ISW_GRANTS_H
#define ISW_GRANTS_H

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

/* Do what time has come for.  Lowers *next_ns to when it shall be called
 * next.
 */
const char *grants_run (struct grants *g, int64_t now_ns, int64_t *next_ns);

/* What this borrower could get now. */
uint64_t grants_would_lend_bytes (const struct grants *g);

/* How many slabs it has. */
uint64_t grants_count (const struct grants *g);

#endif /* ISW_GRANTS_H */
