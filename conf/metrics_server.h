/* Serves metrics to Prometheus: GET /metrics over HTTP, and nothing else.
 *
 * It lives in a GMainContext, whose thread collects and sends, and never
 * waits for a client.  It takes up to 16 connections at a time, 8 from
 * one address; each is for one request and is cut off when it has not
 * been answered after 5 s, whatever it does, so that none can hold it up.
 * Callers beyond that wait in the kernel's queue.  Nobody is asked who he
 * is.
 */

#ifndef ISW_METRICS_SERVER_H
#define ISW_METRICS_SERVER_H

#include <glib.h>

#include "conf/exposition.h"

struct metrics_server;

/* Puts the metrics into e.  Runs in the server's context. */
typedef void (*metrics_collector) (struct exposition *e, void *data);

/* Bind an address (as address_parse_listen takes it) now.  NULL with a
 * message in *error (g_free).  Separate from _serve so that errors still
 * reach the user before a daemon forks.
 */
struct metrics_server *metrics_server_bind (const char *address,
                                            char **error);

/* ADDR:PORT with numbers, and the port that was taken. */
const char *metrics_server_address (const struct metrics_server *s);

/* How long a connection may take, for tests.  Before _serve. */
void metrics_server_set_patience (struct metrics_server *s,
                                  unsigned patience_ms);

/* Serve from now on in context (NULL: the default one).  Called by the
 * thread that runs it, or before it runs, after the last fork.  0 or
 * -errno.
 */
int metrics_server_serve (struct metrics_server *s, GMainContext *context,
                          metrics_collector collect, void *data);

/* Stop serving, free.  NULL is allowed.  Called by the thread that runs
 * the context (not in the collector), or when it no longer runs.
 */
void metrics_server_close (struct metrics_server *s);

#endif /* ISW_METRICS_SERVER_H */
