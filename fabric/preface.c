#include <errno.h>
#include <string.h>

#include "fabric/preface.h"

enum {
  PREFACE_MAGIC = 0x49535750,   /* "ISWP" */
  PREFACE_VERSION = 1,
};

_Static_assert (sizeof (struct wire_preface) == 24, "preface size");
_Static_assert (offsetof (struct wire_preface, session) == 8, "preface");

void
preface_encode (const struct fabric_preface *p, struct wire_preface *ret)
{
  *ret = (struct wire_preface) {
    .magic = be32_from (PREFACE_MAGIC),
    .version = be16_from (PREFACE_VERSION),
    .kind = be16_from (p->kind),
    .session = be64_from (p->session),
    .token = be64_from (p->token),
  };
}

int
preface_decode (const void *buf, size_t len, struct fabric_preface *ret)
{
  struct wire_preface w;

  if (len < sizeof w)
    return -EBADMSG;
  memcpy (&w, buf, sizeof w);
  if (be32_get (w.magic) != PREFACE_MAGIC)
    return -EBADMSG;
  if (be16_get (w.version) != PREFACE_VERSION)
    return -EPROTONOSUPPORT;

  ret->session = be64_get (w.session);
  ret->token = be64_get (w.token);
  switch (be16_get (w.kind)) {
  case FABRIC_CONTROL:
    ret->kind = FABRIC_CONTROL;
    return ret->session == 0 && ret->token == 0 ? 0 : -EBADMSG;
  case FABRIC_LANE:
    ret->kind = FABRIC_LANE;
    return 0;
  default:
    return -EBADMSG;
  }
}
