#include "nbdkit-plugin/slot_list.h"

void
slot_list_init (struct slot_list *l, struct slot_links *links)
{
  *l = (struct slot_list) { links, SLOT_NONE, SLOT_NONE };
}

/* What points to the slot after `prev`, and to the one before `next`. */
static uint32_t *
forward (struct slot_list *l, uint32_t prev)
{
  return prev == SLOT_NONE ? &l->head : &l->links[prev].next;
}

static uint32_t *
backward (struct slot_list *l, uint32_t next)
{
  return next == SLOT_NONE ? &l->tail : &l->links[next].prev;
}

void
slot_list_append (struct slot_list *l, uint32_t slot)
{
  l->links[slot] = (struct slot_links) { l->tail, SLOT_NONE };
  *forward (l, l->tail) = slot;
  l->tail = slot;
}

void
slot_list_remove (struct slot_list *l, uint32_t slot)
{
  const struct slot_links links = l->links[slot];

  *forward (l, links.prev) = links.next;
  *backward (l, links.next) = links.prev;
}

void
slot_list_replace (struct slot_list *l, uint32_t old, uint32_t slot)
{
  const struct slot_links links = l->links[old];

  l->links[slot] = links;
  *forward (l, links.prev) = slot;
  *backward (l, links.next) = slot;
}
