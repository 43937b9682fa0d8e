/* Inside of fabric_verbs: what its files share.  Only files named
 * fabric/verbs* know rdma_cm and ibverbs.
 *
 * librdmacm opens a device once in a process: connections over the same
 * device have the same ibv_context.
 */

#ifndef ISW_VERBS_H
#define ISW_VERBS_H

#include <errno.h>

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include "fabric/fabric.h"
#include "fabric/preface.h"

enum {
  /* Not 7, which means for ever. */
  VERBS_RETRIES = 6,
  VERBS_RNR_RETRIES = 6,
  /* READs in flight on one queue pair, where the device has as many. */
  VERBS_READS_MAX = 16,
};

/* Not everything in the verbs libraries sets errno when it fails. */
static inline int
verbs_errno (void)
{
  return errno > 0 ? -errno : -EIO;
}

/* An rdma_cm id with an event channel of its own, and one descriptor,
 * `poll_fd`, to watch it by.  {.poll_fd = -1, .timer_fd = -1} is a
 * closed one.
 */
struct verbs_cm {
  struct rdma_event_channel *events;
  struct rdma_cm_id *id;
  int poll_fd;                  /* epoll: events, timer, the owner's */
  int timer_fd;
  int64_t timeout_ns;
};

#define VERBS_CM_CLOSED ((struct verbs_cm) { .poll_fd = -1, .timer_fd = -1 })

enum verbs_step {
  VERBS_NOTHING,                /* wait for poll_fd */
  VERBS_ROUTED,                 /* id->verbs is known: connect now */
  VERBS_ESTABLISHED,
};

/* A new id.  On failure *cm is closed. */
int verbs_cm_create (struct verbs_cm *cm);
/* Takes an id over from a listener's event channel; *id is destroyed if
 * that fails.
 */
int verbs_cm_adopt (struct verbs_cm *cm, struct rdma_cm_id *id);
/* Adds poll_fd and timer_fd. */
int verbs_cm_watch (struct verbs_cm *cm);
/* One more descriptor that makes poll_fd readable. */
int verbs_cm_watch_fd (struct verbs_cm *cm, int fd);
/* Find the device that leads to addr; all of it and of the connection
 * that follows is to be done in timeout_ns.  Whatever fails, verbs_cm_step
 * tells.
 */
int verbs_cm_resolve (struct verbs_cm *cm, const struct sockaddr *addr,
                      socklen_t len, int64_t timeout_ns);
/* After VERBS_ROUTED and rdma_create_qp. */
int verbs_cm_connect (struct verbs_cm *cm,
                      const struct fabric_preface *preface,
                      uint8_t reads);
/* What happened: an enum verbs_step, or -errno when the connection failed
 * or ended.
 */
int verbs_cm_step (struct verbs_cm *cm);
/* Make poll_fd readable from now on. */
void verbs_cm_alarm (struct verbs_cm *cm);
/* The timer watches only the connection being made. */
void verbs_cm_stop_timer (struct verbs_cm *cm);
/* The queue pair, if there is one, goes first and with it all access to
 * memory.
 */
void verbs_cm_destroy_qp (struct verbs_cm *cm);
void verbs_cm_close (struct verbs_cm *cm);

/* The exponent n of an acknowledgement time-out of 4.096 us * 2^n for
 * which all retries end within half of timeout_ns.
 */
uint8_t verbs_ack_timeout (int64_t timeout_ns);

/* A completion queue with a non-blocking completion channel. */
struct verbs_cq {
  struct ibv_comp_channel *channel;
  struct ibv_cq *cq;
  bool armed;                   /* a wake-up was asked for, not yet taken */
};

int verbs_cq_create (struct verbs_cq *c, struct ibv_context *device,
                     int depth);
/* Takes a wake-up that came, and asks for another. */
int verbs_cq_arm (struct verbs_cq *c);
void verbs_cq_destroy (struct verbs_cq *c);

struct verbs_request {
  struct fabric_request head;
  struct verbs_cm cm;
  struct fabric_preface preface;
  uint8_t reads;                /* READs the caller wants in flight */
  char peer[FABRIC_PEER_MAX];
};

/* rdma_accept after rdma_create_qp. */
int verbs_request_accept (struct verbs_request *r);

struct verbs_domain {
  struct fabric_domain head;
  struct ibv_pd *pd;
  /* librdmacm closes a removed device with the last id on it: this id
   * makes sure that is not before the domain is freed.
   */
  struct verbs_cm pin;
};

struct verbs_region {
  struct fabric_region head;
  struct ibv_mr *mr;
};

/* The entries of fabric_verbs. */
int verbs_available (void);

int verbs_listen (const struct sockaddr *addr, socklen_t len,
                  struct fabric_listener **ret);
int verbs_listener_fd (struct fabric_listener *l);
int verbs_listener_accept (struct fabric_listener *l,
                           struct fabric_request **ret);
void verbs_listener_close (struct fabric_listener *l);
const struct fabric_preface *
verbs_request_preface (const struct fabric_request *r);
const char *verbs_request_peer (const struct fabric_request *r);
void verbs_request_reject (struct fabric_request *r);

int verbs_channel_accept (struct fabric_request *r,
                          struct fabric_channel **ret);
int verbs_channel_connect (const struct sockaddr *addr, socklen_t len,
                           int64_t timeout_ns, struct fabric_channel **ret);
int verbs_channel_fd (struct fabric_channel *c);
const void *verbs_channel_device (const struct fabric_channel *c);
const struct rdma_cm_id *verbs_channel_id (const struct fabric_channel *c);
int verbs_channel_receive (struct fabric_channel *c, void *buf, size_t size);
int verbs_channel_send (struct fabric_channel *c,
                        const void *buf, size_t len);
void verbs_channel_close (struct fabric_channel *c);

int verbs_domain_create (struct fabric_channel *c,
                         struct fabric_domain **ret);
void verbs_domain_free (struct fabric_domain *d);
int verbs_region_add (struct fabric_domain *d, void *addr, size_t len,
                      bool remote, struct fabric_region **ret);
uint64_t verbs_region_address (const struct fabric_region *r);
uint64_t verbs_region_key (const struct fabric_region *r);
int verbs_region_remove (struct fabric_region *r);

int verbs_service_accept (struct fabric_request *r, struct fabric_domain *d,
                          struct fabric_service **ret);
void verbs_service_end (struct fabric_service *s);

int verbs_queue_connect (struct fabric_domain *d,
                         const struct sockaddr *addr, socklen_t len,
                         const struct fabric_preface *preface,
                         int64_t timeout_ns, struct fabric_queue **ret);
int verbs_queue_fd (struct fabric_queue *q);
int verbs_queue_step (struct fabric_queue *q);
int verbs_queue_post (struct fabric_queue *q, struct fabric_op *op);
int verbs_queue_poll (struct fabric_queue *q);
int verbs_queue_arm (struct fabric_queue *q, struct pollfd *pfd);
void verbs_queue_break (struct fabric_queue *q);
void verbs_queue_settle (struct fabric_queue *q);
void verbs_queue_free (struct fabric_queue *q);

#endif /* ISW_VERBS_H */
