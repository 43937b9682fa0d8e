/* Histograms of durations, for threads that have no time: noting one is
 * two relaxed atomic additions.
 *
 * Buckets are fixed: up to 1 us; then each doubling up to 2^24 us (16.8 s)
 * in four equal parts, where there are as many whole microseconds; then
 * all above.  A value belongs to the first bucket whose upper bound it
 * does not exceed.
 *
 * Each processor has counters of its own (so long as there are no more
 * than HISTOGRAM_SHARDS), so that threads do not take each other's cache
 * lines away; a reader sums them up.
 */

#ifndef ISW_HISTOGRAM_H
#define ISW_HISTOGRAM_H

#include <stdint.h>

enum {
  HISTOGRAM_OCTAVES = 24,       /* doublings of 1 us */
  HISTOGRAM_BUCKETS = 4 * (HISTOGRAM_OCTAVES - 1) + 1,
  HISTOGRAM_SHARDS = 16,
};

struct histogram;

/* What one was at a moment. */
struct histogram_sums {
  uint64_t counts[HISTOGRAM_BUCKETS]; /* the last one: above all bounds */
  uint64_t count, sum_ns;
};

/* NULL if memory is short. */
struct histogram *histogram_new (void);
/* NULL is allowed. */
void histogram_free (struct histogram *h);

/* `times` values of ns each; negative ones count as 0.  From any thread;
 * neither blocks nor allocates.
 */
void histogram_note (struct histogram *h, int64_t ns, uint64_t times);

/* From any thread.  What is noted meanwhile may be in it or not. */
void histogram_read (const struct histogram *h, struct histogram_sums *ret);

/* The value that `part` (0 to 1) of all do not exceed, in microseconds,
 * as exactly as the buckets tell; 0 if there is none.
 */
double histogram_quantile_us (const struct histogram_sums *sums,
                              double part);

/* 2^octave us in seconds, and how many values do not exceed that; octave
 * is 0 to HISTOGRAM_OCTAVES.
 */
double histogram_octave_seconds (unsigned octave);
uint64_t histogram_octave_count (const struct histogram_sums *sums,
                                 unsigned octave);

#endif /* ISW_HISTOGRAM_H */
