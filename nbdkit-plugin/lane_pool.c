#include "nbdkit-plugin/lane_pool.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <time.h>

int
lane_pool_init (struct lane_pool *p, unsigned count, char *memory)
{
  pthread_condattr_t attr;

  p->lanes = calloc (count, sizeof *p->lanes);
  if (!p->lanes)
    return -ENOMEM;
  p->count = count;
  p->free = p->air = NULL;
  p->air_end = &p->air;
  p->in_air = 0;
  p->awaited = p->stopped = false;
  for (unsigned i = count; i-- > 0; ) {
    p->lanes[i].id = i;
    p->lanes[i].landing = memory + (size_t) i * FABRIC_TRANSFER_MAX;
    p->lanes[i].next = p->free;
    p->free = &p->lanes[i];
  }
  pthread_mutex_init (&p->lock, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&p->returned, &attr);
  pthread_condattr_destroy (&attr);
  pthread_cond_init (&p->launched, NULL);
  return 0;
}

void
lane_pool_destroy (struct lane_pool *p)
{
  if (!p->lanes)
    return;
  pthread_cond_destroy (&p->launched);
  pthread_cond_destroy (&p->returned);
  pthread_mutex_destroy (&p->lock);
  free (p->lanes);
  p->lanes = NULL;
}

/* *at is a lane in the air. */
static struct lane *
remove_from_air (struct lane_pool *p, struct lane **at)
{
  struct lane *lane = *at;

  *at = lane->next;
  if (!*at)
    p->air_end = at;
  return lane;
}

static struct lane *
take_now (struct lane_pool *p, unsigned most_in_air)
{
  struct lane *lane = NULL;

  if (p->free && p->in_air < most_in_air) {
    lane = p->free;
    p->free = lane->next;
  }
  else if (p->air)
    lane = remove_from_air (p, &p->air);
  return lane;
}

static struct lane *
take (struct lane_pool *p, int64_t deadline_ns, unsigned most_in_air)
{
  const struct timespec until = {
    .tv_sec = deadline_ns / 1000000000, .tv_nsec = deadline_ns % 1000000000,
  };
  struct lane *lane;

  pthread_mutex_lock (&p->lock);
  while (!(lane = take_now (p, most_in_air)))
    if (pthread_cond_timedwait (&p->returned, &p->lock, &until) == ETIMEDOUT)
      break;
  if (!lane)
    lane = take_now (p, most_in_air);
  pthread_mutex_unlock (&p->lock);
  return lane;
}

struct lane *
lane_pool_take (struct lane_pool *p, int64_t deadline_ns)
{
  return take (p, deadline_ns, UINT_MAX);
}

struct lane *
lane_pool_take_to_launch (struct lane_pool *p, int64_t deadline_ns)
{
  return take (p, deadline_ns, (p->count + 1) / 2);
}

void
lane_pool_put (struct lane_pool *p, struct lane *lane)
{
  pthread_mutex_lock (&p->lock);
  p->in_air -= lane->in_air;
  lane->in_air = false;
  lane->next = p->free;
  p->free = lane;
  pthread_mutex_unlock (&p->lock);
  /* Not each of them may take it. */
  pthread_cond_broadcast (&p->returned);
}

void
lane_pool_launch (struct lane_pool *p, struct lane *lane, uint64_t first,
                  uint64_t count)
{
  bool awaited;

  lane->first = first;
  lane->count = count;
  lane->next = NULL;
  pthread_mutex_lock (&p->lock);
  p->in_air += !lane->in_air;
  lane->in_air = true;
  *p->air_end = lane;
  p->air_end = &lane->next;
  awaited = p->awaited;
  p->awaited = false;
  pthread_mutex_unlock (&p->lock);
  pthread_cond_broadcast (&p->returned);
  if (awaited)
    pthread_cond_signal (&p->launched);
}

struct lane *
lane_pool_recall (struct lane_pool *p, uint64_t first, uint64_t count)
{
  struct lane **at, *lane;

  pthread_mutex_lock (&p->lock);
  for (at = &p->air; *at; at = &(*at)->next)
    if ((*at)->first < first + count && first < (*at)->first + (*at)->count)
      break;
  lane = *at ? remove_from_air (p, at) : NULL;
  pthread_mutex_unlock (&p->lock);
  return lane;
}

bool
lane_pool_await_launch (struct lane_pool *p)
{
  bool any;

  pthread_mutex_lock (&p->lock);
  while (!p->air && !p->stopped) {
    p->awaited = true;
    pthread_cond_wait (&p->launched, &p->lock);
  }
  p->awaited = false;
  any = p->air != NULL;
  pthread_mutex_unlock (&p->lock);
  return any;
}

void
lane_pool_stop (struct lane_pool *p)
{
  pthread_mutex_lock (&p->lock);
  p->stopped = true;
  pthread_mutex_unlock (&p->lock);
  pthread_cond_signal (&p->launched);
}
