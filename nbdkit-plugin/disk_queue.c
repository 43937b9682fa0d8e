#include "nbdkit-plugin/disk_queue.h"

#include <errno.h>
#include <stdlib.h>

/* The kernel deals completion slots out to processors in portions, so
 * that with just as many as writes one of them can run short.
 */
enum { CONTEXT_FACTOR = 4 };

enum { NS_PER_S = 1000000000 };

struct disk_queue {
  io_context_t context;         /* NULL: the kernel refuses */
  int fd;
  unsigned depth;
  struct iocb **batch;
  unsigned batched;
  unsigned in_flight;
  struct io_event *events;      /* reaped from the kernel, not handed on */
  unsigned event, event_count;
  struct disk_write *ended;     /* without the kernel's queue */
};

struct disk_queue *
disk_queue_new (int fd, unsigned depth)
{
  struct disk_queue *q = calloc (1, sizeof *q);

  if (!q)
    return NULL;
  q->fd = fd;
  q->depth = depth;
  q->batch = calloc (depth, sizeof *q->batch);
  q->events = calloc (depth, sizeof *q->events);
  if (!q->batch || !q->events) {
    disk_queue_free (q);
    return NULL;
  }
  if (io_setup (depth * CONTEXT_FACTOR, &q->context) < 0)
    q->context = NULL;
  return q;
}

void
disk_queue_free (struct disk_queue *q)
{
  if (!q)
    return;
  if (q->context)
    io_destroy (q->context);
  free (q->batch);
  free (q->events);
  free (q);
}

void
disk_queue_add (struct disk_queue *q, struct disk_write *w,
                const struct iovec *iov, int n, uint64_t offset)
{
  io_prep_pwritev (&w->iocb, q->fd, iov, n, offset);
  w->iocb.data = w;
  w->len = 0;
  for (int i = 0; i < n; i++)
    w->len += iov[i].iov_len;
  q->batch[q->batched++] = &w->iocb;
}

/* What the kernel says of a write, as 0 or -errno.  A short one is as good
 * as none: it stops before a bad block, or where the file was cut.
 */
static void
set_result (struct disk_write *w, long result)
{
  w->result = result < 0 ? (int) result
    : (size_t) result == w->len ? 0 : -EIO;
}

static void
write_now (struct disk_queue *q, struct iocb *iocb)
{
  struct disk_write *w = iocb->data;
  ssize_t r;

  do
    r = pwritev (q->fd, iocb->u.c.buf, iocb->u.c.nbytes, iocb->u.c.offset);
  while (r == -1 && errno == EINTR);
  set_result (w, r == -1 ? -errno : r);
  w->link = q->ended;
  q->ended = w;
}

void
disk_queue_submit (struct disk_queue *q)
{
  unsigned begun = 0;

  while (begun < q->batched) {
    int r = q->context ? io_submit (q->context, q->batched - begun,
                                    q->batch + begun) : 0;
    if (r > 0) {
      begun += r;
      q->in_flight += r;
    }
    else if (r != -EINTR)
      write_now (q, q->batch[begun++]);
  }
  q->batched = 0;
}

static void
get_events (struct disk_queue *q, int64_t wait_ns)
{
  struct timespec timeout = {
    .tv_sec = wait_ns / NS_PER_S, .tv_nsec = wait_ns % NS_PER_S,
  };
  int n;

  do
    n = io_getevents (q->context, wait_ns > 0 ? 1 : 0, q->depth, q->events,
                      wait_ns == DISK_QUEUE_EVER ? NULL : &timeout);
  while (n == -EINTR);
  q->event = 0;
  q->event_count = n > 0 ? n : 0;
  q->in_flight -= q->event_count;
}

struct disk_write *
disk_queue_reap (struct disk_queue *q, int64_t wait_ns)
{
  struct disk_write *w = q->ended;

  if (w) {
    q->ended = w->link;
    return w;
  }
  if (q->event == q->event_count && q->in_flight > 0)
    get_events (q, wait_ns);
  if (q->event == q->event_count)
    return NULL;
  w = q->events[q->event].data;
  set_result (w, q->events[q->event++].res);
  return w;
}
