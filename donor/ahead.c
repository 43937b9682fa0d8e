#include <glib.h>
#include <stdbool.h>
#include <stddef.h>

#include "donor/ahead.h"

/* Registering takes long, so it must not meet the MAPs of a borrower that
 * asks for many; and slabs are not there for it at every moment.
 */
static const int64_t quiet_ns = 500000000;

static struct ahead *
ahead_of (struct lender_reserve *reserve)
{
  return (struct ahead *) ((char *) reserve
                           - offsetof (struct ahead, reserve));
}

/* The key has been told to nobody, so an access inside is one that a
 * hostile borrower guessed.
 */
static void
recall (struct lender_reserve *reserve)
{
  struct ahead *a = ahead_of (reserve);

  if (fabric_region_remove (a->region) < 0) {
    a->failed (a->data);
    return;
  }
  a->region = NULL;
  lender_unreserve (a->lender, reserve, false);
  ahead_put_off (a);
}

void
ahead_begin (struct ahead *a, struct lender *lender,
             struct fabric_domain *domain,
             void (*failed) (void *data), void *data)
{
  *a = (struct ahead) {
    .reserve.recall = recall,
    .lender = lender,
    .domain = domain,
    .failed = failed,
    .data = data,
  };
  ahead_put_off (a);
}

void
ahead_end (struct ahead *a)
{
  if (a->region == NULL)
    return;
  fabric_region_remove (a->region);
  lender_unreserve (a->lender, &a->reserve, false);
}

void
ahead_put_off (struct ahead *a)
{
  a->due_ns = fabric_now_ns () + quiet_ns;
}

struct fabric_region *
ahead_take_region (struct ahead *a)
{
  struct fabric_region *region = NULL;

  if (a->reserve.slab == NULL) {
    region = a->region;
    a->region = NULL;
  }
  return region;
}

static void
reserve (struct ahead *a)
{
  if (!lender_reserve (a->lender, &a->reserve))
    return;
  if (fabric_region_add (a->domain, a->reserve.slab->memory,
                         a->reserve.slab->bytes, true, &a->region) < 0) {
    a->region = NULL;
    lender_unreserve (a->lender, &a->reserve, true);
  }
}

void
ahead_run (struct ahead *a, int64_t now_ns, int64_t *next_ns)
{
  if (a->region == NULL && now_ns >= a->due_ns) {
    reserve (a);
    ahead_put_off (a);
  }
  if (a->region == NULL)
    *next_ns = MIN (*next_ns, a->due_ns);
}
