/* How much this donor lends now, and to whom next: the slab pool, kept
 * within --memory and the headroom, and those who wait for a slab.
 *
 * All in the thread that runs the GMainContext.
 */

#ifndef ISW_LENDER_H
#define ISW_LENDER_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "donor/config.h"
#include "donor/slab_pool.h"

struct lender;

/* Somebody who waits for a slab; the caller's, until `deliver` is called
 * (once) or lender_cancel.  With slab NULL, reason says why none comes.
 */
struct lender_wait {
  void (*deliver) (struct lender_wait *w, struct slab *slab,
                   const char *reason);
  GList link;                   /* private to the lender */
};

/* Somebody who will ask for a slab and has one kept for him meanwhile; the
 * caller's, and on a list of the lender's while there is a slab.
 */
struct lender_reserve {
  /* The lender needs it: to be answered with lender_unreserve at once. */
  void (*recall) (struct lender_reserve *r);
  struct slab *slab;            /* NULL: none is kept */
  GList link;                   /* private to the lender */
};

enum lender_answer { LENDER_READY, LENDER_WAIT, LENDER_REFUSED };

struct lender_memory {
  uint64_t total_bytes;         /* of the node */
  uint64_t available_bytes;
  uint64_t used_by_others_bytes; /* U, averaged */
  uint64_t headroom_bytes;
  uint64_t limit_bytes;         /* what the donor may hold now */
  uint64_t held_bytes;
  uint64_t lent_bytes;
  uint64_t would_lend_bytes;
  uint64_t slabs_ready;         /* prepared and not lent; of these: */
  uint64_t slabs_reserved;
  uint64_t slabs_lent;
  uint64_t pressure_events;     /* stalls that were taken for need */
};

/* What the lender tells, in the main context; either may be NULL. */
struct lender_events {
  /* The first slabs have been prepared, or as many as can be; once. */
  void (*settled) (void *data);
  /* lender_excess_slabs is above 0 after a sample of the node's memory
   * (four a second), or since tasks stall for memory; again and again
   * while it is.
   */
  void (*shortage) (void *data);
  void *data;
};

/* config outlives the lender.  NULL with a message in *error (g_free). */
struct lender *lender_new (const struct donor_config *config,
                           GMainContext *context,
                           const struct lender_events *events, char **error);

/* Nobody waits any more, and all slabs have been given back. */
void lender_free (struct lender *l);

/* Prepare nothing any more, and give back at once what is not lent. */
void lender_stop (struct lender *l);

/* What it would lend now, beyond what is lent and waited for. */
uint64_t lender_would_lend_bytes (struct lender *l);

/* Keep a slab for r, which has none; false if none can be spared.  It
 * goes where others would have to go without, and before any slab is
 * taken back from a borrower.
 */
bool lender_reserve (struct lender *l, struct lender_reserve *r);

/* r does not keep its slab any more; `untouched` as in lender_give_back. */
void lender_unreserve (struct lender *l, struct lender_reserve *r,
                       bool untouched);

/* Ask for a slab.  READY: *slab is the caller's, until lender_give_back:
 * the one that r keeps (which then keeps none), or another.  WAIT: w is
 * queued.  REFUSED: reason says why.
 */
enum lender_answer lender_take (struct lender *l, struct lender_wait *w,
                                struct lender_reserve *r,
                                struct slab **slab,
                                char *reason, size_t reason_size);
void lender_cancel (struct lender *l, struct lender_wait *w);

/* See slab_pool_give_back. */
void lender_give_back (struct lender *l, struct slab *slab, bool untouched);

/* How many lent slabs must be taken back from borrowers now, so that the
 * donor holds no more than it may once those that nobody has (ready, or
 * given back and not unmapped yet) are gone.  Slabs that a borrower has
 * been asked for are lent until they are given back.
 */
uint64_t lender_excess_slabs (struct lender *l);

void lender_get_memory (struct lender *l, struct lender_memory *ret);

#endif /* ISW_LENDER_H */
