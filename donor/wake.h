/* A source of a GMainContext that calls a function when a descriptor is
 * readable and when a moment has come.
 */

#ifndef ISW_WAKE_H
#define ISW_WAKE_H

#include <glib.h>
#include <stdint.h>

/* fd -1: only for wake_at.  func returns G_SOURCE_CONTINUE, and may call
 * wake_free for its own source.
 */
GSource *wake_new (GMainContext *context, int fd,
                   GSourceFunc func, gpointer data);

/* Call func at when_ns (CLOCK_MONOTONIC), once; replaces an earlier
 * moment.  0: as soon as all others have had their turn; INT64_MAX: not.
 */
void wake_at (GSource *source, int64_t when_ns);

/* NULL is allowed.  func is not called any more. */
void wake_free (GSource *source);

#endif /* ISW_WAKE_H */
