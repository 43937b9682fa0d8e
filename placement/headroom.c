#include <stddef.h>

#include "placement/headroom.h"

static uint64_t
subtract (uint64_t from, uint64_t bytes)
{
  return from > bytes ? from - bytes : 0;
}

uint64_t
headroom_used_by_others (uint64_t total_bytes, uint64_t available_bytes,
                         uint64_t held_bytes)
{
  return subtract (subtract (total_bytes, available_bytes), held_bytes);
}

uint64_t
headroom_foresee (const uint64_t used_bytes[HEADROOM_SAMPLES])
{
  uint64_t largest = 0, second = 0;
  size_t i;

  for (i = 0; i + 1 < HEADROOM_SAMPLES; i++) {
    const uint64_t rise = subtract (used_bytes[i], used_bytes[i + 1]);

    if (rise > largest) {
      second = largest;
      largest = rise;
    }
    else if (rise > second)
      second = rise;
  }
  return second < UINT64_MAX - used_bytes[0] ? used_bytes[0] + second
    : UINT64_MAX;
}

uint64_t
headroom_may_hold (uint64_t total_bytes, uint64_t used_bytes,
                   uint64_t headroom_bytes, uint64_t limit_bytes)
{
  uint64_t left = subtract (subtract (total_bytes, used_bytes),
                            headroom_bytes);

  return left < limit_bytes ? left : limit_bytes;
}

bool
headroom_stalls_count (uint64_t available_bytes, uint64_t headroom_bytes)
{
  return available_bytes / 2 < headroom_bytes;
}

void
headroom_lending_begin (struct headroom_lending *lending,
                        uint64_t may_hold_bytes)
{
  *lending = (struct headroom_lending) {
    .bytes = may_hold_bytes,
    .least_bytes = UINT64_MAX,
  };
}

void
headroom_lending_step (struct headroom_lending *lending,
                       uint64_t may_hold_bytes, unsigned hold)
{
  if (may_hold_bytes < lending->least_bytes)
    lending->least_bytes = may_hold_bytes;
  lending->samples++;
  if (may_hold_bytes < lending->bytes || lending->samples >= hold)
    headroom_lending_begin (lending, lending->least_bytes);
}
