/* Page order: at any time a page has at most one writer, from before its new
 * content is made (or promoted) until readers can find that.
 *
 * A writer claims the pages of its request.  Claims that overlap are
 * granted in the order of their arrival.  Reads claim nothing, but one
 * that would like to write what it has read may hold a weak claim, which
 * makes nobody wait: a writer that comes breaks it.
 */

#ifndef ISW_PAGE_ORDER_H
#define ISW_PAGE_ORDER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct page_claim {
  uint64_t first;
  uint64_t count;
  bool weak, broken;            /* private, like the next */
  struct page_claim *prev, *next;
};

struct page_order {
  pthread_mutex_t lock;         /* guards the list */
  pthread_cond_t released;
  struct page_claim *head, *tail; /* oldest first */
};

void page_order_init (struct page_order *o);
void page_order_destroy (struct page_order *o);

/* Claim `count` pages from `first` on; waits for every earlier claim that
 * overlaps.  The claim is the caller's memory (its stack will do) and
 * must live until page_order_release.  A thread holds one claim at a
 * time.
 */
void page_order_claim (struct page_order *o, struct page_claim *c,
                       uint64_t first, uint64_t count);

/* A weak claim, if nobody has claimed any of the pages: else false. */
bool page_order_claim_weakly (struct page_order *o, struct page_claim *c,
                              uint64_t first, uint64_t count);
/* Make a weak claim one that writers wait for; false if one has come. */
bool page_order_strengthen (struct page_order *o, struct page_claim *c);

/* End a claim of any kind. */
void page_order_release (struct page_order *o, struct page_claim *c);

#endif /* ISW_PAGE_ORDER_H */
