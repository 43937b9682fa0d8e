/* When slots go to the local copy, and how many there may be.  Policy only:
 * no clock, no lock, no I/O.
 *
 * A write that waits in its slot may be superseded or dropped, or be joined
 * by its neighbours, and then the disk has less to do; and the disk, which
 * takes processor time as well, is kept busy when nobody writes.  So slots
 * wait until no more have come for a moment, but none longer than the delay,
 * and no more than half of those that there may be: the other half is for
 * what comes while the disk works.
 */

#ifndef ISW_DRAIN_H
#define ISW_DRAIN_H

#include <stdbool.h>
#include <stdint.h>

struct drain {
  uint32_t slots;               /* in the pool */
  int64_t delay_ns;
  uint32_t limit;               /* most slots in use */
  uint32_t keep;                /* most that wait */
  bool sinking;                 /* there were more, and have to be keep */
  uint32_t writing;             /* slots */
  uint32_t written;             /* in the current measuring window, */
  int64_t busy_ns;              /* in which this long some were writing */
  int64_t since_ns;
};

/* A pool of so many slots; delay_ns 0: no slot waits. */
void drain_init (struct drain *d, uint32_t slots, int64_t delay_ns);

/* So long no slot may have come for all to be due. */
int64_t drain_quiet_ns (const struct drain *d);

/* So many are queued that some are due, whatever their age. */
bool drain_is_full (const struct drain *d, uint32_t queued);

/* Is the oldest of the queued slots due?  Of times, when it came and when
 * the last one did.
 */
bool drain_is_due (struct drain *d, uint32_t queued, int64_t oldest_ns,
                   int64_t newest_ns, int64_t now_ns);

/* The write of n slots begins. */
void drain_begin (struct drain *d, uint32_t n, int64_t now_ns);
/* It ended.  True if the limit was measured anew: it is what the local copy
 * takes in the time that a flush may last.
 */
bool drain_end (struct drain *d, uint32_t n, bool failed, int64_t now_ns);

#endif /* ISW_DRAIN_H */
