/* Takes slabs back from borrowers: batch eviction, the paper's section
 * 4.4.  A round draws grants at random from all sessions, asks their
 * owners how active they are, and evicts the least active;
 * placement/evict.h chooses, this moves.
 *
 * All in the thread that runs the GMainContext.  It acts in turns of its
 * own, never within a call, so that sessions may call it at any time.
 */

#ifndef ISW_EVICTOR_H
#define ISW_EVICTOR_H

#include <glib.h>
#include <stdint.h>

#include "donor/shared.h"
#include "fabric/message.h"

struct evictor;

/* sessions (struct session *) is the server's list, which changes. */
struct evictor *evictor_new (struct donor_shared *shared,
                             const GPtrArray *sessions);
/* NULL is allowed. */
void evictor_free (struct evictor *e);

/* There may be more or less to evict: memory is short, a slab has come
 * back, or a session has ended.  NULL is allowed.
 */
void evictor_wake (struct evictor *e);

/* m is ACTIVITY, an answer that this session owes; may come too late. */
void evictor_answer (struct evictor *e, uint64_t session,
                     const struct message *m);

/* Evict so many slabs more on somebody's demand, or as many as stand if
 * these are fewer; returns how many that is.
 */
uint64_t evictor_demand (struct evictor *e, uint64_t slabs);

/* How many slabs are being evicted, those on demand included that have
 * not been chosen yet.
 */
uint64_t evictor_going (const struct evictor *e);

/* Take all slabs back; shared->stopping is set, so there will be no
 * more.  `done` is called once, when none is lent any more.
 */
void evictor_take_all (struct evictor *e,
                       void (*done) (void *data), void *data);

#endif /* ISW_EVICTOR_H */
