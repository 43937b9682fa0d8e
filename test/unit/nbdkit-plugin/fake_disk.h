/* The system calls of backing.c, in the hands of the test: it can make
 * them fail by range, slow, or wait.  Counts writes that overlap others
 * in flight, of which there must be none.
 *
 * One gate: what it holds waits until fake_disk_pass.
 */

#ifndef TEST_FAKE_DISK_H
#define TEST_FAKE_DISK_H

#include <stdbool.h>
#include <stdint.h>

/* Forget everything that was asked for. */
void fake_disk_reset (void);

/* Writes (and zeroing) of any byte in [from, to) fail with EIO; reads as
 * well if `reads`.
 */
void fake_disk_fail (uint64_t from, uint64_t to, bool reads);
void fake_disk_mend (void);

/* Every write takes so long. */
void fake_disk_slow (int64_t ns);

/* Hold reads, or writes, that touch [from, to). */
void fake_disk_hold_reads (uint64_t from, uint64_t to);
void fake_disk_hold_writes (uint64_t from, uint64_t to);
/* Wait until so many are held. */
void fake_disk_wait_held (unsigned count);
/* Let those that are held go on, and hold no more. */
void fake_disk_pass (void);

/* Writes that began while an overlapping one was in flight. */
unsigned fake_disk_overlaps (void);

#endif /* TEST_FAKE_DISK_H */
