/* Which donor each slab lives with, and how it leaves there: with the
 * session, because the donor wants its memory back, or of its own accord.
 * For the mapper thread only.
 */

#ifndef ISW_HOMES_H
#define ISW_HOMES_H

#include <stdbool.h>
#include <stdint.h>

#include "nbdkit-plugin/donor_pool.h"
#include "nbdkit-plugin/slab_table.h"

enum home_exit {
  HOME_STAYS,
  HOME_LOST,                    /* the session has ended */
  HOME_EVICTED,                 /* the donor awaits DONE */
  HOME_RETURNED,                /* not needed: the donor will get UNMAP */
  HOME_DISMISSED,               /* the donor is leaving: likewise */
};

struct home {
  struct donor *donor;          /* NULL: none */
  uint64_t grant;
  enum home_exit exit;
  uint64_t request;             /* HOME_EVICTED: the id of EVICT */
  bool moving;                  /* it leaves by a move, if that succeeds */
  /* Who has evicted it last, not to be asked first; or NULL. */
  const struct donor *evicted_by;
};

struct homes_counters {
  uint64_t mapped;
  uint64_t lost;                /* with their session */
  uint64_t evicted;
  uint64_t dismissed;           /* their donor being no longer listed */
  uint64_t moved;               /* of these two, straight to another donor */
  uint64_t returned;
  uint64_t unmapped;            /* in all */
};

struct homes {
  struct slab_table *slabs;
  struct home *of;              /* by slab */
  struct homes_counters counters;
};

void homes_init (struct homes *h, struct slab_table *slabs);
void homes_free (struct homes *h);

/* A slab in SLAB_MAPPING has found its home with a donor. */
void homes_enter (struct homes *h, uint64_t slab, struct donor *donor,
                  const struct slab_home *home);

/* The slab that this grant of the donor's is for; false if it is none's
 * home.
 */
bool homes_find (const struct homes *h, const struct donor *donor,
                 uint64_t grant, uint64_t *slab);

/* Begin to leave: no request uses the home any more, and once none is in
 * flight there homes_settle says so to the donor.  A slab that is leaving
 * already does so for this reason now.
 */
void homes_leave (struct homes *h, uint64_t slab, enum home_exit exit,
                  uint64_t request);
/* The same for one that stays so far, unless pages would be lost: false
 * then, and it stays.
 */
bool homes_leave_saved (struct homes *h, uint64_t slab, enum home_exit exit,
                        uint64_t request);
/* The donor's session has ended: all leave, as HOME_LOST. */
void homes_leave_all (struct homes *h, struct donor *donor);
/* The donor is about to be forgotten. */
void homes_forget (struct homes *h, const struct donor *donor);

/* A slab leaves (HOME_EVICTED or HOME_DISMISSED) by device_move, which runs
 * from now until one of the next two is called.
 */
void homes_begin_move (struct homes *h, uint64_t slab, enum home_exit exit,
                       uint64_t request);
/* It lives with this donor now. */
void homes_end_move (struct homes *h, uint64_t slab, struct donor *donor,
                     const struct slab_home *next);
/* It does not; the slab stays, unless its session has ended meanwhile. */
void homes_abandon_move (struct homes *h, uint64_t slab, struct donor *donor,
                         const struct slab_home *next);

/* Let go of every home that is not in use any more, with DONE or UNMAP
 * where the session still stands.
 */
void homes_settle (struct homes *h);

/* Tell the donor that a grant is not used any more: in answer to EVICT
 * number request.
 */
void homes_say_done (struct donor *donor, uint64_t grant, uint64_t request);
/* The same of the borrower's own accord. */
void homes_say_unmap (struct donor *donor, uint64_t grant);
/* A slab was asked for and is not wanted any more. */
void homes_give_up (struct donor *donor, uint64_t grant);

#endif /* ISW_HOMES_H */
