#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "fabric/tcp.h"

enum { NS_PER_S = 1000000000 };

ssize_t
tcp_receive_parts (int fd, struct iovec *parts, size_t n, int flags)
{
  struct msghdr message = { .msg_iov = parts, .msg_iovlen = n };
  ssize_t r = recvmsg (fd, &message, flags);

  if (r > 0)
    return r;
  if (r == 0)
    return -ECONNRESET;
  return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

ssize_t
tcp_receive (int fd, void *buf, size_t size)
{
  struct iovec part = { .iov_base = buf, .iov_len = size };

  return tcp_receive_parts (fd, &part, 1, MSG_DONTWAIT);
}

ssize_t
tcp_send_parts (int fd, struct iovec *parts, size_t n)
{
  struct msghdr message = { .msg_iov = parts, .msg_iovlen = n };
  ssize_t r = sendmsg (fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);

  if (r >= 0)
    return r;
  if (errno == EPIPE)
    return -ECONNRESET;
  return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

ssize_t
tcp_send (int fd, const void *buf, size_t len)
{
  struct iovec part = { .iov_base = (void *) buf, .iov_len = len };

  return tcp_send_parts (fd, &part, 1);
}

void
tcp_skip (struct iovec *parts, size_t n, size_t bytes)
{
  for (size_t i = 0; i < n; i++) {
    size_t here = bytes < parts[i].iov_len ? bytes : parts[i].iov_len;

    parts[i].iov_base = (uint8_t *) parts[i].iov_base + here;
    parts[i].iov_len -= here;
    bytes -= here;
  }
}

static int
watch_with_epoll (struct tcp_link *l, int fd, uint32_t events)
{
  struct epoll_event ev = { .events = events };

  return epoll_ctl (l->epoll, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

static int
add_timer (struct tcp_link *l, int64_t timeout_ns)
{
  struct itimerspec when = {
    .it_value = { .tv_sec = timeout_ns / NS_PER_S,
                  .tv_nsec = timeout_ns % NS_PER_S },
  };

  l->timer = timerfd_create (CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (l->timer < 0 || timerfd_settime (l->timer, 0, &when, NULL) < 0)
    return -errno;
  return watch_with_epoll (l, l->timer, EPOLLIN);
}

/* Watch l->fd; l is otherwise empty. */
static int
open_link (struct tcp_link *l, uint32_t events)
{
  int one = 1;

  if (setsockopt (l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0)
    return -errno;
  l->epoll = epoll_create1 (EPOLL_CLOEXEC);
  if (l->epoll < 0)
    return -errno;
  l->events = events;
  return watch_with_epoll (l, l->fd, events);
}

int
tcp_link_connect (struct tcp_link *l, const struct sockaddr *addr,
                  socklen_t len, int64_t timeout_ns)
{
  int r;

  *l = (struct tcp_link) { .fd = -1, .epoll = -1, .timer = -1 };
  l->fd = socket (addr->sa_family,
                  SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (l->fd < 0)
    return -errno;
  /* epoll takes a socket that does not even try for one that hung up. */
  if (connect (l->fd, addr, len) < 0 && errno != EINPROGRESS)
    l->error = -errno;

  r = open_link (l, EPOLLOUT);
  if (r == 0)
    /* A timer set to 0 would never expire. */
    r = add_timer (l, timeout_ns > 0 ? timeout_ns : 1);
  if (r < 0)
    tcp_link_close (l);
  return r;
}

int
tcp_link_adopt (struct tcp_link *l, int fd)
{
  int r;

  *l = (struct tcp_link) {
    .fd = fd, .epoll = -1, .timer = -1, .connected = true,
  };
  r = open_link (l, EPOLLIN);
  if (r < 0)
    tcp_link_close (l);
  return r;
}

static int
finish_connect (struct tcp_link *l)
{
  struct pollfd pfd = { .fd = l->fd, .events = POLLOUT };
  socklen_t len = sizeof (int);
  int error;

  if (l->error < 0)
    return l->error;
  if (poll (&pfd, 1, 0) <= 0)
    return tcp_link_expired (l) ?: -EAGAIN;
  if (getsockopt (l->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
    return -errno;
  /* Shut down before it stood. */
  if (error == 0 && (pfd.revents & POLLHUP))
    return -ECONNRESET;
  return -error;
}

int
tcp_link_step (struct tcp_link *l, const struct fabric_preface *preface)
{
  struct wire_preface w;
  ssize_t r;

  if (l->connected)
    return 0;
  r = finish_connect (l);
  if (r < 0)
    return r;

  /* A new connection has room for it. */
  preface_encode (preface, &w);
  r = tcp_send (l->fd, &w, sizeof w);
  if (r < 0)
    return r;
  if (r != sizeof w)
    return -EIO;
  l->connected = true;
  tcp_link_watch (l, EPOLLIN);
  return 0;
}

int
tcp_link_expired (const struct tcp_link *l)
{
  uint64_t times;

  if (l->timer < 0 || read (l->timer, &times, sizeof times) < 0)
    return 0;
  return -ETIMEDOUT;
}

void
tcp_link_stands (struct tcp_link *l)
{
  if (l->timer >= 0)
    close (l->timer);
  l->timer = -1;
}

void
tcp_link_watch (struct tcp_link *l, uint32_t events)
{
  struct epoll_event ev = { .events = events };

  if (l->events == events)
    return;
  /* epoll reports errors of whatever it still holds. */
  epoll_ctl (l->epoll, events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD, l->fd,
             &ev);
  l->events = events;
}

void
tcp_link_close (struct tcp_link *l)
{
  tcp_link_stands (l);
  if (l->fd >= 0)
    close (l->fd);
  if (l->epoll >= 0)
    close (l->epoll);
  *l = (struct tcp_link) { .fd = -1, .epoll = -1, .timer = -1 };
}
