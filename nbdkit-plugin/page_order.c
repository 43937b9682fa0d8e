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

/* The list holds one claim a worker at most, so walking it is cheap. */
static bool
must_wait (const struct page_claim *c)
{
  for (const struct page_claim *e = c->prev; e != NULL; e = e->prev)
    if (e->first < c->first + c->count && c->first < e->first + e->count)
      return true;
  return false;
}

void
page_order_claim (struct page_order *o, struct page_claim *c,
                  uint64_t first, uint64_t count)
{
  c->first = first;
  c->count = count;
  c->next = NULL;

  pthread_mutex_lock (&o->lock);
  c->prev = o->tail;
  if (o->tail)
    o->tail->next = c;
  else
    o->head = c;
  o->tail = c;
  while (must_wait (c))
    pthread_cond_wait (&o->released, &o->lock);
  pthread_mutex_unlock (&o->lock);
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
