/* A borrower and a donor in one process, for tests of any fabric.
 *
 * Whatever fails in here fails the test.  Nothing waits longer than
 * ENDS_PATIENCE_NS.
 */

#ifndef ISW_ENDS_H
#define ISW_ENDS_H

#include "fabric/fabric.h"

#define ENDS_PATIENCE_NS INT64_C (20000000000)

enum { ENDS_MEMORY_BYTES = 1 << 20 };

/* One end of a control connection, with what it has received. */
struct talker {
  struct fabric_channel *channel;
  int error;                    /* -errno once it has ended */
  uint8_t *inbox;               /* messages, each behind its size_t length */
  size_t read, filled, size;
};

struct ends {
  struct sockaddr_storage addr; /* where the donor listens */
  socklen_t addr_len;
  struct fabric_listener *listener;
  struct talker borrower, donor;
  struct fabric_domain *borrower_domain, *donor_domain;
  uint8_t *local, *memory;      /* of the borrower; of the donor */
  struct fabric_region *local_region, *region;
};

struct lane {
  struct fabric_queue *queue;   /* NULL: freed */
  struct fabric_service *service; /* NULL: ended */
};

/* What ends_listen listens with and where; set before anything else. */
extern const struct fabric_ops *ends_ops;
extern const char *ends_host;

/* 64 random bits from a generator seeded with SEED of the environment,
 * or the time; the seed is printed.
 */
uint64_t ends_random (void);

/* Descriptors this process has open. */
unsigned ends_count_fds (void);

/* `port` of ends_host as a socket address. */
socklen_t ends_address (uint16_t port, struct sockaddr_storage *addr);

/* A listener on a free port. */
struct fabric_listener *ends_listen (struct sockaddr_storage *addr,
                                     socklen_t *len);

/* Wait for the next request. */
struct fabric_request *ends_accept (struct fabric_listener *l);

/* A listener, a control connection, and on each end a domain with a
 * region of ENDS_MEMORY_BYTES zeros.
 */
void ends_open (struct ends *e);
void ends_close (struct ends *e);

/* Remove a region while lanes are up: the donor may be a little behind
 * the borrower in seeing that an access is over.
 */
void ends_remove (struct fabric_region *r);

/* Wait until `to` has a message from its peer, keeping both ends going;
 * its length, or -errno once `to` has ended.  buf has
 * FABRIC_MESSAGE_MAX bytes.
 */
int talker_receive (struct talker *to, struct talker *from, void *buf);
/* Take in what has arrived. */
void talker_pump (struct talker *t);
/* Sleep until there may be something for either. */
void talker_wait (struct talker *a, struct talker *b);
void talker_close (struct talker *t);

/* A lane between the ends, or between a domain of each. */
void lane_open (struct ends *e, struct lane *l);
void lane_open_between (struct ends *e, struct fabric_domain *borrower,
                        struct fabric_domain *donor, struct lane *l);
/* Frees what is left of it. */
void lane_close (struct lane *l);

/* Call step until it is not -EAGAIN; its result. */
int queue_finish_connect (struct fabric_queue *q);

/* An operation between `local` and `memory` at these offsets. */
struct fabric_op ends_op (struct ends *e, enum fabric_type type,
                          size_t local, size_t remote, uint32_t length);
/* Wait with our usual patience; fails the test where that ends. */
void queue_wait (struct fabric_queue *q);
/* Post, wait, and give the status. */
int queue_run (struct fabric_queue *q, struct fabric_op *op);

#endif /* ISW_ENDS_H */
