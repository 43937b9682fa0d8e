/* The donor: listens on its fabrics, takes in borrowers and their lanes,
 * and answers infiniswapctl.
 *
 * All in the thread that runs the GMainContext.
 */

#ifndef ISW_SERVER_H
#define ISW_SERVER_H

#include <glib.h>
#include <stdint.h>

#include "donor/config.h"
#include "donor/service.h"

struct server;

/* Begin to lend.  config outlives the server; lock is what memory_lock
 * has done.  When the first slabs are ready it says on standard error
 * where it is "lending on".  NULL with a message in *error (g_free).
 */
struct server *server_new (const struct donor_config *config,
                           const struct memory_lock_result *lock,
                           GMainContext *context, char **error);

/* Take no more borrowers, lend nothing more, and ask the borrowers for
 * all slabs.  `stopped` is called when none is lent any more, which takes
 * no longer than the sessions' deadlines; server_free is then due, as it
 * is when there is no time to wait.
 */
void server_stop (struct server *server,
                  void (*stopped) (void *data), void *data);

/* What it does, in a few words. */
void server_describe (struct server *server, char text[SERVICE_TEXT_MAX]);

/* End all sessions and free all memory.  Never waits for a borrower. */
void server_free (struct server *server);

/* The address it listens on, with the port that was taken. */
const struct sockaddr *server_address (const struct server *server,
                                       socklen_t *len);

#endif /* ISW_SERVER_H */
