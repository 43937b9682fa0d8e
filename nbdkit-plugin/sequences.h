/* Which reads follow one another.  Pure bookkeeping: the caller's locks, no
 * clock.
 */

#ifndef ISW_SEQUENCES_H
#define ISW_SEQUENCES_H

#include <stdint.h>

/* So many are told apart, each among reads of other pages. */
enum { SEQUENCES = 4 };

struct sequence {
  uint64_t next;                /* page where its next read begins */
  uint64_t pages, reads;        /* that followed one another */
  uint64_t ahead;               /* its owner's: begins as 0 */
  uint64_t turn;
};

struct sequences {
  struct sequence of[SEQUENCES];
  uint64_t turn;
};

/* A read of n pages from `first` on: the sequence that it is the latest of.
 * One that continues none begins one, in place of the one that has not been
 * continued for longest.
 */
struct sequence *sequences_note (struct sequences *s, uint64_t first,
                                 uint32_t n);

#endif /* ISW_SEQUENCES_H */
