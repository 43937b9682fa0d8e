/* Lanes: what one request needs to talk to donors.  Each session has a
 * queue for every lane, and the sender's; who holds lane i may use queue i
 * of any session and the lane's landing buffer.  One owner at a time.
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
  struct lane *next;
};

struct lane_pool {
  unsigned count;
  struct lane *lanes;
  pthread_mutex_t lock;         /* guards all below */
  pthread_cond_t returned;      /* a lane can be taken */
  struct lane *free;
};

/* count lanes whose landing buffers lie in memory (count *
 * FABRIC_TRANSFER_MAX bytes, the caller's).  0 or -ENOMEM.
 */
int lane_pool_init (struct lane_pool *p, unsigned count, char *memory);
void lane_pool_destroy (struct lane_pool *p);

/* A free lane; NULL if there is none until deadline_ns (CLOCK_MONOTONIC). */
struct lane *lane_pool_take (struct lane_pool *p, int64_t deadline_ns);
void lane_pool_put (struct lane_pool *p, struct lane *lane);

#endif /* ISW_LANE_POOL_H */
