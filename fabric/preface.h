/* The wire form of struct fabric_preface, the same on every fabric. */

#ifndef ISW_PREFACE_H
#define ISW_PREFACE_H

#include <stddef.h>

#include "fabric/fabric.h"
#include "fabric/wire.h"

struct wire_preface {
  struct be32 magic;
  struct be16 version;
  struct be16 kind;
  struct be64 session;
  struct be64 token;
};

/* What rdma_cm carries as private data with RDMA_PS_TCP. */
_Static_assert (sizeof (struct wire_preface) <= 56, "preface size");

void preface_encode (const struct fabric_preface *p, struct wire_preface *ret);

/* Of len bytes the first sizeof (struct wire_preface) count: rdma_cm
 * pads what it carries.  0; -EPROTONOSUPPORT for another version;
 * -EBADMSG for anything else that is not a valid preface.
 */
int preface_decode (const void *buf, size_t len, struct fabric_preface *ret);

#endif /* ISW_PREFACE_H */
