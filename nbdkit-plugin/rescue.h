/* Slabs that are to leave their donor, but not at a stroke.
 *
 * Where the donor wants its memory back (EVICT), that is so if they have
 * pages which nobody else has, since the local copy refused them: these are
 * saved first, to the local copy if it works again, else by moving the slab
 * to another donor.  There is a deadline for that.
 *
 * Where the donor is no longer listed there is none.  Busy slabs move to
 * another donor, one at a time; where the local copy refuses pages all do,
 * and stay until they can.
 *
 * For the mapper thread only.
 */

#ifndef ISW_RESCUE_H
#define ISW_RESCUE_H

#include <stdbool.h>
#include <stdint.h>

#include "nbdkit-plugin/homes.h"

struct rescue;
struct saver;

struct rescues {
  struct homes *homes;
  struct saver *saver;
  struct rescue **of;           /* by slab; or NULL */
  int64_t deadline_ns;          /* of this borrower; a donor has longer */
  bool draining;                /* a slab moves since its donor is leaving */
  bool drain_failed;            /* it could not: the others wait as well */
  uint64_t drain_next;          /* the slab to begin with next time */
  /* Look for another donor: rescues_placed will tell.  False if there is
   * none now.
   */
  bool (*seek) (void *data, uint64_t slab, const struct donor *avoid);
  void *data;
};

void rescues_init (struct rescues *r, struct homes *homes,
                   struct saver *saver, int64_t deadline_ns,
                   bool (*seek) (void *data, uint64_t slab,
                                 const struct donor *avoid),
                   void *data);
/* The saver must have been freed. */
void rescues_free (struct rescues *r);

/* A slab's donor wants its memory back, by EVICT number request: let the
 * slab leave, after what is to be saved first.
 */
void rescues_evict (struct rescues *r, uint64_t slab, uint64_t request);

/* The same for a grant that a slab is moving to; false if none is. */
bool rescues_evict_next (struct rescues *r, const struct donor *donor,
                         uint64_t grant, uint64_t request);

/* Let the slabs of donors that are leaving go on doing so.  With retry, try
 * again what did not work.
 */
void rescues_drain (struct rescues *r, bool retry);

/* The saver may have done something. */
void rescues_check (struct rescues *r);

/* What was sought for a slab has been found, or not (home NULL).  False if
 * it was not for a rescue.
 */
bool rescues_placed (struct rescues *r, uint64_t slab, struct donor *donor,
                     const struct slab_home *home);

#endif /* ISW_RESCUE_H */
