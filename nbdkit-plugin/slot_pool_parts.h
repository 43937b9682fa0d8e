/* What the slot pool is made of, for slot_pool.c (the requests' side) and
 * slot_writing.c (the writers').  All functions are called with the pool
 * locked.
 */

#ifndef ISW_SLOT_POOL_PARTS_H
#define ISW_SLOT_POOL_PARTS_H

#include <time.h>

#include "nbdkit-plugin/drain.h"
#include "nbdkit-plugin/epochs.h"
#include "nbdkit-plugin/slot_list.h"
#include "nbdkit-plugin/slot_pool.h"

enum slot_state {
  SLOT_FREE,
  SLOT_TAKEN,
  SLOT_QUEUED,                  /* in one of the queues */
  SLOT_BEHIND,                  /* waits for its predecessor's write */
  SLOT_WRITING,
  SLOT_LANDING,                 /* written, or not (`error`); on its way to a
                                   donor yet */
  SLOT_FAILED,                  /* not writable; the page's only copy */
  SLOT_ENDED,                   /* done, but still held */
};

struct slot {
  uint64_t page;
  struct slot_waiter *waiter;
  enum slot_state state;
  uint32_t readers;
  uint32_t epoch;
  int64_t since_ns;             /* when its place in the queue was taken */
  uint32_t predecessor, successor; /* of the same page, older and newer */
  bool sending;                 /* to a donor; set by its writer */
  int error;                    /* of a local write that ended before that */
  bool dropped;                 /* in the index for order, not for content */
  bool owed;                    /* acknowledged content of the page is not on
                                   the local copy: stays if its write fails */
  bool failed;                  /* counted: the local copy refused the page */
};

struct slot_pool {
  char *memory;                 /* constant, like n and owner */
  uint32_t n;
  struct slot_pool_owner owner;

  pthread_mutex_t lock;         /* guards all below */
  pthread_cond_t freed;         /* a slot became free */
  pthread_cond_t work;          /* a queue is no longer empty */
  pthread_cond_t drained;       /* an epoch became empty */
  struct slot *slots;
  struct slot_index index;
  uint64_t *free_map;           /* a set bit is a free slot */
  uint32_t cursor;              /* word of free_map where to look next */
  uint32_t in_use, failed;
  int64_t retry_ns;             /* when failed slots are tried again */
  struct slot_links *links;     /* of both queues */
  struct slot_list urgent, normal; /* urgent: someone waits */
  uint32_t queued;              /* slots in both */
  int64_t newest_ns;            /* when the last slot was committed */
  uint32_t idle, calls;         /* writers that wait; those told to get up */
  bool napping;                 /* one of the idle gets up by itself */
  uint32_t waiting;             /* threads that wait for writes to end, */
  uint32_t hurrying;            /* and those of them that wait for any */
  struct epochs epochs;         /* of what is committed and not written */
  bool stopped;
  struct drain drain;
};

int64_t slot_pool_now_ns (clockid_t clock);

/* The queue of a slot that is to be written. */
struct slot_list *slot_queue_of (struct slot_pool *p, const struct slot *s);
/* To its end, which calls a writer if that is worth it: waking one costs more
 * than all else that a write does here, so one that runs out of work looks
 * again after a nap before it sleeps, and while one naps, others are woken
 * only for who waits or when many slots are queued.
 */
void slot_queue_append (struct slot_pool *p, struct slot_list *q, uint32_t i);
void slot_queue_remove (struct slot_pool *p, uint32_t i);

/* At once, or when its last reader has gone. */
void slot_free (struct slot_pool *p, uint32_t i);
void slot_set_failed (struct slot_pool *p, struct slot *s, bool failed);
/* Tells flushes if it was the last of the epoch. */
void slot_leave_epoch (struct slot_pool *p, uint32_t epoch);

#endif /* ISW_SLOT_POOL_PARTS_H */
