/* The borrower's own memory, registered once for each RDMA device (or
 * other fabric) that its sessions use.  For the mapper thread only.
 */

#ifndef ISW_REGISTRATION_H
#define ISW_REGISTRATION_H

#include <stddef.h>

#include "fabric/fabric.h"

struct registration {
  const struct fabric_ops *ops;
  const void *device;
  struct fabric_domain *domain;
  struct fabric_region *region; /* the whole memory */
  struct registration *next;
};

struct registrations {
  void *memory;
  size_t bytes;
  struct registration *list;
};

void registrations_init (struct registrations *r, void *memory,
                         size_t bytes);
/* The registration for the device of an established channel, made if
 * need be; it lives until registrations_free.  NULL with *error.
 */
const struct registration *registrations_get (struct registrations *r,
                                              struct fabric_channel *c,
                                              int *error);
/* No queue uses them any more. */
void registrations_free (struct registrations *r);

#endif /* ISW_REGISTRATION_H */
