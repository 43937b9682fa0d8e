/* How bytes and messages travel between a borrower and a donor.
 *
 * One interface, several implementations with the same promises:
 * fabric_verbs (rdma_cm and ibverbs) and fabric_tcp (any machine).
 *
 * A *channel* carries small control messages both ways, in order.
 * A *queue* is the borrower's end of one lane to one donor: it reads
 * and writes the donor's memory one-sidedly.  A *service* is the
 * donor's end of a queue.  A *domain* holds *regions* of memory; a
 * queue or a service reaches the regions of its own domain only.
 *
 * Errors are returned as -errno.  No function here logs.  Unless it
 * says otherwise, a function does not block, and an object belongs to
 * one thread at a time.
 */

#ifndef ISW_FABRIC_H
#define ISW_FABRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
  FABRIC_MESSAGE_MAX = 1024,       /* bytes in one control message */
  FABRIC_TRANSFER_MAX = 128 << 10, /* bytes in one operation */
  FABRIC_QUEUE_DEPTH = 64,         /* operations outstanding on a queue */
  FABRIC_PEER_MAX = 64,            /* bytes in a peer's printed address */
};

enum fabric_kind { FABRIC_CONTROL = 1, FABRIC_LANE = 2 };

/* What a connection says first.  A control connection has no session
 * yet (both fields 0); a lane proves with the token from WELCOME that
 * it belongs to one.
 */
struct fabric_preface {
  enum fabric_kind kind;
  uint64_t session;
  uint64_t token;
};

enum fabric_type { FABRIC_READ, FABRIC_WRITE };

/* One one-sided operation.  The caller fills in the first part and
 * owns the struct and the local memory again when `done` is set, and
 * not before: whatever happens to the connection, an operation ends
 * only by its completion.
 */
struct fabric_op {
  enum fabric_type type;
  struct fabric_region *region; /* the local region that holds `local` */
  void *local;
  uint32_t length;              /* 1 to FABRIC_TRANSFER_MAX */
  uint64_t remote;              /* address within the remote region */
  uint64_t key;                 /* fabric_region_key of the remote region */

  bool done;
  int status;                   /* once done: 0 or -errno */
  struct fabric_op *next;       /* private to the fabric while posted */
};

/* The common head of each implementation's objects. */
struct fabric_listener { const struct fabric_ops *ops; };
struct fabric_request { const struct fabric_ops *ops; };
struct fabric_channel { const struct fabric_ops *ops; };
struct fabric_domain { const struct fabric_ops *ops; };
struct fabric_region { const struct fabric_ops *ops; };
struct fabric_service { const struct fabric_ops *ops; };
struct fabric_queue {
  const struct fabric_ops *ops;
  unsigned outstanding;         /* posted and not done; the owner's */
};

struct pollfd;

/* An implementation.  Each entry has the contract of the public
 * function of the same name below.
 */
struct fabric_ops {
  const char *name;
  int (*available) (void);

  int (*listen) (const struct sockaddr *addr, socklen_t len,
                 struct fabric_listener **ret);
  int (*listener_fd) (struct fabric_listener *l);
  int (*listener_accept) (struct fabric_listener *l,
                          struct fabric_request **ret);
  void (*listener_close) (struct fabric_listener *l);
  const struct fabric_preface *(*request_preface)
    (const struct fabric_request *r);
  const char *(*request_peer) (const struct fabric_request *r);
  void (*request_reject) (struct fabric_request *r);

  int (*channel_accept) (struct fabric_request *r,
                         struct fabric_channel **ret);
  int (*channel_connect) (const struct sockaddr *addr, socklen_t len,
                          int64_t timeout_ns, struct fabric_channel **ret);
  int (*channel_fd) (struct fabric_channel *c);
  const void *(*channel_device) (const struct fabric_channel *c);
  int (*channel_receive) (struct fabric_channel *c, void *buf, size_t size);
  int (*channel_send) (struct fabric_channel *c, const void *buf, size_t len);
  void (*channel_close) (struct fabric_channel *c);

  int (*domain_create) (struct fabric_channel *c, struct fabric_domain **ret);
  void (*domain_free) (struct fabric_domain *d);
  int (*region_add) (struct fabric_domain *d, void *addr, size_t len,
                     bool remote, struct fabric_region **ret);
  uint64_t (*region_address) (const struct fabric_region *r);
  uint64_t (*region_key) (const struct fabric_region *r);
  int (*region_remove) (struct fabric_region *r);

  int (*service_accept) (struct fabric_request *r, struct fabric_domain *d,
                         struct fabric_service **ret);
  void (*service_end) (struct fabric_service *s);

  int (*queue_connect) (struct fabric_domain *d,
                        const struct sockaddr *addr, socklen_t len,
                        const struct fabric_preface *preface,
                        int64_t timeout_ns, struct fabric_queue **ret);
  int (*queue_fd) (struct fabric_queue *q);
  int (*queue_step) (struct fabric_queue *q);
  int (*queue_post) (struct fabric_queue *q, struct fabric_op *op);
  int (*queue_poll) (struct fabric_queue *q);
  bool (*queue_await) (struct fabric_queue *q, int64_t ns);
  int (*queue_arm) (struct fabric_queue *q, struct pollfd *pfd);
  void (*queue_break) (struct fabric_queue *q);
  void (*queue_settle) (struct fabric_queue *q);
  void (*queue_free) (struct fabric_queue *q);
};

extern const struct fabric_ops fabric_tcp;
extern const struct fabric_ops fabric_verbs;

/* 0 if this machine can use the fabric now, else -errno (-ENODEV: no
 * RDMA device).
 */
int fabric_available (const struct fabric_ops *ops);

/* Donor: listen on an address.  *ret is closed by
 * fabric_listener_close.  -EADDRINUSE, -EADDRNOTAVAIL, -ENODEV.
 */
int fabric_listen (const struct fabric_ops *ops,
                   const struct sockaddr *addr, socklen_t len,
                   struct fabric_listener **ret);

/* Readable when fabric_listener_accept has something to do. */
int fabric_listener_fd (struct fabric_listener *l);

/* The next connection whose preface has arrived, -EAGAIN if none now;
 * -ENODEV once the device is gone, and nobody is heard here any more.
 * Broken, slow or malformed callers are dropped in here, bounded in
 * number and time; they never make it fail.  The caller passes *ret to
 * exactly one of fabric_request_reject, fabric_channel_accept and
 * fabric_service_accept, which consume it even when they fail.
 */
int fabric_listener_accept (struct fabric_listener *l,
                            struct fabric_request **ret);
void fabric_listener_close (struct fabric_listener *l);
const struct fabric_preface *
fabric_request_preface (const struct fabric_request *r);
/* The caller's address, printable; lives as long as the request. */
const char *fabric_request_peer (const struct fabric_request *r);
void fabric_request_reject (struct fabric_request *r);

/* Donor: take a control connection. */
int fabric_channel_accept (struct fabric_request *r,
                           struct fabric_channel **ret);

/* Borrower: begin a control connection.  Messages may be sent at once;
 * they leave when it stands.  That it failed, or did not stand within
 * timeout_ns (also the bound for the fabric's own retries on it), shows
 * in fabric_channel_receive.
 */
int fabric_channel_connect (const struct fabric_ops *ops,
                            const struct sockaddr *addr, socklen_t len,
                            int64_t timeout_ns, struct fabric_channel **ret);

/* Readable when fabric_channel_receive has something to do; the same
 * for the life of the channel.
 */
int fabric_channel_fd (struct fabric_channel *c);

/* Which device carries an established channel: equal pointers, equal
 * device.  NULL where there is no such thing (tcp).
 */
const void *fabric_channel_device (const struct fabric_channel *c);

/* The next message into buf (FABRIC_MESSAGE_MAX bytes do): its length,
 * 0 if none has arrived, -errno once the channel has ended.  Call until
 * it returns 0 whenever the descriptor is readable; it also moves the
 * connection and unsent messages along.
 */
int fabric_channel_receive (struct fabric_channel *c, void *buf, size_t size);

/* Queue one message of 1 to FABRIC_MESSAGE_MAX bytes; copies it.
 * -ENOBUFS when the peer has not taken 64 earlier ones; -errno once the
 * channel has ended.
 */
int fabric_channel_send (struct fabric_channel *c,
                         const void *buf, size_t len);

/* Ends the connection and frees the channel; messages not yet sent may
 * be lost.
 */
void fabric_channel_close (struct fabric_channel *c);

/* A domain on the device of an established channel.  It may outlive the
 * channel.  Freed after its regions, queues and services.
 */
int fabric_domain_create (struct fabric_channel *c,
                          struct fabric_domain **ret);
void fabric_domain_free (struct fabric_domain *d);

/* Register len bytes at addr, for the peer's reads and writes if
 * `remote`, else as the local side of operations.  May take long for
 * large memory (it is pinned).  The memory stays the caller's.
 * -ENOMEM: RLIMIT_MEMLOCK or memory.
 */
int fabric_region_add (struct fabric_domain *d, void *addr, size_t len,
                       bool remote, struct fabric_region **ret);
/* What the peer puts into fabric_op.remote for the region's first byte. */
uint64_t fabric_region_address (const struct fabric_region *r);
uint64_t fabric_region_key (const struct fabric_region *r);

/* Revoke: once it returned 0, nothing reaches the memory through this
 * region any more, and the region is freed.  -EBUSY: an access is
 * inside (tcp); new ones are refused from now on; call again, or end
 * the domain's services first, after which it cannot happen.
 */
int fabric_region_remove (struct fabric_region *r);

/* Donor: serve a lane with the regions of domain d.  No thread of the
 * caller's is needed afterwards.  fabric_service_end returns when
 * nothing of this lane can reach memory any more, and frees it.  It is
 * bounded: a peer cannot hold it up.
 */
int fabric_service_accept (struct fabric_request *r, struct fabric_domain *d,
                           struct fabric_service **ret);
void fabric_service_end (struct fabric_service *s);

/* Borrower: begin a lane to a donor; d lies on the device that leads
 * there (else -EXDEV from fabric_queue_step).  Watch the descriptor and
 * call fabric_queue_step whenever it is readable: -EAGAIN while the
 * lane is being connected, 0 once it stands, -errno if it failed.  After
 * 0, step is not called again and the queue may be handed to the thread
 * that will use it.
 */
int fabric_queue_connect (struct fabric_domain *d,
                          const struct sockaddr *addr, socklen_t len,
                          const struct fabric_preface *preface,
                          int64_t timeout_ns, struct fabric_queue **ret);
int fabric_queue_fd (struct fabric_queue *q);
int fabric_queue_step (struct fabric_queue *q);

/* Start an operation.  Never blocks, never allocates.  -ENOBUFS when
 * FABRIC_QUEUE_DEPTH are outstanding; another -errno when the queue is
 * broken.  After an error the operation is not posted.
 */
int fabric_queue_post (struct fabric_queue *q, struct fabric_op *op);

/* Wait until every operation outstanding on these queues is done, at
 * most until deadline_ns (CLOCK_MONOTONIC).  A queue that is not done by
 * then is broken and settled, so that on return nothing is outstanding
 * in any case.  0, or -ETIMEDOUT if that happened to any; single results
 * are in the operations.  Never allocates.  n is at most 8.
 */
int fabric_wait (struct fabric_queue *const *queues, size_t n,
                 int64_t deadline_ns);

/* Wait until every operation outstanding on this queue is done, at most
 * until until_ns; 0: do not wait, look.  False if some are not: they go
 * on.  Never allocates.
 */
bool fabric_await (struct fabric_queue *q, int64_t until_ns);

/* From any thread, while the owner uses the queue (but not after
 * fabric_queue_free): no further operation succeeds, those outstanding
 * end soon, in error unless they were already carried out, and a
 * fabric_wait on it wakes up.  Idempotent.
 */
void fabric_queue_break (struct fabric_queue *q);

/* Ends the lane.  Nothing may be outstanding. */
void fabric_queue_free (struct fabric_queue *q);

/* For implementations and fabric_wait only:
 * queue_poll reaps what has completed, sets done and status, and counts
 * `outstanding` down; 0 or -errno when the queue is broken (there may
 * still be operations to reap).
 * queue_await, which may be missing, is queue_poll that sleeps, at most
 * ns, until there is something to reap; false, and nothing done, where it
 * cannot do that now.
 * queue_arm asks for a wake-up: fills in pfd; the caller polls once more
 * before it sleeps on it.
 * queue_settle, after queue_break: returns when nothing is outstanding,
 * in bounded time (at most about a second, normally under 1 ms), by
 * destroying the connection if it must.
 */

/* Now, CLOCK_MONOTONIC, in nanoseconds. */
int64_t fabric_now_ns (void);

#endif /* ISW_FABRIC_H */
