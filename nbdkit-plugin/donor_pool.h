/* The known donors: their addresses, their sessions, and the patience
 * with which lost ones are tried again.  For the mapper thread only.
 */

#ifndef ISW_DONOR_POOL_H
#define ISW_DONOR_POOL_H

#include <gio/gio.h>
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "conf/address.h"
#include "nbdkit-plugin/session.h"

enum fabric_choice { FABRIC_AUTO, FABRIC_ONLY_VERBS, FABRIC_ONLY_TCP };

enum donor_state {
  DONOR_WAITING,                /* for the next try */
  DONOR_RESOLVING,
  DONOR_CONNECTING,
  DONOR_CONNECTED,
  DONOR_ENDED,                  /* its slabs are being let go */
};

struct donor_pool;

struct donor {
  struct donor_pool *pool;
  char *name;                   /* HOST:PORT */
  enum donor_state state;
  struct session *session;      /* CONNECTING to ENDED */
  uint64_t slabs;               /* mapped or asked for; the mapper's */
  unsigned asked;               /* slabs that it is being asked about */
  uint64_t free_bytes;          /* as last heard */
  uint64_t failures;
  char *last_error;             /* why the last session ended */
  char *last_refusal;           /* why it did not lend a slab */
  bool leaving;                 /* no longer wanted: gets no slab any more,
                                   and its session ends after the last */
  int64_t leaving_ns;           /* since when */

  struct address *address;      /* private from here on */
  unsigned turn;                /* of the name's addresses: whose it is */
  const struct fabric_ops *ops;
  bool skip_verbs;              /* the last try over verbs failed */
  unsigned delay_ms;
  GSource *timer;
  GCancellable *resolving;
};

struct donor_pool_events {
  void (*connected) (void *data, struct donor *d);
  void (*message) (void *data, struct donor *d, const struct message *m);
  void (*lanes_ready) (void *data, struct donor *d);
  /* The session has ended (d->session is still there): let go of its
   * slabs, then call donor_pool_let_go.
   */
  void (*ended) (void *data, struct donor *d);
};

struct donor_pool {
  const struct session_params *params;
  enum fabric_choice fabric;
  struct donor_pool_events events;
  void *data;
  GPtrArray *donors;            /* struct donor * */
};

/* The calling thread's default context must be params->context. */
struct donor_pool *donor_pool_new (const struct session_params *params,
                                   enum fabric_choice fabric,
                                   const struct donor_pool_events *events,
                                   void *data);
/* All sessions must have been let go of. */
void donor_pool_free (struct donor_pool *p);

/* Make these the known donors: new ones are tried at once; those that are
 * missing are leaving from now on.
 */
void donor_pool_set (struct donor_pool *p, GPtrArray *addresses);

/* Forget those that are leaving and have no session, and end the sessions
 * of those that have no slab any more.
 */
void donor_pool_dismiss (struct donor_pool *p);

/* Tell of sessions that have ended (by `ended`). */
void donor_pool_check (struct donor_pool *p);

/* No slab lives there any more: free the session, and try again later, or
 * forget a donor that is leaving.
 */
void donor_pool_let_go (struct donor *d);

bool donor_is_usable (const struct donor *d);
/* The donor refused a slab; logged when the reason is a new one. */
void donor_note_refusal (struct donor *d, const char *reason);
/* The donor's session has ended, with d->slabs slabs on it; logged, unless
 * that was to be.
 */
void donor_note_loss (struct donor *d);
const char *donor_state_name (enum donor_state state);

#endif /* ISW_DONOR_POOL_H */
