#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "fabric/tcp.h"

enum {
  BACKLOG = 512,
  CALLERS_MAX = 64,             /* whose preface has not arrived */
  EVENTS_PER_ACCEPT = 256,      /* so that a flood cannot keep us here */
};

static const int64_t ns_per_s = 1000000000;
static const int64_t preface_timeout_ns = 5 * ns_per_s;
/* How long not to accept when the process is out of descriptors. */
static const int64_t pause_ns = ns_per_s / 10;

struct tcp_listener {
  struct fabric_listener base;
  int epoll;                    /* watches all the others */
  int socket;
  int timer;
  int64_t paused_until_ns;      /* 0: accepting */
  struct tcp_request *callers[CALLERS_MAX]; /* NULL: free */
};

/* What an event is about: a caller's number, or one of these. */
enum { EVENT_SOCKET = CALLERS_MAX, EVENT_TIMER };

static int
watch (struct tcp_listener *l, int op, int fd, uint32_t events, uint32_t about)
{
  struct epoll_event ev = { .events = events, .data.u32 = about };

  return epoll_ctl (l->epoll, op, fd, &ev) < 0 ? -errno : 0;
}

static int
open_socket (struct tcp_listener *l, const struct sockaddr *addr,
             socklen_t len)
{
  int one = 1;

  l->socket = socket (addr->sa_family,
                      SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (l->socket < 0 ||
      setsockopt (l->socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
      bind (l->socket, addr, len) < 0 ||
      listen (l->socket, BACKLOG) < 0)
    return -errno;
  return 0;
}

int
tcp_listen (const struct sockaddr *addr, socklen_t len,
            struct fabric_listener **ret)
{
  struct tcp_listener *l = calloc (1, sizeof *l);
  int r;

  if (!l)
    return -ENOMEM;
  l->base.ops = &fabric_tcp;
  l->epoll = l->timer = -1;
  r = open_socket (l, addr, len);
  if (r < 0)
    goto out;
  l->epoll = epoll_create1 (EPOLL_CLOEXEC);
  l->timer = timerfd_create (CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (l->epoll < 0 || l->timer < 0) {
    r = -errno;
    goto out;
  }
  r = watch (l, EPOLL_CTL_ADD, l->socket, EPOLLIN, EVENT_SOCKET);
  if (r == 0)
    r = watch (l, EPOLL_CTL_ADD, l->timer, EPOLLIN, EVENT_TIMER);

out:
  if (r < 0)
    tcp_listener_close (&l->base);
  else
    *ret = &l->base;
  return r;
}

int
tcp_listener_fd (struct fabric_listener *base)
{
  return ((struct tcp_listener *) base)->epoll;
}

static void
request_free (struct tcp_request *r)
{
  if (r->fd >= 0)
    close (r->fd);
  free (r);
}

/* Forget a caller; its connection goes to the caller of this. */
static struct tcp_request *
take_caller (struct tcp_listener *l, unsigned i)
{
  struct tcp_request *r = l->callers[i];

  l->callers[i] = NULL;
  epoll_ctl (l->epoll, EPOLL_CTL_DEL, r->fd, NULL);
  return r;
}

static void
drop_caller (struct tcp_listener *l, unsigned i)
{
  request_free (take_caller (l, i));
}

void
tcp_listener_close (struct fabric_listener *base)
{
  struct tcp_listener *l = (struct tcp_listener *) base;

  for (unsigned i = 0; i < CALLERS_MAX; i++)
    if (l->callers[i])
      drop_caller (l, i);
  if (l->timer >= 0)
    close (l->timer);
  if (l->socket >= 0)
    close (l->socket);
  if (l->epoll >= 0)
    close (l->epoll);
  free (l);
}

static void
print_peer (const struct sockaddr_storage *addr, char peer[FABRIC_PEER_MAX])
{
  const struct sockaddr_in *in = (const void *) addr;
  const struct sockaddr_in6 *in6 = (const void *) addr;
  char host[INET6_ADDRSTRLEN] = "?";

  if (addr->ss_family == AF_INET) {
    inet_ntop (AF_INET, &in->sin_addr, host, sizeof host);
    snprintf (peer, FABRIC_PEER_MAX, "%s:%u", host, ntohs (in->sin_port));
  }
  else {
    inet_ntop (AF_INET6, &in6->sin6_addr, host, sizeof host);
    snprintf (peer, FABRIC_PEER_MAX, "[%s]:%u", host, ntohs (in6->sin6_port));
  }
}

/* Wake up when the next of our time limits is over. */
static void
set_timer (struct tcp_listener *l)
{
  int64_t next_ns = l->paused_until_ns;
  struct itimerspec when = { 0 };

  for (unsigned i = 0; i < CALLERS_MAX; i++)
    if (l->callers[i] &&
        (next_ns == 0 || l->callers[i]->deadline_ns < next_ns))
      next_ns = l->callers[i]->deadline_ns;
  when.it_value.tv_sec = next_ns / ns_per_s;
  when.it_value.tv_nsec = next_ns % ns_per_s;
  timerfd_settime (l->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void
expire (struct tcp_listener *l)
{
  int64_t now_ns = fabric_now_ns ();

  for (unsigned i = 0; i < CALLERS_MAX; i++)
    if (l->callers[i] && l->callers[i]->deadline_ns <= now_ns)
      drop_caller (l, i);
  if (l->paused_until_ns != 0 && l->paused_until_ns <= now_ns) {
    l->paused_until_ns = 0;
    watch (l, EPOLL_CTL_MOD, l->socket, EPOLLIN, EVENT_SOCKET);
  }
  set_timer (l);
}

/* A place for one more caller.  An honest one sends its preface at once,
 * so where all places are taken, the oldest goes.
 */
static unsigned
find_place (struct tcp_listener *l)
{
  unsigned oldest = 0;

  for (unsigned i = 0; i < CALLERS_MAX; i++) {
    if (!l->callers[i])
      return i;
    if (l->callers[i]->deadline_ns < l->callers[oldest]->deadline_ns)
      oldest = i;
  }
  drop_caller (l, oldest);
  return oldest;
}

static void
accept_caller (struct tcp_listener *l)
{
  struct sockaddr_storage addr;
  socklen_t len = sizeof addr;
  struct tcp_request *r;
  unsigned i;
  int fd;

  fd = accept4 (l->socket, (struct sockaddr *) &addr, &len,
                SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    if (errno == EMFILE || errno == ENFILE ||
        errno == ENOMEM || errno == ENOBUFS) {
      l->paused_until_ns = fabric_now_ns () + pause_ns;
      watch (l, EPOLL_CTL_MOD, l->socket, 0, EVENT_SOCKET);
      set_timer (l);
    }
    return;
  }
  r = calloc (1, sizeof *r);
  if (!r) {
    close (fd);
    return;
  }
  r->base.ops = &fabric_tcp;
  r->fd = fd;
  r->deadline_ns = fabric_now_ns () + preface_timeout_ns;
  print_peer (&addr, r->peer);

  i = find_place (l);
  l->callers[i] = r;
  if (watch (l, EPOLL_CTL_ADD, fd, EPOLLIN, i) < 0)
    drop_caller (l, i);
  set_timer (l);
}

/* Take in what a caller has sent; it is returned once that is a whole
 * preface, and dropped if it cannot be one.
 */
static struct tcp_request *
hear_caller (struct tcp_listener *l, unsigned i)
{
  struct tcp_request *r = l->callers[i];
  ssize_t n;

  n = tcp_receive (r->fd, (uint8_t *) &r->wire + r->received,
                   sizeof r->wire - r->received);
  if (n > 0)
    r->received += n;
  if (n >= 0 && r->received < sizeof r->wire)
    return NULL;
  if (n < 0 || preface_decode (&r->wire, sizeof r->wire, &r->preface) < 0) {
    drop_caller (l, i);
    return NULL;
  }
  return take_caller (l, i);
}

int
tcp_listener_accept (struct fabric_listener *base,
                     struct fabric_request **ret)
{
  struct tcp_listener *l = (struct tcp_listener *) base;
  struct tcp_request *r = NULL;
  struct epoll_event ev;

  expire (l);
  for (int n = 0; n < EVENTS_PER_ACCEPT && !r; n++) {
    if (epoll_wait (l->epoll, &ev, 1, 0) <= 0)
      break;
    if (ev.data.u32 == EVENT_SOCKET)
      accept_caller (l);
    else if (ev.data.u32 == EVENT_TIMER)
      expire (l);
    else
      r = hear_caller (l, ev.data.u32);
  }
  if (!r)
    return -EAGAIN;
  *ret = &r->base;
  return 0;
}

const struct fabric_preface *
tcp_request_preface (const struct fabric_request *base)
{
  return &((const struct tcp_request *) base)->preface;
}

const char *
tcp_request_peer (const struct fabric_request *base)
{
  return ((const struct tcp_request *) base)->peer;
}

int
tcp_request_take (struct fabric_request *base)
{
  struct tcp_request *r = (struct tcp_request *) base;
  int fd = r->fd;

  r->fd = -1;
  request_free (r);
  return fd;
}

void
tcp_request_reject (struct fabric_request *base)
{
  struct tcp_request *r = (struct tcp_request *) base;
  struct be32 answer = be32_from (TCP_LANE_REJECTED);

  if (r->preface.kind == FABRIC_LANE)
    tcp_send (r->fd, &answer, sizeof answer);
  request_free (r);
}
