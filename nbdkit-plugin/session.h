/* A session: this borrower on one donor.  It is the unit of failure.
 *
 * Workers use the first part, for a session of which they hold a slab
 * pinned; everything else is for the mapper thread.
 */

#ifndef ISW_BORROWER_SESSION_H
#define ISW_BORROWER_SESSION_H

#include <glib.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fabric/fabric.h"
#include "fabric/message.h"

struct registrations;
struct session;

/* --- for workers --- */

/* The queue of a lane, and the local region that holds the slots and the
 * landing buffers.
 */
struct fabric_queue *session_queue (const struct session *s, unsigned lane);
struct fabric_region *session_region (const struct session *s);

/* End the session, whole, because something failed with this -errno: none
 * of its queues works any more, its slabs are not used any more, and the
 * mapper is woken to clean up.  From any thread; idempotent; does not
 * block.
 */
void session_end (struct session *s, int error);

/* --- for the mapper --- */

/* What all sessions of this borrower have in common. */
struct session_params {
  GMainContext *context;
  struct registrations *registrations;
  uint8_t device_id[MESSAGE_DEVICE_ID_SIZE];
  uint64_t slab_size_bytes;
  int64_t deadline_ns;
  unsigned lanes;
  size_t messages_max;          /* that may wait until a donor takes them */
  /* From any thread: a session has ended, look for it. */
  void (*wake) (void *data);
  void *wake_data;
};

/* What a session tells its owner, in the context; a callback may end the
 * session, but not free it.
 */
struct session_events {
  void (*welcome) (void *data); /* it stands */
  void (*message) (void *data, const struct message *m);
  void (*lanes_ready) (void *data);
};

/* Begin a session with the donor at addr over one fabric.  NULL with
 * *error (-errno) if not even that works.
 */
struct session *session_start (const struct session_params *params,
                               const struct fabric_ops *ops,
                               const struct sockaddr *addr, socklen_t len,
                               const struct session_events *events,
                               void *data, int *error);

/* Free it, ending it first; no slab of it is pinned any more. */
void session_free (struct session *s);

const struct fabric_ops *session_fabric (const struct session *s);
/* Set once the session has ended. */
const atomic_bool *session_ended (const struct session *s);
/* Once it has: why, in words. */
const char *session_reason (const struct session *s);
/* It ended because the donor refused it. */
bool session_refused (const struct session *s);
bool session_welcomed (const struct session *s);
uint64_t session_age_seconds (const struct session *s);

/* Connect the lanes, unless that was begun before; lanes_ready tells when
 * all stand.
 */
void session_connect_lanes (struct session *s);
bool session_lanes_ready (const struct session *s);

/* Send a message under a new request id, which is returned (never 0).  A
 * failure ends the session.
 */
uint64_t session_send (struct session *s, struct message *m);
/* Send an answer, under the request id that is in it. */
void session_answer (struct session *s, const struct message *m);

#endif /* ISW_BORROWER_SESSION_H */
