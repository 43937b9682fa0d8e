/* What flushes wait for: each write belongs to the epoch in which it came,
 * and a flush waits until nothing of its epoch or of those before is left.
 * No lock: its owner's guards it.
 */

#ifndef ISW_EPOCHS_H
#define ISW_EPOCHS_H

#include <stdbool.h>
#include <stdint.h>

/* Told apart at once; further flushes share the newest. */
enum { EPOCHS_MAX = 64 };

/* All zeros at first. */
struct epochs {
  uint32_t now;
  uint32_t pending[EPOCHS_MAX]; /* writes not yet ended */
};

/* A write comes: its epoch. */
uint32_t epochs_enter (struct epochs *e);

/* A write of this epoch has ended.  True if it was the last of it. */
bool epochs_leave (struct epochs *e, uint32_t epoch);

/* The epoch that a flush has to wait for; what comes later is of another, if
 * that is possible.
 */
uint32_t epochs_close (struct epochs *e);

/* Have all writes up to and in this epoch ended? */
bool epochs_are_clear (const struct epochs *e, uint32_t upto);

#endif /* ISW_EPOCHS_H */
