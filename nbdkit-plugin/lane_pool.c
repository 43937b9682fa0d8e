#include "nbdkit-plugin/lane_pool.h"

#include <errno.h>
#include <stdlib.h>

#include "nbdkit-plugin/monotonic_cond.h"

int
lane_pool_init (struct lane_pool *p, unsigned count, char *memory)
{
  p->lanes = calloc (count, sizeof *p->lanes);
  if (!p->lanes)
    return -ENOMEM;
  p->count = count;
  p->free = NULL;
  for (unsigned i = count; i-- > 0; ) {
    p->lanes[i].id = i;
    p->lanes[i].landing = memory + (size_t) i * FABRIC_TRANSFER_MAX;
    p->lanes[i].next = p->free;
    p->free = &p->lanes[i];
  }
  pthread_mutex_init (&p->lock, NULL);
  monotonic_cond_init (&p->returned);
  return 0;
}

void
lane_pool_destroy (struct lane_pool *p)
{
  if (!p->lanes)
    return;
  pthread_cond_destroy (&p->returned);
  pthread_mutex_destroy (&p->lock);
  free (p->lanes);
  p->lanes = NULL;
}

static struct lane *
take_now (struct lane_pool *p)
{
  struct lane *lane = p->free;

  if (lane)
    p->free = lane->next;
  return lane;
}

struct lane *
lane_pool_take (struct lane_pool *p, int64_t deadline_ns)
{
  struct lane *lane;

  pthread_mutex_lock (&p->lock);
  while (!(lane = take_now (p)))
    if (!monotonic_cond_wait (&p->returned, &p->lock, deadline_ns))
      break;
  if (!lane)
    lane = take_now (p);
  pthread_mutex_unlock (&p->lock);
  return lane;
}

void
lane_pool_put (struct lane_pool *p, struct lane *lane)
{
  pthread_mutex_lock (&p->lock);
  lane->next = p->free;
  p->free = lane;
  pthread_mutex_unlock (&p->lock);
  pthread_cond_signal (&p->returned);
}
