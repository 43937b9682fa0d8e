/* What stays while a device is attached: it gives the kernel new
 * connections for those that die, and detaches the device when it is told
 * to (SIGTERM, or a request on its control socket), or when the server has
 * died.
 *
 * It never ends before the swap area is given up.
 *
 * Requests, one line each, with a JSON object as the answer:
 *
 *   status         "pid", "state" (attached, detaching or stopping), "device",
 *                  "swap", "used_bytes", "config", and of the last attempt to
 *                  detach its number "attempt" and what it failed with,
 *                  "problem" (or null)
 *   detach         begin to; "attempt" is its number, "problem" as above
 *   detach force   the same, without asking whether there is room
 *   cancel         stop swapoff; the device stays attached
 */

#ifndef ISW_CTL_SUPERVISOR_H
#define ISW_CTL_SUPERVISOR_H

#include "conf/state_socket.h"
#include "ctl/attachment.h"

/* Supervise the device until it is detached; the control socket is served
 * from now on, and closed.  Signals that end a process must be blocked.
 * The exit status: 0, or 1 if what was swapped out was lost.
 */
int supervisor_run (struct attachment *a, struct state_socket *control);

#endif /* ISW_CTL_SUPERVISOR_H */
