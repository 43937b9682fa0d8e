#include "donor/evictions.h"

enum { UNANSWERED_MAX = 16 };   /* messages */

void
evictions_add (struct evictions *all, struct eviction *e, int64_t expires_ns)
{
  e->request = 0;
  e->expires_ns = expires_ns;
  e->link = (GList) { .data = e };
  g_queue_push_tail_link (&all->waiting, &e->link);
}

void
evictions_remove (struct evictions *all, struct eviction *e)
{
  g_queue_unlink (e->request > 0 ? &all->asked : &all->waiting, &e->link);
}

static bool
may_send (const struct evictions *all)
{
  const GList *oldest = all->asked.head;
  const struct eviction *e = oldest ? oldest->data : NULL;

  return all->waiting.length > 0
    && (e == NULL || all->last_request - e->request + 1 < UNANSWERED_MAX);
}

bool
evictions_next (struct evictions *all, int64_t now_ns, struct message *m)
{
  if (!may_send (all))
    return false;
  *m = (struct message) { .type = MESSAGE_EVICT, .id = ++all->last_request };
  while (all->waiting.length > 0 && m->grants.count < MESSAGE_GRANTS_MAX) {
    GList *link = g_queue_pop_head_link (&all->waiting);
    struct eviction *e = link->data;

    e->request = m->id;
    e->asked_ns = now_ns;
    m->grants.grants[m->grants.count++] = e->grant;
    g_queue_push_tail_link (&all->asked, link);
  }
  return true;
}

bool
evictions_sent (const struct evictions *all, uint64_t request)
{
  return request > 0 && request <= all->last_request;
}

uint64_t
evictions_count (const struct evictions *all)
{
  return (uint64_t) all->waiting.length + all->asked.length;
}

int64_t
evictions_expire_ns (const struct evictions *all)
{
  const GList *first = all->asked.head ? all->asked.head : all->waiting.head;

  return first ? ((const struct eviction *) first->data)->expires_ns
    : INT64_MAX;
}
