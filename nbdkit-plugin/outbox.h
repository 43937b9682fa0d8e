/* What goes to a donor and has no room yet: many slabs may have something
 * to say at once, and a channel's room is bounded.  Messages leave in the
 * order in which they were added, answers before requests.
 *
 * For the mapper thread only; nothing here blocks.
 */

#ifndef ISW_OUTBOX_H
#define ISW_OUTBOX_H

#include <glib.h>
#include <stddef.h>

#include "fabric/fabric.h"
#include "fabric/message.h"

/* Requests on their way at most, so that a donor always has room for its
 * answers: it ends a session that does not take them.
 */
enum { OUTBOX_REQUESTS_MAX = 32 };

struct outbox {
  GQueue answers, requests;     /* GBytes */
  unsigned unanswered;          /* requests on their way */
  size_t limit;                 /* messages that may wait */
};

void outbox_init (struct outbox *o, size_t limit);
void outbox_clear (struct outbox *o);

/* 0; -ENOBUFS if as many wait as may, because the donor takes nothing. */
int outbox_add_answer (struct outbox *o, const struct message *m);
int outbox_add_request (struct outbox *o, const struct message *m);

/* A message of this type has come: was it the answer to a request? */
void outbox_note (struct outbox *o, enum message_type type);

/* Send what there is room for: how many messages, or -errno. */
int outbox_send (struct outbox *o, struct fabric_channel *channel);

#endif /* ISW_OUTBOX_H */
