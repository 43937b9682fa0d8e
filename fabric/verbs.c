#include "fabric/verbs.h"

int
verbs_available (void)
{
  struct rdma_event_channel *events;
  struct ibv_device **devices;
  int n = 0;

  /* librdmacm complains on stderr where there is none: ask first. */
  devices = ibv_get_device_list (&n);
  if (devices == NULL)
    return -ENODEV;
  ibv_free_device_list (devices);
  if (n == 0)
    return -ENODEV;

  events = rdma_create_event_channel ();
  if (events == NULL)
    return -ENODEV;
  rdma_destroy_event_channel (events);
  return 0;
}

const struct fabric_ops fabric_verbs = {
  .name = "verbs",
  .available = verbs_available,
  .listen = verbs_listen,
  .listener_fd = verbs_listener_fd,
  .listener_accept = verbs_listener_accept,
  .listener_close = verbs_listener_close,
  .request_preface = verbs_request_preface,
  .request_peer = verbs_request_peer,
  .request_reject = verbs_request_reject,
  .channel_accept = verbs_channel_accept,
  .channel_connect = verbs_channel_connect,
  .channel_fd = verbs_channel_fd,
  .channel_device = verbs_channel_device,
  .channel_receive = verbs_channel_receive,
  .channel_send = verbs_channel_send,
  .channel_close = verbs_channel_close,
  .domain_create = verbs_domain_create,
  .domain_free = verbs_domain_free,
  .region_add = verbs_region_add,
  .region_address = verbs_region_address,
  .region_key = verbs_region_key,
  .region_remove = verbs_region_remove,
  .service_accept = verbs_service_accept,
  .service_end = verbs_service_end,
  .queue_connect = verbs_queue_connect,
  .queue_fd = verbs_queue_fd,
  .queue_step = verbs_queue_step,
  .queue_post = verbs_queue_post,
  .queue_poll = verbs_queue_poll,
  .queue_arm = verbs_queue_arm,
  .queue_break = verbs_queue_break,
  .queue_settle = verbs_queue_settle,
  .queue_free = verbs_queue_free,
};
