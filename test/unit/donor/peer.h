/* A donor in this process, and borrowers that say what a test wants.
 *
 * Donor and borrowers live in one GMainContext, which only these
 * functions run.  Whatever fails in here fails the test, and nothing
 * waits longer than PATIENCE_NS.
 */

#ifndef TEST_DONOR_PEER_H
#define TEST_DONOR_PEER_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "donor/config.h"
#include "donor/server.h"
#include "fabric/fabric.h"
#include "fabric/message.h"

#define PATIENCE_NS INT64_C (20000000000)

enum { SLAB_BYTES = 1 << 20 };

struct donor {
  GMainContext *context;
  struct donor_config *config;
  struct memory_lock_result lock;
  struct server *server;
  char *folder;                 /* for the files below */
  char *meminfo_path;
  char *state_path;
};

/* What all here goes over: tcp; or verbs where the environment has an
 * address of an RDMA device in FABRIC_ADDRESS.
 */
const struct fabric_ops *peer_fabric (void);

/* Start a donor on a free port of that fabric (of 127.0.0.1, or of
 * FABRIC_ADDRESS), with slabs of SLAB_BYTES, the memory of a made-up node
 * (donor_set_node) and these options, which may override that; NULL behind
 * the last.
 */
void donor_start (struct donor *d, ...)
  G_GNUC_NULL_TERMINATED;
void donor_stop (struct donor *d);

/* What the node has; 1 GiB, all available, to begin with. */
void donor_set_node (struct donor *d, uint64_t total_bytes,
                     uint64_t available_bytes);

/* The donor's status, as infiniswapctl gets it. */
JsonObject *donor_status (struct donor *d);
/* What it answers to a request; NULL with the error in *error (g_free),
 * which is NULL otherwise.
 */
JsonObject *donor_ask (struct donor *d, const char *request, char **error);
/* A number of its status: donor_number (d, "slabs", "lent"). */
gint64 donor_number (struct donor *d, const char *object, const char *member);
/* Wait until that number is value. */
void donor_wait_number (struct donor *d, const char *object,
                        const char *member, gint64 value);

struct peer {
  struct donor *donor;
  struct fabric_channel *channel;
  GSource *source;
  uint64_t last_id;
  bool mute;                    /* does not answer PING */
  unsigned pings;               /* received */
  uint64_t session, token;      /* from WELCOME */
};

/* A control connection. */
void peer_connect (struct peer *p, struct donor *d);
void peer_close (struct peer *p);

/* Sends m with an id of its own; with the id that it has. */
void peer_send (struct peer *p, struct message *m);
void peer_answer (struct peer *p, const struct message *m);
void peer_send_raw (struct peer *p, const void *buf, size_t len);

/* The next message but PING, which is answered: 0, or -errno once the
 * channel has ended.
 */
int peer_receive (struct peer *p, struct message *m);

/* Sends m and returns the answer in m; there must be one. */
void peer_call (struct peer *p, struct message *m);

/* HELLO with this device id (all bytes the same); the answer's type. */
enum message_type peer_hello (struct peer *p, uint8_t device);
enum message_type peer_hello_with (struct peer *p, uint8_t device,
                                   uint64_t slab_size_bytes,
                                   uint64_t deadline_ns,
                                   struct message *answer);
/* Connected and WELCOME. */
void peer_begin (struct peer *p, struct donor *d, uint8_t device);

/* The answer is in m. */
enum message_type peer_map (struct peer *p, uint64_t slab, struct message *m);
void peer_unmap (struct peer *p, uint64_t grant);
void peer_query (struct peer *p, struct message *m);

/* The next message, which must be this one, of so many grants. */
void peer_receive_check (struct peer *p, struct message *m, uint32_t count);
void peer_receive_evict (struct peer *p, struct message *m, uint32_t count);
/* Answer CHECK_ACTIVITY with the same activity for all. */
void peer_activity (struct peer *p, const struct message *check,
                    uint64_t activity_milli);
/* DONE with this id, of this grant. */
void peer_done (struct peer *p, uint64_t id, uint64_t grant);

/* The channel must end without another message. */
void peer_expect_end (struct peer *p);

/* Run donor and borrowers until there has been something to do. */
void donor_turn (struct donor *d);

/* A lane with a landing buffer of FABRIC_TRANSFER_MAX bytes. */
struct peer_lane {
  struct peer *peer;
  struct fabric_domain *domain;
  struct fabric_region *region;
  void *buffer;
  struct fabric_queue *queue;
};

/* 0, or -errno with which the lane failed (it is closed then). */
int peer_lane_open (struct peer_lane *l, struct peer *p);
int peer_lane_open_with (struct peer_lane *l, struct peer *p,
                         uint64_t session, uint64_t token);
void peer_lane_close (struct peer_lane *l);

/* Read or write `length` bytes at an offset of a granted slab; the
 * operation's status.
 */
int peer_lane_io (struct peer_lane *l, enum fabric_type type,
                  const struct message *mr_info, uint64_t offset,
                  uint32_t length);

#endif /* TEST_DONOR_PEER_H */
