#include <stddef.h>

#include "fabric/tcp.h"

static int
tcp_available (void)
{
  return 0;
}

static const void *
tcp_channel_device (const struct fabric_channel *c)
{
  (void) c;
  return NULL;
}

const struct fabric_ops fabric_tcp = {
  .name = "tcp",
  .available = tcp_available,

  .listen = tcp_listen,
  .listener_fd = tcp_listener_fd,
  .listener_accept = tcp_listener_accept,
  .listener_close = tcp_listener_close,
  .request_preface = tcp_request_preface,
  .request_peer = tcp_request_peer,
  .request_reject = tcp_request_reject,

  .channel_accept = tcp_channel_accept,
  .channel_connect = tcp_channel_connect,
  .channel_fd = tcp_channel_fd,
  .channel_device = tcp_channel_device,
  .channel_receive = tcp_channel_receive,
  .channel_send = tcp_channel_send,
  .channel_close = tcp_channel_close,

  .domain_create = tcp_domain_create,
  .domain_free = tcp_domain_free,
  .region_add = tcp_region_add,
  .region_address = tcp_region_address,
  .region_key = tcp_region_key,
  .region_remove = tcp_region_remove,

  .service_accept = tcp_service_accept,
  .service_end = tcp_service_end,

  .queue_connect = tcp_queue_connect,
  .queue_fd = tcp_queue_fd,
  .queue_step = tcp_queue_step,
  .queue_post = tcp_queue_post,
  .queue_poll = tcp_queue_poll,
  .queue_await = tcp_queue_await,
  .queue_arm = tcp_queue_arm,
  .queue_break = tcp_queue_break,
  .queue_settle = tcp_queue_settle,
  .queue_free = tcp_queue_free,
};
