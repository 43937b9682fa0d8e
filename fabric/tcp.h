/* What the parts of the tcp fabric share.
 *
 * On the wire a connection begins with a struct wire_preface.  Then a
 * control connection carries messages, each behind its length (be32).
 * On a lane the donor answers the preface with TCP_LANE_ACCEPTED or
 * TCP_LANE_REJECTED (be32); then the borrower sends requests, and gets
 * one response to each, in order.  The data of a WRITE follows its
 * request, the data of a READ follows its response.  Addresses are
 * offsets from the start of a region.
 */

#ifndef ISW_TCP_H
#define ISW_TCP_H

#include <sys/types.h>
#include <sys/uio.h>

#include "fabric/fabric.h"
#include "fabric/preface.h"
#include "fabric/wire.h"

enum {
  TCP_LANE_ACCEPTED = 0x49535741, /* "ISWA" */
  TCP_LANE_REJECTED = 0x49535758, /* "ISWX" */
  TCP_READ = 0x49535752,          /* "ISWR" */
  TCP_WRITE = 0x49535757,         /* "ISWW" */
  TCP_RESPONSE = 0x49535753,      /* "ISWS" */
};

enum {
  TCP_OK = 0,
  TCP_REFUSED = 1,              /* and the lane ends */
};

struct wire_tcp_request {
  struct be32 type;             /* TCP_READ or TCP_WRITE */
  struct be32 tag;              /* counts the requests of a lane */
  struct be64 key;
  struct be64 address;
  struct be32 length;
};

struct wire_tcp_response {
  struct be32 type;             /* TCP_RESPONSE */
  struct be32 tag;              /* of the request */
  struct be32 status;
  struct be32 length;           /* of the data that follows */
};

_Static_assert (sizeof (struct wire_tcp_request) == 28, "request size");
_Static_assert (sizeof (struct wire_tcp_response) == 16, "response size");

/* A connection whose preface is arriving, or has arrived. */
struct tcp_request {
  struct fabric_request base;
  int fd;
  int64_t deadline_ns;          /* for the whole preface */
  size_t received;              /* of wire */
  struct wire_preface wire;
  struct fabric_preface preface;
  char peer[FABRIC_PEER_MAX];
};

/* Takes the connection out of a request and frees the request. */
int tcp_request_take (struct fabric_request *r);

/* tcp_link.c: a connection being made, watched through one descriptor
 * that stays the same while the wish (readable, writable) changes.
 */
struct tcp_link {
  int fd;                       /* the connection; non-blocking */
  int epoll;
  int timer;                    /* -1 once the connection stands */
  int error;                    /* what connect said at once */
  bool connected;
  uint32_t events;              /* what epoll watches fd for */
};

/* Begin to connect.  That it fails shows in tcp_link_step; an error here
 * is one of this machine (too many open files), and leaves nothing open.
 */
int tcp_link_connect (struct tcp_link *l, const struct sockaddr *addr,
                      socklen_t len, int64_t timeout_ns);
/* Take an accepted connection; closed also on error. */
int tcp_link_adopt (struct tcp_link *l, int fd);
/* 0 once connected, when the preface has been sent; -EAGAIN before; else
 * why it failed.
 */
int tcp_link_step (struct tcp_link *l, const struct fabric_preface *preface);
/* -ETIMEDOUT if the time for connecting is over, else 0. */
int tcp_link_expired (const struct tcp_link *l);
/* The peer is there: no time-out any more. */
void tcp_link_stands (struct tcp_link *l);
/* Be readable when fd has these EPOLL events; 0: never again. */
void tcp_link_watch (struct tcp_link *l, uint32_t events);
void tcp_link_close (struct tcp_link *l);

/* Without blocking: how many bytes were transferred, 0 if none could be
 * now, -errno (-ECONNRESET also where the peer has closed).  With flags
 * other than MSG_DONTWAIT, tcp_receive_parts does as the socket is set.
 */
ssize_t tcp_receive (int fd, void *buf, size_t size);
ssize_t tcp_receive_parts (int fd, struct iovec *parts, size_t n, int flags);
ssize_t tcp_send (int fd, const void *buf, size_t len);
ssize_t tcp_send_parts (int fd, struct iovec *parts, size_t n);

/* Leave out the first bytes of the parts. */
void tcp_skip (struct iovec *parts, size_t n, size_t bytes);

/* tcp_domain.c: find the region that grants [offset, offset + length)
 * under this key, and keep it from being removed until tcp_unpin.  NULL
 * if there is none.  Any thread.
 */
struct tcp_region *tcp_pin (struct fabric_domain *d, uint64_t key,
                            uint64_t offset, uint32_t length, void **addr);
void tcp_unpin (struct tcp_region *r);

/* The operations, each in the file of its object. */
int tcp_listen (const struct sockaddr *addr, socklen_t len,
                struct fabric_listener **ret);
int tcp_listener_fd (struct fabric_listener *base);
int tcp_listener_accept (struct fabric_listener *base,
                         struct fabric_request **ret);
void tcp_listener_close (struct fabric_listener *base);
const struct fabric_preface *
tcp_request_preface (const struct fabric_request *base);
const char *tcp_request_peer (const struct fabric_request *base);
void tcp_request_reject (struct fabric_request *base);

int tcp_channel_accept (struct fabric_request *r,
                        struct fabric_channel **ret);
int tcp_channel_connect (const struct sockaddr *addr, socklen_t len,
                         int64_t timeout_ns, struct fabric_channel **ret);
int tcp_channel_fd (struct fabric_channel *base);
int tcp_channel_receive (struct fabric_channel *base, void *buf, size_t size);
int tcp_channel_send (struct fabric_channel *base, const void *buf,
                      size_t len);
void tcp_channel_close (struct fabric_channel *base);

int tcp_domain_create (struct fabric_channel *c, struct fabric_domain **ret);
void tcp_domain_free (struct fabric_domain *base);
int tcp_region_add (struct fabric_domain *base, void *addr, size_t len,
                    bool remote, struct fabric_region **ret);
uint64_t tcp_region_address (const struct fabric_region *base);
uint64_t tcp_region_key (const struct fabric_region *base);
int tcp_region_remove (struct fabric_region *base);

int tcp_service_accept (struct fabric_request *r, struct fabric_domain *d,
                        struct fabric_service **ret);
void tcp_service_end (struct fabric_service *base);

int tcp_queue_connect (struct fabric_domain *d,
                       const struct sockaddr *addr, socklen_t len,
                       const struct fabric_preface *preface,
                       int64_t timeout_ns, struct fabric_queue **ret);
int tcp_queue_fd (struct fabric_queue *base);
int tcp_queue_step (struct fabric_queue *base);
int tcp_queue_post (struct fabric_queue *base, struct fabric_op *op);
int tcp_queue_poll (struct fabric_queue *base);
bool tcp_queue_await (struct fabric_queue *base, int64_t ns);
int tcp_queue_arm (struct fabric_queue *base, struct pollfd *pfd);
void tcp_queue_break (struct fabric_queue *base);
void tcp_queue_settle (struct fabric_queue *base);
void tcp_queue_free (struct fabric_queue *base);

#endif /* ISW_TCP_H */
