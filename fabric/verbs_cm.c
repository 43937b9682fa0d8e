#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "fabric/verbs.h"

enum { NS_PER_S = 1000000000, NS_PER_MS = 1000000 };

static int
set_nonblocking (int fd)
{
  int flags = fcntl (fd, F_GETFL);

  if (flags == -1 || fcntl (fd, F_SETFL, flags | O_NONBLOCK) == -1)
    return -errno;
  return 0;
}

static int
open_events (struct verbs_cm *cm)
{
  int r;

  *cm = VERBS_CM_CLOSED;
  cm->events = rdma_create_event_channel ();
  if (cm->events == NULL)
    return verbs_errno ();
  r = set_nonblocking (cm->events->fd);
  if (r < 0)
    verbs_cm_close (cm);
  return r;
}

int
verbs_cm_create (struct verbs_cm *cm)
{
  int r;

  r = open_events (cm);
  if (r < 0)
    return r;
  if (rdma_create_id (cm->events, &cm->id, NULL, RDMA_PS_TCP) == -1) {
    r = verbs_errno ();
    verbs_cm_close (cm);
  }
  return r;
}

int
verbs_cm_adopt (struct verbs_cm *cm, struct rdma_cm_id *id)
{
  int r;

  r = open_events (cm);
  if (r == 0 && rdma_migrate_id (id, cm->events) == -1)
    r = verbs_errno ();
  if (r < 0) {
    /* On the listener's channel still, so before cm's is closed. */
    rdma_reject (id, NULL, 0);
    rdma_destroy_id (id);
    verbs_cm_close (cm);
    return r;
  }
  cm->id = id;
  return 0;
}

int
verbs_cm_watch_fd (struct verbs_cm *cm, int fd)
{
  struct epoll_event event = { .events = EPOLLIN };

  return epoll_ctl (cm->poll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

int
verbs_cm_watch (struct verbs_cm *cm)
{
  int r;

  cm->poll_fd = epoll_create1 (EPOLL_CLOEXEC);
  if (cm->poll_fd == -1)
    return -errno;
  cm->timer_fd = timerfd_create (CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (cm->timer_fd == -1)
    return -errno;
  r = verbs_cm_watch_fd (cm, cm->events->fd);
  return r < 0 ? r : verbs_cm_watch_fd (cm, cm->timer_fd);
}

static void
set_timer (struct verbs_cm *cm, int64_t ns)
{
  struct itimerspec when = {
    .it_value = { .tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S },
  };

  timerfd_settime (cm->timer_fd, 0, &when, NULL);
}

void
verbs_cm_alarm (struct verbs_cm *cm)
{
  set_timer (cm, 1);
}

void
verbs_cm_stop_timer (struct verbs_cm *cm)
{
  set_timer (cm, 0);
}

static int
timeout_ms (const struct verbs_cm *cm)
{
  int64_t ms = cm->timeout_ns / NS_PER_MS;

  return ms < 1 ? 1 : ms > INT32_MAX ? INT32_MAX : ms;
}

uint8_t
verbs_ack_timeout (int64_t timeout_ns)
{
  /* 0 would mean for ever, and the field has five bits. */
  uint8_t n = 1;

  while (n < 31 &&
         (INT64_C (4096) << (n + 1)) * (1 + VERBS_RETRIES) <= timeout_ns / 2)
    n++;
  return n;
}

int
verbs_cm_resolve (struct verbs_cm *cm, const struct sockaddr *addr,
                  socklen_t len, int64_t timeout_ns)
{
  struct sockaddr_storage copy = { 0 };

  /* librdmacm goes by the family, not by a length. */
  if ((addr->sa_family != AF_INET || len < sizeof (struct sockaddr_in)) &&
      (addr->sa_family != AF_INET6 || len < sizeof (struct sockaddr_in6)))
    return -EAFNOSUPPORT;
  memcpy (&copy, addr, len < sizeof copy ? len : sizeof copy);

  cm->timeout_ns = timeout_ns > 0 ? timeout_ns : 1;
  set_timer (cm, cm->timeout_ns);
  if (rdma_resolve_addr (cm->id, NULL, (struct sockaddr *) &copy,
                         timeout_ms (cm)) == -1)
    return verbs_errno ();
  return 0;
}

static int
resolve_route (struct verbs_cm *cm)
{
  uint8_t exponent = verbs_ack_timeout (cm->timeout_ns);

  if (rdma_set_option (cm->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT,
                       &exponent, sizeof exponent) == -1 ||
      rdma_resolve_route (cm->id, timeout_ms (cm)) == -1)
    return verbs_errno ();
  return VERBS_NOTHING;
}

int
verbs_cm_connect (struct verbs_cm *cm, const struct fabric_preface *preface,
                  uint8_t reads)
{
  struct wire_preface wire;
  struct rdma_conn_param param = {
    .private_data = &wire,
    .private_data_len = sizeof wire,
    .initiator_depth = reads,
    .retry_count = VERBS_RETRIES,
    .rnr_retry_count = VERBS_RNR_RETRIES,
  };

  preface_encode (preface, &wire);
  return rdma_connect (cm->id, &param) == 0 ? 0 : verbs_errno ();
}

static int
react (struct verbs_cm *cm, enum rdma_cm_event_type type, int status)
{
  switch (type) {
  case RDMA_CM_EVENT_ADDR_RESOLVED:
    return resolve_route (cm);
  case RDMA_CM_EVENT_ROUTE_RESOLVED:
    return VERBS_ROUTED;
  case RDMA_CM_EVENT_ESTABLISHED:
    return VERBS_ESTABLISHED;
  case RDMA_CM_EVENT_ADDR_ERROR:
    /* Not always an errno: librdmacm's own failures are -1. */
    return status < -1 ? status : -ENODEV;
  case RDMA_CM_EVENT_ROUTE_ERROR:
  case RDMA_CM_EVENT_UNREACHABLE:
    return -EHOSTUNREACH;
  case RDMA_CM_EVENT_REJECTED:
  case RDMA_CM_EVENT_CONNECT_ERROR:
    return -ECONNREFUSED;
  case RDMA_CM_EVENT_DISCONNECTED:
  case RDMA_CM_EVENT_DEVICE_REMOVAL:
    return -ECONNRESET;
  default:
    return VERBS_NOTHING;
  }
}

int
verbs_cm_step (struct verbs_cm *cm)
{
  enum rdma_cm_event_type type;
  struct rdma_cm_event *event;
  uint64_t expired;
  int status, r;

  for (;;) {
    if (rdma_get_cm_event (cm->events, &event) == -1) {
      if (errno != EAGAIN && errno != EINTR)
        return verbs_errno ();
      break;
    }
    type = event->event;
    status = event->status;
    rdma_ack_cm_event (event);
    r = react (cm, type, status);
    if (r != VERBS_NOTHING)
      return r;
  }
  if (read (cm->timer_fd, &expired, sizeof expired) == sizeof expired)
    return -ETIMEDOUT;
  return VERBS_NOTHING;
}

void
verbs_cm_destroy_qp (struct verbs_cm *cm)
{
  if (cm->id != NULL && cm->id->qp != NULL)
    rdma_destroy_qp (cm->id);
}

void
verbs_cm_close (struct verbs_cm *cm)
{
  verbs_cm_destroy_qp (cm);
  if (cm->id != NULL)
    rdma_destroy_id (cm->id);
  if (cm->events != NULL)
    rdma_destroy_event_channel (cm->events);
  if (cm->timer_fd != -1)
    close (cm->timer_fd);
  if (cm->poll_fd != -1)
    close (cm->poll_fd);
  *cm = VERBS_CM_CLOSED;
}

int
verbs_cq_create (struct verbs_cq *c, struct ibv_context *device, int depth)
{
  int r;

  c->channel = ibv_create_comp_channel (device);
  if (c->channel == NULL)
    return verbs_errno ();
  r = set_nonblocking (c->channel->fd);
  if (r < 0)
    return r;
  c->cq = ibv_create_cq (device, depth, NULL, c->channel, 0);
  return c->cq != NULL ? 0 : verbs_errno ();
}

int
verbs_cq_arm (struct verbs_cq *c)
{
  struct ibv_cq *cq;
  void *context;
  int r;

  if (c->armed && ibv_get_cq_event (c->channel, &cq, &context) == 0) {
    ibv_ack_cq_events (cq, 1);
    c->armed = false;
  }
  if (c->armed)
    return 0;
  r = ibv_req_notify_cq (c->cq, 0);
  if (r != 0)
    return -r;
  c->armed = true;
  return 0;
}

void
verbs_cq_destroy (struct verbs_cq *c)
{
  if (c->cq != NULL)
    ibv_destroy_cq (c->cq);
  if (c->channel != NULL)
    ibv_destroy_comp_channel (c->channel);
  *c = (struct verbs_cq) { 0 };
}
