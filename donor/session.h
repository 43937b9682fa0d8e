/* One borrower: its control channel, its protection domain, its grants,
 * its lanes.  It is the unit of failure: whatever goes wrong in it ends
 * it whole, and nothing else.
 *
 * All in the thread that runs the GMainContext.
 */

#ifndef ISW_SESSION_H
#define ISW_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "donor/shared.h"
#include "fabric/fabric.h"
#include "fabric/message.h"

struct session;

/* Who keeps the sessions; outlives them. */
struct session_home {
  struct donor_shared shared;

  /* A HELLO, number `hello` of its device, that asks for nothing wrong has
   * come: ends an earlier session of the device, and chooses the session's
   * id and token.  False with a reason if it must be refused.
   */
  bool (*admit) (struct session_home *home,
                 const uint8_t device[MESSAGE_DEVICE_ID_SIZE],
                 uint64_t hello, uint64_t *id, uint64_t *token,
                 char reason[MESSAGE_TEXT_MAX]);
  /* The session has ended and is about to be freed. */
  void (*ended) (struct session_home *home, struct session *s);
};

struct session_info {
  bool active;                  /* HELLO has been answered with WELCOME */
  uint64_t id, token;           /* if active, like all below */
  uint64_t hello;               /* the request id of its HELLO */
  uint8_t device[MESSAGE_DEVICE_ID_SIZE];
  const char *peer;
  const struct fabric_ops *fabric;
  uint64_t lanes;
  uint64_t slabs;
  uint64_t going;               /* of these; see grants_going */
  bool owes_activity;           /* has not answered its last question */
  int64_t started_ns;
  int64_t deadline_ns;
};

/* Takes the request of a control connection.  NULL if that failed. */
struct session *session_new (struct session_home *home,
                             struct fabric_request *request);

/* Takes the request of a lane that has proven to belong here. */
void session_add_lane (struct session *s, struct fabric_request *request);

/* The grants of an active session that stand: see grants.h. */
size_t session_list_grants (const struct session *s, uint64_t *ids);
bool session_stands (const struct session *s, uint64_t grant);

/* Ask an active session how active up to MESSAGE_GRANTS_MAX of its grants
 * are.  Returns the id that the answer will have, 0 if the session could
 * not be asked and has ended.
 */
uint64_t session_check_activity (struct session *s, const uint64_t *grants,
                                 size_t count);

/* Take back a grant that stands.  If the borrower does not let go of it
 * within the session's deadline, the session ends.
 */
void session_evict (struct session *s, uint64_t grant);

/* Ends the session: lanes, then regions, slabs, domain and channel;
 * calls ended and frees it.  Never waits for the peer.
 */
void session_end (struct session *s, const char *reason);

/* Valid until the session is freed. */
void session_get_info (const struct session *s, struct session_info *ret);

#endif /* ISW_SESSION_H */
