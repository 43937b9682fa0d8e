#include "nbdkit-plugin/slot_index.h"

#include <errno.h>
#include <stdlib.h>

enum { BUCKETS_MIN = 64 };

int
slot_index_init (struct slot_index *x, uint32_t n)
{
  uint32_t buckets = BUCKETS_MIN;

  while (buckets < 2 * n)
    buckets *= 2;
  x->mask = buckets - 1;
  x->entries = calloc (n, sizeof *x->entries);
  x->buckets = malloc (buckets * sizeof *x->buckets);
  if (!x->entries || !x->buckets)
    return -ENOMEM;
  for (uint32_t i = 0; i < buckets; i++)
    x->buckets[i] = SLOT_NONE;
  return 0;
}

void
slot_index_destroy (struct slot_index *x)
{
  free (x->buckets);
  free (x->entries);
}

static uint32_t *
bucket_of (const struct slot_index *x, uint64_t page)
{
  return &x->buckets[(page * UINT64_C (0x9e3779b97f4a7c15)) >> 32 & x->mask];
}

uint32_t
slot_index_find (const struct slot_index *x, uint64_t page)
{
  uint32_t i = *bucket_of (x, page);

  while (i != SLOT_NONE && x->entries[i].page != page)
    i = x->entries[i].next;
  return i;
}

void
slot_index_insert (struct slot_index *x, uint64_t page, uint32_t slot)
{
  uint32_t *b = bucket_of (x, page);

  x->entries[slot].page = page;
  x->entries[slot].next = *b;
  *b = slot;
}

void
slot_index_remove (struct slot_index *x, uint32_t slot)
{
  uint32_t *b = bucket_of (x, x->entries[slot].page);

  while (*b != slot)
    b = &x->entries[*b].next;
  *b = x->entries[slot].next;
}
