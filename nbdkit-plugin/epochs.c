#include "nbdkit-plugin/epochs.h"

uint32_t
epochs_enter (struct epochs *e)
{
  e->pending[e->now % EPOCHS_MAX]++;
  return e->now;
}

bool
epochs_leave (struct epochs *e, uint32_t epoch)
{
  return --e->pending[epoch % EPOCHS_MAX] == 0;
}

/* The oldest epoch with something pending, or the current one. */
static uint32_t
oldest (const struct epochs *e)
{
  for (uint32_t age = EPOCHS_MAX - 1; age > 0; age--)
    if (e->pending[(e->now - age) % EPOCHS_MAX] > 0)
      return e->now - age;
  return e->now;
}

uint32_t
epochs_close (struct epochs *e)
{
  uint32_t closed = e->now;

  /* The ring has room for a new one unless the oldest is EPOCHS_MAX - 1
   * behind; then this flush waits for later writes as well.
   */
  if (e->now - oldest (e) < EPOCHS_MAX - 1)
    e->now++;
  return closed;
}

bool
epochs_are_clear (const struct epochs *e, uint32_t upto)
{
  uint32_t first = oldest (e);

  return (int32_t) (first - upto) > 0 ||
    (first == e->now && e->pending[e->now % EPOCHS_MAX] == 0);
}
