/* Which slot is the newest of each page: a hash table of slot numbers, each
 * in it at most once.  No lock: its owner's guards it.
 */

#ifndef ISW_SLOT_INDEX_H
#define ISW_SLOT_INDEX_H

#include <stdint.h>

enum { SLOT_NONE = 0xffffffff };

struct slot_index {
  uint32_t *buckets, mask;      /* the first slot of each */
  struct slot_index_entry {
    uint64_t page;
    uint32_t next;              /* in the same bucket */
  } *entries;                   /* by slot */
};

/* For slots 0 to n - 1.  0 or -ENOMEM; slot_index_destroy is right after
 * either, and for one that is all zeros.
 */
int slot_index_init (struct slot_index *x, uint32_t n);
void slot_index_destroy (struct slot_index *x);

/* SLOT_NONE if the page has none. */
uint32_t slot_index_find (const struct slot_index *x, uint64_t page);

/* The page has no slot in the index. */
void slot_index_insert (struct slot_index *x, uint64_t page, uint32_t slot);

/* The slot is in the index. */
void slot_index_remove (struct slot_index *x, uint32_t slot);

#endif /* ISW_SLOT_INDEX_H */
