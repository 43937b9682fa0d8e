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
headroom_may_hold (uint64_t total_bytes, uint64_t used_bytes,
                   uint64_t headroom_bytes, uint64_t limit_bytes)
{
  uint64_t left = subtract (subtract (total_bytes, used_bytes),
                            headroom_bytes);

  return left < limit_bytes ? left : limit_bytes;
}
