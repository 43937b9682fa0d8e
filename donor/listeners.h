/* Where a donor listens: one address, over each of its fabrics.
 *
 * A fabric whose device goes is listened on again when it is back: until
 * then it is tried once a second.
 */

#ifndef ISW_LISTENERS_H
#define ISW_LISTENERS_H

#include <glib.h>
#include <sys/socket.h>

#include "donor/config.h"
#include "fabric/fabric.h"

enum { LISTENERS_MAX = 2 };

struct listeners;

/* Listen as the configuration says, and pass each connection on, which the
 * callee consumes.  NULL with *error (to be freed) if that is not possible.
 */
struct listeners *listeners_new (const struct donor_config *config,
                                 GMainContext *context,
                                 void (*accept) (struct fabric_request *request,
                                                 void *data),
                                 void *data, char **error);
/* No connection is passed on any more; NULL is allowed. */
void listeners_stop (struct listeners *l);
/* After the sessions that came from it; NULL is allowed. */
void listeners_free (struct listeners *l);

/* ADDR:PORT, the port being the one that was chosen if that was left open. */
const char *listeners_text (const struct listeners *l);
const struct sockaddr *listeners_address (const struct listeners *l,
                                          socklen_t *len);
/* The names of the fabrics that are listened on now, and NULL behind them. */
void listeners_fabrics (const struct listeners *l,
                        const char *names[LISTENERS_MAX + 1]);

#endif /* ISW_LISTENERS_H */
