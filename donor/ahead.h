/* The slab that a session keeps registered ahead, so that its next MAP
 * need not wait for that: one, once the session has been quiet for a
 * while, from those that the donor has ready.
 *
 * All in the thread that runs the GMainContext.
 */

#ifndef ISW_AHEAD_H
#define ISW_AHEAD_H

#include <stdint.h>

#include "donor/lender.h"
#include "fabric/fabric.h"

/* Private, but for `reserve`, which is lender_take's. */
struct ahead {
  struct lender_reserve reserve;
  struct lender *lender;
  struct fabric_domain *domain;
  struct fabric_region *region; /* of the slab in reserve */
  int64_t due_ns;               /* not before then */
  void (*failed) (void *data);
  void *data;
};

/* Lender and domain outlive it.  `failed`: the borrower is inside of a
 * slab that it has not been given, and the donor needs it back; it may
 * call ahead_end.
 */
void ahead_begin (struct ahead *a, struct lender *lender,
                  struct fabric_domain *domain,
                  void (*failed) (void *data), void *data);

/* No lane of the session is left. */
void ahead_end (struct ahead *a);

/* The borrower has asked for a slab, and may soon ask for more: a while
 * of quiet begins.
 */
void ahead_put_off (struct ahead *a);

/* The region of the slab that lender_take has just handed over from
 * a->reserve; the caller's.  NULL: it was another slab.
 */
struct fabric_region *ahead_take_region (struct ahead *a);

/* Register a slab if it is time.  Lowers *next_ns to when it shall be
 * called next.
 */
void ahead_run (struct ahead *a, int64_t now_ns, int64_t *next_ns);

#endif /* ISW_AHEAD_H */
