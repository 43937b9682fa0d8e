#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fabric/tcp.h"

enum { UNSENT_MAX = 64 };

struct frame {
  struct be32 length;
  uint8_t message[FABRIC_MESSAGE_MAX];
};

_Static_assert (sizeof (struct frame) == 4 + FABRIC_MESSAGE_MAX, "frame");

struct tcp_channel {
  struct fabric_channel base;
  struct tcp_link link;
  int error;                    /* -errno once it has ended */
  int send_error;               /* -errno once it takes nothing more */

  struct frame in;
  size_t received;              /* bytes of `in` */

  struct frame unsent[UNSENT_MAX]; /* a ring */
  unsigned first, count;
  size_t sent;                  /* bytes of unsent[first] */
};

static const struct fabric_preface control_preface = {
  .kind = FABRIC_CONTROL,
};

static struct tcp_channel *
channel_new (void)
{
  struct tcp_channel *c = calloc (1, sizeof *c);

  if (c)
    c->base.ops = &fabric_tcp;
  return c;
}

int
tcp_channel_connect (const struct sockaddr *addr, socklen_t len,
                     int64_t timeout_ns, struct fabric_channel **ret)
{
  struct tcp_channel *c = channel_new ();
  int r;

  if (!c)
    return -ENOMEM;
  r = tcp_link_connect (&c->link, addr, len, timeout_ns);
  if (r < 0) {
    free (c);
    return r;
  }
  *ret = &c->base;
  return 0;
}

int
tcp_channel_accept (struct fabric_request *request,
                    struct fabric_channel **ret)
{
  int fd = tcp_request_take (request);
  struct tcp_channel *c = channel_new ();
  int r;

  if (!c) {
    close (fd);
    return -ENOMEM;
  }
  r = tcp_link_adopt (&c->link, fd);
  if (r < 0) {
    free (c);
    return r;
  }
  *ret = &c->base;
  return 0;
}

int
tcp_channel_fd (struct fabric_channel *base)
{
  return ((struct tcp_channel *) base)->link.epoll;
}

static void
watch (struct tcp_channel *c)
{
  tcp_link_watch (&c->link, EPOLLIN | (c->count > 0 ? EPOLLOUT : 0));
}

static size_t
frame_bytes (const struct frame *f)
{
  return sizeof f->length + be32_get (f->length);
}

/* Send what the connection takes.  An error is not the end yet: what
 * the peer said before it closed (why it refuses) is still to be read.
 */
static void
send_unsent (struct tcp_channel *c)
{
  ssize_t r = 0;

  while (c->count > 0) {
    struct frame *f = &c->unsent[c->first];

    r = tcp_send (c->link.fd, (uint8_t *) f + c->sent,
                  frame_bytes (f) - c->sent);
    if (r <= 0)
      break;
    c->sent += r;
    if (c->sent == frame_bytes (f)) {
      c->first = (c->first + 1) % UNSENT_MAX;
      c->count--;
      c->sent = 0;
    }
  }
  if (r < 0) {
    c->send_error = r;
    c->count = 0;
    shutdown (c->link.fd, SHUT_RDWR);
  }
  watch (c);
}

/* 0 once connected. */
static int
move_along (struct tcp_channel *c)
{
  int r;

  if (c->error < 0)
    return c->error;
  r = tcp_link_step (&c->link, &control_preface);
  if (r < 0)
    return r;
  tcp_link_stands (&c->link);
  if (c->count > 0)
    send_unsent (c);
  return 0;
}

int
tcp_channel_send (struct fabric_channel *base, const void *buf, size_t len)
{
  struct tcp_channel *c = (struct tcp_channel *) base;
  struct frame *f;

  if (c->error < 0)
    return c->error;
  if (c->send_error < 0)
    return c->send_error;
  if (len < 1 || len > FABRIC_MESSAGE_MAX)
    return -EINVAL;
  if (c->count == UNSENT_MAX)
    return -ENOBUFS;

  f = &c->unsent[(c->first + c->count) % UNSENT_MAX];
  f->length = be32_from (len);
  memcpy (f->message, buf, len);
  c->count++;
  if (c->link.connected)
    send_unsent (c);
  return c->send_error;
}

/* Receive until `in` holds so many bytes: 1 if it does, 0 if more is to
 * come, -errno.
 */
static int
receive_upto (struct tcp_channel *c, size_t bytes)
{
  ssize_t r;

  while (c->received < bytes) {
    r = tcp_receive (c->link.fd, (uint8_t *) &c->in + c->received,
                     bytes - c->received);
    if (r <= 0)
      return r;
    c->received += r;
  }
  return 1;
}

/* The length of the message in `in` once it is whole; 0; -errno. */
static int
receive_frame (struct tcp_channel *c)
{
  uint32_t length;
  int r;

  r = receive_upto (c, sizeof c->in.length);
  if (r <= 0)
    return r;
  length = be32_get (c->in.length);
  if (length < 1 || length > FABRIC_MESSAGE_MAX)
    return -EBADMSG;
  r = receive_upto (c, frame_bytes (&c->in));
  return r <= 0 ? r : (int) length;
}

int
tcp_channel_receive (struct fabric_channel *base, void *buf, size_t size)
{
  struct tcp_channel *c = (struct tcp_channel *) base;
  int r;

  r = move_along (c);
  if (r == 0)
    r = receive_frame (c);
  if (r == 0 || r == -EAGAIN)
    return 0;
  if (r < 0)
    goto ended;
  if ((size_t) r > size)
    return -EMSGSIZE;
  memcpy (buf, c->in.message, r);
  c->received = 0;
  return r;

ended:
  if (c->error == 0) {
    c->error = c->send_error < 0 ? c->send_error : r;
    tcp_link_stands (&c->link);
    tcp_link_watch (&c->link, 0);
    shutdown (c->link.fd, SHUT_RDWR);
  }
  return c->error;
}

void
tcp_channel_close (struct fabric_channel *base)
{
  struct tcp_channel *c = (struct tcp_channel *) base;

  tcp_link_close (&c->link);
  free (c);
}
