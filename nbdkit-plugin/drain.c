#include "nbdkit-plugin/drain.h"

/* How long a flush may take: the kernel's nbd time-out is 30 s. */
enum { DRAIN_SECONDS = 10, LIMIT_MIN = 1024 };

enum { NS_PER_S = 1000000000, QUIET_NS = 50000000 };

/* Once begun, so many are written together. */
enum { BATCH = 64 };

static uint32_t
smaller (uint32_t a, uint32_t b)
{
  return a < b ? a : b;
}

/* What the local copy takes is not known yet. */
void
drain_init (struct drain *d, uint32_t slots, int64_t delay_ns)
{
  *d = (struct drain) {
    .slots = slots, .delay_ns = delay_ns, .limit = slots,
    .keep = delay_ns > 0 ? smaller (slots, LIMIT_MIN) / 2 : 0,
  };
}

int64_t
drain_quiet_ns (const struct drain *d)
{
  return d->delay_ns < QUIET_NS ? d->delay_ns : QUIET_NS;
}

bool
drain_is_full (const struct drain *d, uint32_t queued)
{
  return queued >= d->keep + BATCH;
}

bool
drain_is_due (struct drain *d, uint32_t queued, int64_t oldest_ns,
              int64_t newest_ns, int64_t now_ns)
{
  if (queued <= d->keep)
    d->sinking = false;
  else if (drain_is_full (d, queued))
    d->sinking = true;
  return d->sinking || now_ns - newest_ns >= drain_quiet_ns (d) ||
    now_ns - oldest_ns >= d->delay_ns;
}

void
drain_begin (struct drain *d, uint32_t n, int64_t now_ns)
{
  if (d->writing == 0)
    d->since_ns = now_ns;
  d->writing += n;
}

static void
set_limit (struct drain *d, double slots_per_second)
{
  double limit = slots_per_second * DRAIN_SECONDS;
  uint32_t least = smaller (LIMIT_MIN, d->slots);

  d->limit = limit > d->slots ? d->slots : limit < least ? least : limit;
  if (d->delay_ns > 0)
    d->keep = d->limit / 2;
}

static void
begin_window (struct drain *d)
{
  d->written = 0;
  d->busy_ns = 0;
}

bool
drain_end (struct drain *d, uint32_t n, bool failed, int64_t now_ns)
{
  d->writing -= n;
  d->busy_ns += now_ns - d->since_ns;
  d->since_ns = now_ns;
  if (failed) {
    begin_window (d);
    return false;
  }
  d->written += n;
  if (d->busy_ns < NS_PER_S)
    return false;
  set_limit (d, d->written * (double) NS_PER_S / d->busy_ns);
  begin_window (d);
  return true;
}
