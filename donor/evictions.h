/* The EVICTs of one session: which grants are to be asked back, which
 * have been, and when the borrower must have answered.
 *
 * All in the thread that runs the GMainContext.
 */

#ifndef ISW_EVICTIONS_H
#define ISW_EVICTIONS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "fabric/message.h"

/* One grant's; the grant's own, and on a list from evictions_add to
 * evictions_remove.
 */
struct eviction {
  uint64_t grant;
  uint64_t request;             /* EVICT's id; 0 until it is sent */
  int64_t asked_ns;             /* when it was sent */
  int64_t expires_ns;           /* the session ends without an answer */
  GList link;                   /* private */
};

/* Private; zero to begin with. */
struct evictions {
  GQueue waiting, asked;        /* struct eviction, next to expire first */
  uint64_t last_request;
};

/* e->grant is to be asked back.  expires_ns never falls from one call to
 * the next.
 */
void evictions_add (struct evictions *all, struct eviction *e,
                    int64_t expires_ns);

/* It has been answered, or needs no answer any more. */
void evictions_remove (struct evictions *all, struct eviction *e);

/* The next EVICT to send, in *m; false if there is none now: a borrower
 * has only so many before it at a time, as the channel is bounded.
 */
bool evictions_next (struct evictions *all, int64_t now_ns,
                     struct message *m);

/* Has there been an EVICT with this id? */
bool evictions_sent (const struct evictions *all, uint64_t request);

/* How many are on the list. */
uint64_t evictions_count (const struct evictions *all);

/* When the first of them expires; INT64_MAX: there is none. */
int64_t evictions_expire_ns (const struct evictions *all);

#endif /* ISW_EVICTIONS_H */
