/* Lanes: what one request needs to talk to donors.  Each session has a
 * queue for every lane; who holds lane i may use queue i of any session
 * and the lane's landing buffer.  One owner at a time.
 *
 * A lane whose operations nobody waits for is launched: it is in the air
 * until someone takes it again, who has to see to its landing first.
 */

#ifndef ISW_LANE_POOL_H
#define ISW_LANE_POOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "fabric/fabric.h"

enum { SPAN_PAGES_MAX = 32 };   /* pages that go through a lane at once */

struct lane {
  unsigned id;
  char *landing;                /* FABRIC_TRANSFER_MAX bytes */
  struct fabric_op ops[SPAN_PAGES_MAX];
  bool in_air;                  /* since it was put last */
  uint64_t first, count;        /* the pages it is in the air with */
  struct lane *next;
};

struct lane_pool {
  unsigned count;
  struct lane *lanes;
  pthread_mutex_t lock;         /* guards all below */
  pthread_cond_t returned;      /* a lane can be taken */
  pthread_cond_t launched;
  struct lane *free;
  struct lane *air, **air_end;  /* oldest first; without those recalled */
  unsigned in_air;              /* with them */
  bool awaited;                 /* a launch, by lane_pool_await_launch */
  bool stopped;
};

/* count lanes whose landing buffers lie in memory (count *
 * FABRIC_TRANSFER_MAX bytes, the caller's).  0 or -ENOMEM.
 */
int lane_pool_init (struct lane_pool *p, unsigned count, char *memory);
void lane_pool_destroy (struct lane_pool *p);

/* A free lane, else the one that is longest in the air; NULL if there is
 * neither until deadline_ns (CLOCK_MONOTONIC).
 */
struct lane *lane_pool_take (struct lane_pool *p, int64_t deadline_ns);
/* The same for who is going to launch it: half of all lanes at most are in
 * the air, since one may stay there for long.
 */
struct lane *lane_pool_take_to_launch (struct lane_pool *p,
                                       int64_t deadline_ns);
void lane_pool_put (struct lane_pool *p, struct lane *lane);

/* Leave the lane in the air, with operations for these pages. */
void lane_pool_launch (struct lane_pool *p, struct lane *lane,
                       uint64_t first, uint64_t count);
/* Take the lane that is longest in the air with any of these pages; NULL
 * if none is.
 */
struct lane *lane_pool_recall (struct lane_pool *p, uint64_t first,
                               uint64_t count);

/* For one thread: wait until a lane is in the air, true, or the pool has
 * been stopped.
 */
bool lane_pool_await_launch (struct lane_pool *p);
void lane_pool_stop (struct lane_pool *p);

#endif /* ISW_LANE_POOL_H */
