#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "fabric/tcp.h"

/* How long one call to receive may sleep; the kernel makes that whole
 * ticks, so that it may be a few milliseconds more.
 */
enum { RECEIVE_NS = 10000000 };

/* Operations leave, and end, in the order they were posted: `first` is
 * the one whose response comes next, `unsent` the one being sent.  Local
 * memory is touched by the system calls made here alone, so that an
 * operation that is off the list is over.
 */
struct tcp_queue {
  struct fabric_queue base;
  struct tcp_link link;
  struct fabric_preface preface;
  int error;                    /* -errno once broken */
  int send_error;               /* the same, while responses may be left */
  atomic_bool breaking;         /* by queue_break, any thread */

  struct fabric_op *first, *last;
  struct fabric_op *unsent;     /* NULL: all have left */
  size_t sent;                  /* bytes of unsent */
  uint32_t first_tag, unsent_tag;

  struct be32 answer;           /* to the preface */
  struct wire_tcp_response response;
  size_t received;              /* of answer; of response and its data */
};

int
tcp_queue_connect (struct fabric_domain *d,
                   const struct sockaddr *addr, socklen_t len,
                   const struct fabric_preface *preface,
                   int64_t timeout_ns, struct fabric_queue **ret)
{
  /* The kernel drops what it has not sent when the queue is freed. */
  struct linger abort = { .l_onoff = 1, .l_linger = 0 };
  struct tcp_queue *q = calloc (1, sizeof *q);
  int r;

  (void) d;
  if (!q)
    return -ENOMEM;
  q->base.ops = &fabric_tcp;
  q->preface = *preface;
  r = tcp_link_connect (&q->link, addr, len, timeout_ns);
  if (r < 0) {
    free (q);
    return r;
  }
  setsockopt (q->link.fd, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
  *ret = &q->base;
  return 0;
}

int
tcp_queue_fd (struct fabric_queue *base)
{
  return ((struct tcp_queue *) base)->link.epoll;
}

static int
check_broken (struct tcp_queue *q)
{
  if (q->error == 0 && atomic_load (&q->breaking))
    q->error = -ECONNRESET;
  return q->error;
}

/* From now on, receiving may sleep. */
static int
make_blocking (int fd)
{
  struct timeval limit = { .tv_usec = RECEIVE_NS / 1000 };

  if (setsockopt (fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ||
      fcntl (fd, F_SETFL, 0) < 0)
    return -errno;
  return 0;
}

static int
receive_answer (struct tcp_queue *q)
{
  ssize_t r;

  while (q->received < sizeof q->answer) {
    r = tcp_receive (q->link.fd, q->answer.bytes + q->received,
                     sizeof q->answer - q->received);
    if (r < 0)
      return r;
    if (r == 0)
      return tcp_link_expired (&q->link) ?: -EAGAIN;
    q->received += r;
  }
  switch (be32_get (q->answer)) {
  case TCP_LANE_ACCEPTED:
    return 0;
  case TCP_LANE_REJECTED:
    return -ECONNREFUSED;
  default:
    return -EBADMSG;
  }
}

int
tcp_queue_step (struct fabric_queue *base)
{
  struct tcp_queue *q = (struct tcp_queue *) base;
  int r;

  r = check_broken (q);
  if (r == 0)
    r = tcp_link_step (&q->link, &q->preface);
  if (r == 0)
    r = receive_answer (q);
  if (r == -EAGAIN)
    return r;
  if (r == 0)
    r = make_blocking (q->link.fd);
  q->error = r;
  q->received = 0;
  tcp_link_stands (&q->link);
  tcp_link_watch (&q->link, 0);
  return r;
}

static void
send_unsent (struct tcp_queue *q)
{
  while (q->unsent && q->send_error == 0) {
    struct fabric_op *op = q->unsent;
    bool write = op->type == FABRIC_WRITE;
    struct wire_tcp_request request = {
      .type = be32_from (write ? TCP_WRITE : TCP_READ),
      .tag = be32_from (q->unsent_tag),
      .key = be64_from (op->key),
      .address = be64_from (op->remote),
      .length = be32_from (op->length),
    };
    struct iovec parts[2] = {
      { .iov_base = &request, .iov_len = sizeof request },
      { .iov_base = op->local, .iov_len = write ? op->length : 0 },
    };
    size_t total = parts[0].iov_len + parts[1].iov_len;
    ssize_t r;

    tcp_skip (parts, 2, q->sent);
    r = tcp_send_parts (q->link.fd, parts, 2);
    if (r < 0)
      q->send_error = r;
    if (r <= 0)
      return;
    q->sent += r;
    if (q->sent == total) {
      q->unsent = op->next;
      q->unsent_tag++;
      q->sent = 0;
    }
  }
}

int
tcp_queue_post (struct fabric_queue *base, struct fabric_op *op)
{
  struct tcp_queue *q = (struct tcp_queue *) base;
  int r;

  r = check_broken (q);
  if (r < 0)
    return r;
  if (op->length < 1 || op->length > FABRIC_TRANSFER_MAX ||
      (op->type != FABRIC_READ && op->type != FABRIC_WRITE))
    return -EINVAL;
  if (q->base.outstanding == FABRIC_QUEUE_DEPTH)
    return -ENOBUFS;

  op->done = false;
  op->next = NULL;
  if (q->first)
    q->last->next = op;
  else
    q->first = op;
  q->last = op;
  q->base.outstanding++;
  if (!q->unsent) {
    q->unsent = op;
    send_unsent (q);
  }
  return 0;
}

/* The operation belongs to its owner again. */
static void
finish_first (struct tcp_queue *q, int status)
{
  struct fabric_op *op = q->first;

  if (q->unsent == op)
    q->unsent = op->next;
  q->first = op->next;
  q->first_tag++;
  q->received = 0;
  q->base.outstanding--;
  op->status = status;
  op->done = true;
}

/* Is this the response that the first operation must get? */
static int
check_response (struct tcp_queue *q)
{
  const struct wire_tcp_response *response = &q->response;
  const struct fabric_op *op = q->first;
  bool asked = op != q->unsent || q->sent >= sizeof (struct wire_tcp_request);
  uint32_t data = op->type == FABRIC_READ ? op->length : 0;

  if (be32_get (response->type) != TCP_RESPONSE ||
      be32_get (response->tag) != q->first_tag || !asked)
    return -EBADMSG;
  switch (be32_get (response->status)) {
  case TCP_OK:
    return op != q->unsent && be32_get (response->length) == data
      ? 0 : -EBADMSG;
  case TCP_REFUSED:
    return -EACCES;
  default:
    return -EBADMSG;
  }
}

/* 1 once the response to the first operation is whole, 0 while more is
 * to come, -errno if the queue is broken.  May sleep once where *flags
 * allow it, and clears that.
 */
static int
receive_first (struct tcp_queue *q, int *flags)
{
  struct fabric_op *op = q->first;
  size_t total = sizeof q->response;
  ssize_t r;

  /* The data of a READ comes with the response in one call; what a
   * hostile peer sends instead lands only where data was asked for.
   */
  if (op->type == FABRIC_READ && op != q->unsent)
    total += op->length;
  while (q->received < total) {
    struct iovec parts[2] = {
      { .iov_base = &q->response, .iov_len = sizeof q->response },
      { .iov_base = op->local, .iov_len = total - sizeof q->response },
    };

    tcp_skip (parts, 2, q->received);
    r = tcp_receive_parts (q->link.fd, parts, 2, *flags);
    *flags = MSG_DONTWAIT;
    if (r <= 0)
      return r;
    q->received += r;
    if (q->received >= sizeof q->response) {
      r = check_response (q);
      if (r < 0)
        return r;
    }
  }
  return 1;
}

static int
reap (struct tcp_queue *q, int flags)
{
  int r = check_broken (q);

  if (r == 0) {
    send_unsent (q);
    while (q->first && (r = receive_first (q, &flags)) > 0)
      finish_first (q, 0);
    /* The peer may have said why before it closed. */
    if (r >= 0)
      r = q->send_error;
  }
  if (r == 0)
    return 0;
  if (q->error == 0) {
    q->error = -ECONNRESET;
    shutdown (q->link.fd, SHUT_RDWR);
  }
  /* Only the first can be the reason. */
  for (; q->first; r = q->error)
    finish_first (q, r);
  return q->error;
}

int
tcp_queue_poll (struct fabric_queue *base)
{
  return reap ((struct tcp_queue *) base, MSG_DONTWAIT);
}

bool
tcp_queue_await (struct fabric_queue *base, int64_t ns)
{
  struct tcp_queue *q = (struct tcp_queue *) base;

  /* What has not left needs to be woken by room for it, too. */
  if (q->unsent || ns < 2 * RECEIVE_NS)
    return false;
  reap (q, 0);
  return true;
}

int
tcp_queue_arm (struct fabric_queue *base, struct pollfd *pfd)
{
  struct tcp_queue *q = (struct tcp_queue *) base;

  *pfd = (struct pollfd) {
    .fd = q->link.fd,
    .events = POLLIN | (q->unsent ? POLLOUT : 0),
  };
  return 0;
}

void
tcp_queue_break (struct fabric_queue *base)
{
  struct tcp_queue *q = (struct tcp_queue *) base;

  atomic_store (&q->breaking, true);
  shutdown (q->link.fd, SHUT_RDWR);
}

void
tcp_queue_settle (struct fabric_queue *base)
{
  tcp_queue_poll (base);
}

void
tcp_queue_free (struct fabric_queue *base)
{
  struct tcp_queue *q = (struct tcp_queue *) base;

  tcp_link_close (&q->link);
  free (q);
}
