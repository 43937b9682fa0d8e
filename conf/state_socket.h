/* The Unix socket where a running program answers infiniswapctl.
 *
 * A client connects, sends one line (a command and its arguments), and
 * gets one JSON document back, then the connection closes.  An answer
 * that is an object with the member "error" is a failure.  A request has
 * at most 1024 bytes.
 *
 * The server lives in a GMainContext, takes up to 16 clients at a time
 * and drops those that are silent for 5 s, so that none can hold it up.
 */

#ifndef ISW_STATE_SOCKET_H
#define ISW_STATE_SOCKET_H

#include <glib.h>
#include <json-glib/json-glib.h>

struct state_socket;

/* Answers one request line.  Returns a new node (the socket frees it),
 * or NULL for a command it does not know.  Runs in the server's context.
 */
typedef JsonNode *(*state_socket_handler) (const char *request, void *data);

/* Bind path (mode 0600) now.  A stale socket that nobody listens on is
 * replaced; anything else in its place is an error.  NULL with a message
 * in *error (g_free).  Separate from _serve so that errors still reach
 * the user before a daemon forks.
 */
struct state_socket *state_socket_bind (const char *path, char **error);

/* How long a client may be silent, for tests.  Before _serve. */
void state_socket_set_silence (struct state_socket *s, unsigned silence_ms);

/* Serve from now on in context (NULL: the default one).  Called by the
 * thread that runs it, or before it runs.
 */
void state_socket_serve (struct state_socket *s, GMainContext *context,
                         state_socket_handler handler, void *data);

/* Stop serving, remove the path, free.  NULL is allowed.  Called by the
 * thread that runs the context (not in the handler), or when it no
 * longer runs.
 */
void state_socket_close (struct state_socket *s);

/* Client: send a request and wait up to timeout_ns for the answer, which
 * json_node_unref frees.  Blocks.  NULL with a message in *error that
 * names the path and the remedy.
 */
JsonNode *state_socket_ask (const char *path, const char *request,
                            gint64 timeout_ns, char **error);

#endif /* ISW_STATE_SOCKET_H */
