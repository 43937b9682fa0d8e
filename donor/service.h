/* What the donor tells the service manager that started it (sd_notify(3)).
 * Nothing, where none did.
 */

#ifndef ISW_SERVICE_H
#define ISW_SERVICE_H

#include <glib.h>

enum { SERVICE_TEXT_MAX = 160 };

/* It lends; it gives back what it lends, and ends. */
void service_ready (void);
void service_stopping (void);

/* From the context's loop, so that a loop that hangs is noticed: that all
 * is well, as often as the manager wants to hear it (systemd's
 * WatchdogSec=), and what describe says, where that has changed.  Until
 * wake_free (donor/wake.h); NULL if there is no manager.
 */
GSource *service_watch (GMainContext *context,
                        void (*describe) (void *data,
                                          char text[SERVICE_TEXT_MAX]),
                        void *data);

#endif /* ISW_SERVICE_H */
