#include "nbdkit-plugin/page_order.h"

#include <stddef.h>

void
page_order_init (struct page_order *o)
{
  pthread_mutex_init (&o->lock, NULL);
  pthread_cond_init (&o->released, NULL);
  o->head = o->tail = NULL;
}

void
page_order_destroy (struct page_order *o)
{
  pthread_cond_destroy (&o->released);
  pthread_mutex_destroy (&o->lock);
}

/* The next claim from e on, towards older ones, that overlaps c.  The list
 * holds one claim a worker at most, so walking it is cheap.
 */
static struct page_claim *
overlapping (struct page_claim *e, const struct page_claim *c)
{
  while (e && (e->first >= c->first + c->count ||
               c->first >= e->first + e->count))
    e = e->prev;
  return e;
}

static bool
must_wait (const struct page_claim *c)
{
  struct page_claim *e = overlapping (c->prev, c);

  while (e && e->weak)
    e = overlapping (e->prev, c);
  return e != NULL;
}

static void
break_weak_claims (struct page_claim *c)
{
  for (struct page_claim *e = overlapping (c->prev, c); e;
       e = overlapping (e->prev, c))
    e->broken = true;
}

static void
append (struct page_order *o, struct page_claim *c)
{
  c->prev = o->tail;
  if (o->tail)
    o->tail->next = c;
  else
    o->head = c;
  o->tail = c;
}

void
page_order_claim (struct page_order *o, struct page_claim *c,
                  uint64_t first, uint64_t count)
{
  *c = (struct page_claim) { .first = first, .count = count };
  pthread_mutex_lock (&o->lock);
  append (o, c);
  break_weak_claims (c);
  while (must_wait (c))
    pthread_cond_wait (&o->released, &o->lock);
  pthread_mutex_unlock (&o->lock);
}

bool
page_order_claim_weakly (struct page_order *o, struct page_claim *c,
                         uint64_t first, uint64_t count)
{
  bool free;

  *c = (struct page_claim) { .first = first, .count = count, .weak = true };
  pthread_mutex_lock (&o->lock);
  free = overlapping (o->tail, c) == NULL;
  if (free)
    append (o, c);
  pthread_mutex_unlock (&o->lock);
  return free;
}

bool
page_order_strengthen (struct page_order *o, struct page_claim *c)
{
  pthread_mutex_lock (&o->lock);
  if (!c->broken)
    c->weak = false;
  pthread_mutex_unlock (&o->lock);
  return !c->weak;
}

void
page_order_release (struct page_order *o, struct page_claim *c)
{
  bool waited_for;

  pthread_mutex_lock (&o->lock);
  if (c->prev)
    c->prev->next = c->next;
  else
    o->head = c->next;
  if (c->next)
    c->next->prev = c->prev;
  else
    o->tail = c->prev;
  waited_for = c->next != NULL;
  pthread_mutex_unlock (&o->lock);

  if (waited_for)
    pthread_cond_broadcast (&o->released);
}
