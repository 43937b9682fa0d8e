/* A device that is attached, or on its way there or back: the server, the
 * kernel's device on it, the swap area on that.
 *
 * It is built in steps, each of which can be undone; what fails half-way is
 * undone whole.  Each step is noted in the runtime files before the next,
 * so that another process can take over from one that was killed.
 */

#ifndef ISW_CTL_ATTACHMENT_H
#define ISW_CTL_ATTACHMENT_H

#include <stdbool.h>

#include "ctl/device_config.h"
#include "ctl/handshake.h"
#include "ctl/nbd_kernel.h"
#include "ctl/runtime.h"
#include "ctl/server_process.h"

enum attachment_step {
  ATTACHMENT_NOTHING,           /* but the lock */
  ATTACHMENT_SERVER,            /* nbdkit serves */
  ATTACHMENT_DEVICE,            /* the kernel has connections to it */
  ATTACHMENT_AREA,              /* and swaps there */
};

struct attachment {
  struct device_config *config;
  char *plugin;                 /* its name or path */
  char *identity;               /* of the kernel's device */
  struct runtime files;
  struct nbd_kernel *kernel;
  struct server_process server;
  enum attachment_step step;    /* the last that is done */
  int index;                    /* of /dev/nbdN, from ATTACHMENT_DEVICE on */
  char device[32];              /* that path */
};

/* config is its own from now on. */
struct attachment *attachment_new (const char *folder,
                                   struct device_config *config,
                                   const char *plugin);
void attachment_free (struct attachment *a);

/* The files must be locked (runtime_lock).  Do all steps, or none: false
 * with a newly allocated line in *error.  Signals that end a process
 * should be blocked: they are looked for, and undo all as well.
 */
bool attachment_up (struct attachment *a, char **error);

/* Go on from where the record says that another process got to; what it
 * started and is no more counts as not done.  false with *error.
 */
bool attachment_adopt (struct attachment *a,
                       const struct runtime_record *record, char **error);

/* Undo the step that is the area, after swapoff has succeeded. */
void attachment_area_gone (struct attachment *a);

/* Undo all steps, and remove the files.  Waits for the server to write all
 * to its local copy; wait is called now and then meanwhile, with data.
 */
void attachment_down (struct attachment *a, void (*wait) (void *data),
                      void *data);

/* Give the kernel n fresh connections for dead ones.  false with *error,
 * and *lost where the kernel has given the device up for good.
 */
bool attachment_reconnect (struct attachment *a, unsigned n, bool *lost,
                           char **error);

/* Pass on what the server says; does not block. */
void attachment_read_log (struct attachment *a);

#endif /* ISW_CTL_ATTACHMENT_H */
