/* Slots in a row: a list of slot numbers, linked both ways.  The links are an
 * array by slot, which lists may share as long as a slot is in one at most.
 * No lock: the owner's guards it.
 */

#ifndef ISW_SLOT_LIST_H
#define ISW_SLOT_LIST_H

#include <stdint.h>

#include "nbdkit-plugin/slot_index.h"

struct slot_links {
  uint32_t prev, next;
};

struct slot_list {
  struct slot_links *links;
  uint32_t head, tail;          /* SLOT_NONE if it is empty */
};

void slot_list_init (struct slot_list *l, struct slot_links *links);
void slot_list_append (struct slot_list *l, uint32_t slot);
void slot_list_remove (struct slot_list *l, uint32_t slot);

/* `slot` takes the place of `old`, which leaves. */
void slot_list_replace (struct slot_list *l, uint32_t old, uint32_t slot);

#endif /* ISW_SLOT_LIST_H */
