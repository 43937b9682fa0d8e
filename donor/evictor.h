/* Takes slabs back from borrowers.
 *
 * All in the thread that runs the GMainContext.  It acts in turns of its
 * own, never within a call, so that sessions may call it at any time.
 */

#ifndef ISW_EVICTOR_H
#define ISW_EVICTOR_H

#include <glib.h>

#include "donor/shared.h"

struct evictor;

/* sessions (struct session *) is the server's list, which changes. */
struct evictor *evictor_new (struct donor_shared *shared,
                             const GPtrArray *sessions);
/* NULL is allowed. */
void evictor_free (struct evictor *e);

/* A slab has come back, or a session has ended.  NULL is allowed. */
void evictor_wake (struct evictor *e);

/* Take all slabs back; shared->stopping is set, so there will be no
 * more.  `done` is called once, when none is lent any more.
 */
void evictor_take_all (struct evictor *e,
                       void (*done) (void *data), void *data);

#endif /* ISW_EVICTOR_H */
