#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <time.h>

#include "fabric/fabric.h"

enum { WAIT_MAX = 8, NS_PER_S = 1000000000 };

int
fabric_available (const struct fabric_ops *ops)
{
  return ops->available ();
}

int
fabric_listen (const struct fabric_ops *ops,
               const struct sockaddr *addr, socklen_t len,
               struct fabric_listener **ret)
{
  return ops->listen (addr, len, ret);
}

int
fabric_listener_fd (struct fabric_listener *l)
{
  return l->ops->listener_fd (l);
}

int
fabric_listener_accept (struct fabric_listener *l, struct fabric_request **ret)
{
  return l->ops->listener_accept (l, ret);
}

void
fabric_listener_close (struct fabric_listener *l)
{
  l->ops->listener_close (l);
}

const struct fabric_preface *
fabric_request_preface (const struct fabric_request *r)
{
  return r->ops->request_preface (r);
}

const char *
fabric_request_peer (const struct fabric_request *r)
{
  return r->ops->request_peer (r);
}

void
fabric_request_reject (struct fabric_request *r)
{
  r->ops->request_reject (r);
}

int
fabric_channel_accept (struct fabric_request *r, struct fabric_channel **ret)
{
  return r->ops->channel_accept (r, ret);
}

int
fabric_channel_connect (const struct fabric_ops *ops,
                        const struct sockaddr *addr, socklen_t len,
                        int64_t timeout_ns, struct fabric_channel **ret)
{
  return ops->channel_connect (addr, len, timeout_ns, ret);
}

int
fabric_channel_fd (struct fabric_channel *c)
{
  return c->ops->channel_fd (c);
}

const void *
fabric_channel_device (const struct fabric_channel *c)
{
  return c->ops->channel_device (c);
}

int
fabric_channel_receive (struct fabric_channel *c, void *buf, size_t size)
{
  return c->ops->channel_receive (c, buf, size);
}

int
fabric_channel_send (struct fabric_channel *c, const void *buf, size_t len)
{
  return c->ops->channel_send (c, buf, len);
}

void
fabric_channel_close (struct fabric_channel *c)
{
  c->ops->channel_close (c);
}

int
fabric_domain_create (struct fabric_channel *c, struct fabric_domain **ret)
{
  return c->ops->domain_create (c, ret);
}

void
fabric_domain_free (struct fabric_domain *d)
{
  d->ops->domain_free (d);
}

int
fabric_region_add (struct fabric_domain *d, void *addr, size_t len,
                   bool remote, struct fabric_region **ret)
{
  return d->ops->region_add (d, addr, len, remote, ret);
}

uint64_t
fabric_region_address (const struct fabric_region *r)
{
  return r->ops->region_address (r);
}

uint64_t
fabric_region_key (const struct fabric_region *r)
{
  return r->ops->region_key (r);
}

int
fabric_region_remove (struct fabric_region *r)
{
  return r->ops->region_remove (r);
}

int
fabric_service_accept (struct fabric_request *r, struct fabric_domain *d,
                       struct fabric_service **ret)
{
  return r->ops->service_accept (r, d, ret);
}

void
fabric_service_end (struct fabric_service *s)
{
  s->ops->service_end (s);
}

int
fabric_queue_connect (struct fabric_domain *d,
                      const struct sockaddr *addr, socklen_t len,
                      const struct fabric_preface *preface,
                      int64_t timeout_ns, struct fabric_queue **ret)
{
  return d->ops->queue_connect (d, addr, len, preface, timeout_ns, ret);
}

int
fabric_queue_fd (struct fabric_queue *q)
{
  return q->ops->queue_fd (q);
}

int
fabric_queue_step (struct fabric_queue *q)
{
  return q->ops->queue_step (q);
}

int
fabric_queue_post (struct fabric_queue *q, struct fabric_op *op)
{
  return q->ops->queue_post (q, op);
}

void
fabric_queue_break (struct fabric_queue *q)
{
  q->ops->queue_break (q);
}

void
fabric_queue_free (struct fabric_queue *q)
{
  q->ops->queue_free (q);
}

int64_t
fabric_now_ns (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (int64_t) now.tv_sec * NS_PER_S + now.tv_nsec;
}

static void
queue_abandon (struct fabric_queue *q)
{
  q->ops->queue_break (q);
  q->ops->queue_settle (q);
}

/* Reap what has completed; is anything still outstanding? */
static bool
poll_all (struct fabric_queue *const *queues, size_t n)
{
  bool outstanding = false;

  for (size_t i = 0; i < n; i++) {
    /* That a queue is broken shows in its operations. */
    if (queues[i]->outstanding > 0)
      queues[i]->ops->queue_poll (queues[i]);
    outstanding |= queues[i]->outstanding > 0;
  }
  return outstanding;
}

static void
arm_all (struct fabric_queue *const *queues, size_t n, struct pollfd *pfds)
{
  for (size_t i = 0; i < n; i++) {
    pfds[i] = (struct pollfd) { .fd = -1 };
    if (queues[i]->outstanding > 0 &&
        queues[i]->ops->queue_arm (queues[i], &pfds[i]) < 0) {
      pfds[i].fd = -1;
      queue_abandon (queues[i]);
    }
  }
}

/* A wake-up, a signal or the time ends it: poll_all tells. */
static void
sleep_on (struct pollfd *pfds, size_t n, int64_t ns)
{
  if (ns < 0)
    ns = 0;
  ppoll (pfds, n, &(struct timespec) { .tv_sec = ns / NS_PER_S,
                                       .tv_nsec = ns % NS_PER_S }, NULL);
}

/* Reap what completes within ns, returning after the first sleep: is
 * anything still outstanding?
 */
static bool
poll_or_sleep (struct fabric_queue *const *queues, size_t n, int64_t ns)
{
  struct pollfd pfds[WAIT_MAX];

  if (n == 1 && queues[0]->outstanding > 0 && queues[0]->ops->queue_await &&
      queues[0]->ops->queue_await (queues[0], ns))
    return queues[0]->outstanding > 0;
  if (!poll_all (queues, n))
    return false;
  arm_all (queues, n, pfds);
  /* What completed before the wake-up was asked for wakes nobody. */
  if (!poll_all (queues, n))
    return false;
  sleep_on (pfds, n, ns);
  return poll_all (queues, n);
}

/* Is everything done by then? */
static bool
wait_until (struct fabric_queue *const *queues, size_t n, int64_t until_ns)
{
  int64_t left_ns;

  assert (n <= WAIT_MAX);
  do {
    left_ns = until_ns - fabric_now_ns ();
    if (!poll_or_sleep (queues, n, left_ns))
      return true;
  } while (left_ns > 0);
  return false;
}

bool
fabric_await (struct fabric_queue *q, int64_t until_ns)
{
  if (until_ns <= 0)
    return !poll_all (&q, 1);
  return wait_until (&q, 1, until_ns);
}

int
fabric_wait (struct fabric_queue *const *queues, size_t n, int64_t deadline_ns)
{
  if (wait_until (queues, n, deadline_ns))
    return 0;
  for (size_t i = 0; i < n; i++)
    if (queues[i]->outstanding > 0)
      queue_abandon (queues[i]);
  return -ETIMEDOUT;
}
