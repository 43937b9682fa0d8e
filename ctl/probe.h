/* One donor, asked over one fabric how it is: a session that borrows
 * nothing and ends with the answers.
 */

#ifndef ISW_CTL_PROBE_H
#define ISW_CTL_PROBE_H

#include <stdint.h>
#include <sys/socket.h>

#include <glib.h>

#include "fabric/fabric.h"
#include "fabric/message.h"

/* QUERY_MEMs, one after the other; the median of their times counts. */
enum { PROBE_QUESTIONS = 9 };

enum probe_state {
  PROBE_GOING,
  PROBE_ANSWERED,
  PROBE_REFUSED,                /* it lives, but gives no session */
  PROBE_FAILED,
};

struct probe_result {
  enum probe_state state;
  char reason[MESSAGE_TEXT_MAX]; /* REFUSED, FAILED; printable */
  uint64_t slab_size_bytes;     /* ANSWERED: the rest */
  uint64_t free_bytes;          /* what it would lend now */
  uint64_t slabs_ready, slabs_lent;
  int64_t round_trip_ns;
};

struct probe;

/* Ask.  done is called, once, in the context, when the state is no longer
 * GOING; not within probe_start.  It does not free the probe.
 */
struct probe *probe_start (const struct fabric_ops *ops,
                           const struct sockaddr *addr, socklen_t len,
                           int64_t timeout_ns, GMainContext *context,
                           void (*done) (void *data), void *data);

/* Constant once done; a probe that is still going when its owner has no
 * time left has not answered.
 */
const struct probe_result *probe_result (const struct probe *p);

/* Ends it, if it is still going. */
void probe_free (struct probe *p);

#endif /* ISW_CTL_PROBE_H */
