#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "conf/histogram.h"

enum { CACHE_LINE = 64 };

struct shard {
  _Alignas (CACHE_LINE) _Atomic uint64_t counts[HISTOGRAM_BUCKETS];
  _Atomic uint64_t sum_ns;
};

struct histogram {
  struct shard shards[HISTOGRAM_SHARDS];
};

struct histogram *
histogram_new (void)
{
  struct histogram *h = aligned_alloc (CACHE_LINE, sizeof *h);

  if (h)
    memset (h, 0, sizeof *h);
  return h;
}

void
histogram_free (struct histogram *h)
{
  free (h);
}

/* With v the whole microseconds below the value's end (2 us: 1), buckets
 * 0 to 3 are v itself; from there on four are for each power of two.
 */
static unsigned
bucket_of (uint64_t ns)
{
  const uint64_t v = ns > 0 ? (ns - 1) / 1000 : 0;
  unsigned octave;

  if (v < 4)
    return v;
  octave = 63 - __builtin_clzll (v);
  if (octave >= HISTOGRAM_OCTAVES)
    return HISTOGRAM_BUCKETS - 1;
  return 4 * (octave - 1) + (v >> (octave - 2) & 3);
}

/* Above this, and below the next bucket's, are a bucket's values. */
static double
lower_bound_us (unsigned bucket)
{
  const unsigned octave = bucket / 4 + 1;

  return bucket < 4 ? bucket
    : (double) (UINT64_C (4) + bucket % 4) * (UINT64_C (1) << (octave - 2));
}

/* sched_getcpu reads what the kernel keeps for the thread; a thread-local
 * variable of a plugin may be allocated when it is first used.
 */
void
histogram_note (struct histogram *h, int64_t ns, uint64_t times)
{
  const uint64_t value = ns > 0 ? ns : 0;
  struct shard *s = &h->shards[(unsigned) sched_getcpu () %
                               HISTOGRAM_SHARDS];

  atomic_fetch_add_explicit (&s->counts[bucket_of (value)], times,
                             memory_order_relaxed);
  atomic_fetch_add_explicit (&s->sum_ns, value * times,
                             memory_order_relaxed);
}

void
histogram_read (const struct histogram *h, struct histogram_sums *ret)
{
  *ret = (struct histogram_sums) { 0 };
  for (unsigned i = 0; i < HISTOGRAM_SHARDS; i++) {
    const struct shard *s = &h->shards[i];

    for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++)
      ret->counts[b] += atomic_load_explicit (&s->counts[b],
                                              memory_order_relaxed);
    ret->sum_ns += atomic_load_explicit (&s->sum_ns, memory_order_relaxed);
  }
  for (unsigned b = 0; b < HISTOGRAM_BUCKETS; b++)
    ret->count += ret->counts[b];
}

/* Within a bucket values are taken to lie evenly. */
double
histogram_quantile_us (const struct histogram_sums *sums, double part)
{
  double rank = part * sums->count;

  for (unsigned b = 0; b + 1 < HISTOGRAM_BUCKETS; b++) {
    const double low = lower_bound_us (b), high = lower_bound_us (b + 1);

    if (sums->counts[b] > 0 && rank <= sums->counts[b])
      return low + (high - low) * rank / sums->counts[b];
    rank -= sums->counts[b];
  }
  return sums->count > 0 ? lower_bound_us (HISTOGRAM_BUCKETS - 1) : 0;
}

double
histogram_octave_seconds (unsigned octave)
{
  return (UINT64_C (1) << octave) / 1e6;
}

uint64_t
histogram_octave_count (const struct histogram_sums *sums, unsigned octave)
{
  const unsigned buckets = octave < 2 ? octave + 1 : 4 * (octave - 1);
  uint64_t n = 0;

  for (unsigned b = 0; b < buckets; b++)
    n += sums->counts[b];
  return n;
}
