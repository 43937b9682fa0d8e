#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "fabric/fabric.h"
#include "fabric/message.h"
#include "fabric/wire.h"

enum { MESSAGE_MAGIC = 0x4953574d }; /* "ISWM" */

struct wire_header {
  struct be32 magic;
  struct be16 version;
  struct be16 type;
  struct be32 length;           /* of the whole message */
  struct be64 id;
};

struct wire_hello {
  uint8_t device_id[MESSAGE_DEVICE_ID_SIZE];
  struct be64 slab_size_bytes;
  struct be64 deadline_ns;
};

struct wire_welcome {
  struct be64 session;
  struct be64 token;
  struct be64 slab_size_bytes;
  struct be64 free_bytes;
};

struct wire_free_mem {
  struct be64 free_bytes;
  struct be64 slabs_ready;
  struct be64 slabs_lent;
};

struct wire_mr_info {
  struct be64 grant;
  struct be64 address;
  struct be64 key;
  struct be64 length_bytes;
};

struct wire_activity {
  struct be64 grant;
  struct be64 activity_milli;
};

struct wire_message {
  struct wire_header header;
  union {
    struct wire_hello hello;
    struct wire_welcome welcome;
    uint8_t reason[MESSAGE_TEXT_MAX - 1]; /* without a zero */
    struct wire_free_mem free_mem;
    struct be64 slab;
    struct wire_mr_info mr_info;
    struct be64 grant;
    struct be64 grants[MESSAGE_GRANTS_MAX];
    struct wire_activity activity[MESSAGE_GRANTS_MAX];
  };
};

enum { HEADER_SIZE = sizeof (struct wire_header) };

_Static_assert (HEADER_SIZE == 20, "header");
_Static_assert (offsetof (struct wire_header, version) == 4, "header");
_Static_assert (offsetof (struct wire_header, length) == 8, "header");
_Static_assert (offsetof (struct wire_header, id) == 12, "header");
_Static_assert (offsetof (struct wire_message, hello) == HEADER_SIZE, "body");
_Static_assert (sizeof (struct wire_hello) == 32, "HELLO");
_Static_assert (sizeof (struct wire_welcome) == 32, "WELCOME");
_Static_assert (sizeof (struct wire_free_mem) == 24, "FREE_MEM");
_Static_assert (sizeof (struct wire_mr_info) == 32, "MR_INFO");
_Static_assert (sizeof (struct wire_activity) == 16, "ACTIVITY");
_Static_assert (sizeof (struct wire_message) <= FABRIC_MESSAGE_MAX, "length");

/* A body is 0 to max elements, or exactly one where max is 0. */
static const struct message_form {
  const char *name;
  size_t element_bytes;
  size_t max;
} forms[] = {
  [MESSAGE_HELLO] = { "HELLO", sizeof (struct wire_hello), 0 },
  [MESSAGE_WELCOME] = { "WELCOME", sizeof (struct wire_welcome), 0 },
  [MESSAGE_REFUSED] = { "REFUSED", 1, MESSAGE_TEXT_MAX - 1 },
  [MESSAGE_QUERY_MEM] = { "QUERY_MEM", 0, 0 },
  [MESSAGE_FREE_MEM] = { "FREE_MEM", sizeof (struct wire_free_mem), 0 },
  [MESSAGE_MAP] = { "MAP", sizeof (struct be64), 0 },
  [MESSAGE_MR_INFO] = { "MR_INFO", sizeof (struct wire_mr_info), 0 },
  [MESSAGE_UNMAP] = { "UNMAP", sizeof (struct be64), 0 },
  [MESSAGE_DONE] = { "DONE", sizeof (struct be64), 0 },
  [MESSAGE_CHECK_ACTIVITY] =
    { "CHECK_ACTIVITY", sizeof (struct be64), MESSAGE_GRANTS_MAX },
  [MESSAGE_ACTIVITY] =
    { "ACTIVITY", sizeof (struct wire_activity), MESSAGE_GRANTS_MAX },
  [MESSAGE_EVICT] = { "EVICT", sizeof (struct be64), MESSAGE_GRANTS_MAX },
  [MESSAGE_PING] = { "PING", 0, 0 },
  [MESSAGE_PONG] = { "PONG", 0, 0 },
};

static const struct message_form *
form_of (unsigned type)
{
  if (type >= sizeof forms / sizeof forms[0] || forms[type].name == NULL)
    return NULL;
  return &forms[type];
}

const char *
message_name (enum message_type type)
{
  const struct message_form *form = form_of (type);

  return form ? form->name : "?";
}

/* How many elements the body of a message to encode has. */
static size_t
count_of (const struct message *m)
{
  switch (m->type) {
  case MESSAGE_REFUSED:
    return strnlen (m->refused.reason, MESSAGE_TEXT_MAX - 1);
  case MESSAGE_CHECK_ACTIVITY:
  case MESSAGE_EVICT:
    return m->grants.count;
  case MESSAGE_ACTIVITY:
    return m->activity.count;
  default:
    return 1;
  }
}

static void
encode_body (const struct message *m, size_t count, struct wire_message *w)
{
  switch (m->type) {
  case MESSAGE_HELLO:
    memcpy (w->hello.device_id, m->hello.device_id, MESSAGE_DEVICE_ID_SIZE);
    w->hello.slab_size_bytes = be64_from (m->hello.slab_size_bytes);
    w->hello.deadline_ns = be64_from (m->hello.deadline_ns);
    break;
  case MESSAGE_WELCOME:
    w->welcome.session = be64_from (m->welcome.session);
    w->welcome.token = be64_from (m->welcome.token);
    w->welcome.slab_size_bytes = be64_from (m->welcome.slab_size_bytes);
    w->welcome.free_bytes = be64_from (m->welcome.free_bytes);
    break;
  case MESSAGE_REFUSED:
    memcpy (w->reason, m->refused.reason, count);
    break;
  case MESSAGE_FREE_MEM:
    w->free_mem.free_bytes = be64_from (m->free_mem.free_bytes);
    w->free_mem.slabs_ready = be64_from (m->free_mem.slabs_ready);
    w->free_mem.slabs_lent = be64_from (m->free_mem.slabs_lent);
    break;
  case MESSAGE_MAP:
    w->slab = be64_from (m->map.slab);
    break;
  case MESSAGE_MR_INFO:
    w->mr_info.grant = be64_from (m->mr_info.grant);
    w->mr_info.address = be64_from (m->mr_info.address);
    w->mr_info.key = be64_from (m->mr_info.key);
    w->mr_info.length_bytes = be64_from (m->mr_info.length_bytes);
    break;
  case MESSAGE_UNMAP:
    w->grant = be64_from (m->unmap.grant);
    break;
  case MESSAGE_DONE:
    w->grant = be64_from (m->done.grant);
    break;
  case MESSAGE_CHECK_ACTIVITY:
  case MESSAGE_EVICT:
    for (size_t i = 0; i < count; i++)
      w->grants[i] = be64_from (m->grants.grants[i]);
    break;
  case MESSAGE_ACTIVITY:
    for (size_t i = 0; i < count; i++) {
      w->activity[i].grant = be64_from (m->activity.of[i].grant);
      w->activity[i].activity_milli =
        be64_from (m->activity.of[i].activity_milli);
    }
    break;
  case MESSAGE_QUERY_MEM:
  case MESSAGE_PING:
  case MESSAGE_PONG:
    break;
  }
}

int
message_encode (const struct message *m, void *buf, size_t size)
{
  const struct message_form *form = form_of (m->type);
  struct wire_message w;
  size_t count, length;

  if (!form)
    return -EINVAL;
  count = count_of (m);
  if (form->max > 0 && count > form->max)
    return -EINVAL;
  length = HEADER_SIZE + count * form->element_bytes;
  if (length > size)
    return -ENOSPC;

  w.header = (struct wire_header) {
    .magic = be32_from (MESSAGE_MAGIC),
    .version = be16_from (MESSAGE_VERSION),
    .type = be16_from (m->type),
    .length = be32_from (length),
    .id = be64_from (m->id),
  };
  encode_body (m, count, &w);
  memcpy (buf, &w, length);
  return length;
}

/* A reason goes to the user's terminal and log as it is. */
static int
decode_reason (const uint8_t *from, size_t count, char *reason)
{
  for (size_t i = 0; i < count; i++) {
    if (from[i] == 0)
      return -EBADMSG;
    reason[i] = from[i] >= 0x20 && from[i] < 0x7f ? from[i] : '?';
  }
  reason[count] = 0;
  return 0;
}

static int
decode_body (const struct wire_message *w, size_t count, struct message *m)
{
  switch (m->type) {
  case MESSAGE_HELLO:
    memcpy (m->hello.device_id, w->hello.device_id, MESSAGE_DEVICE_ID_SIZE);
    m->hello.slab_size_bytes = be64_get (w->hello.slab_size_bytes);
    m->hello.deadline_ns = be64_get (w->hello.deadline_ns);
    break;
  case MESSAGE_WELCOME:
    m->welcome.session = be64_get (w->welcome.session);
    m->welcome.token = be64_get (w->welcome.token);
    m->welcome.slab_size_bytes = be64_get (w->welcome.slab_size_bytes);
    m->welcome.free_bytes = be64_get (w->welcome.free_bytes);
    break;
  case MESSAGE_REFUSED:
    return decode_reason (w->reason, count, m->refused.reason);
  case MESSAGE_FREE_MEM:
    m->free_mem.free_bytes = be64_get (w->free_mem.free_bytes);
    m->free_mem.slabs_ready = be64_get (w->free_mem.slabs_ready);
    m->free_mem.slabs_lent = be64_get (w->free_mem.slabs_lent);
    break;
  case MESSAGE_MAP:
    m->map.slab = be64_get (w->slab);
    break;
  case MESSAGE_MR_INFO:
    m->mr_info.grant = be64_get (w->mr_info.grant);
    m->mr_info.address = be64_get (w->mr_info.address);
    m->mr_info.key = be64_get (w->mr_info.key);
    m->mr_info.length_bytes = be64_get (w->mr_info.length_bytes);
    break;
  case MESSAGE_UNMAP:
    m->unmap.grant = be64_get (w->grant);
    break;
  case MESSAGE_DONE:
    m->done.grant = be64_get (w->grant);
    break;
  case MESSAGE_CHECK_ACTIVITY:
  case MESSAGE_EVICT:
    m->grants.count = count;
    for (size_t i = 0; i < count; i++)
      m->grants.grants[i] = be64_get (w->grants[i]);
    break;
  case MESSAGE_ACTIVITY:
    m->activity.count = count;
    for (size_t i = 0; i < count; i++) {
      m->activity.of[i].grant = be64_get (w->activity[i].grant);
      m->activity.of[i].activity_milli =
        be64_get (w->activity[i].activity_milli);
    }
    break;
  case MESSAGE_QUERY_MEM:
  case MESSAGE_PING:
  case MESSAGE_PONG:
    break;
  }
  return 0;
}

/* How many elements a body of so many bytes has, or -EBADMSG. */
static int
count_in (const struct message_form *form, size_t body_bytes)
{
  if (form->max == 0)
    return body_bytes == form->element_bytes ? 1 : -EBADMSG;
  if (body_bytes % form->element_bytes != 0 ||
      body_bytes / form->element_bytes > form->max)
    return -EBADMSG;
  return body_bytes / form->element_bytes;
}

int
message_decode (const void *buf, size_t len, struct message *m)
{
  const struct message_form *form;
  struct wire_message w;
  int count;

  memset (m, 0, sizeof *m);
  if (len < HEADER_SIZE)
    return -EBADMSG;
  memcpy (&w.header, buf, HEADER_SIZE);
  if (be32_get (w.header.magic) != MESSAGE_MAGIC)
    return -EBADMSG;
  m->id = be64_get (w.header.id);
  if (be16_get (w.header.version) != MESSAGE_VERSION)
    return -EPROTONOSUPPORT;

  form = form_of (be16_get (w.header.type));
  if (!form || be32_get (w.header.length) != len)
    return -EBADMSG;
  count = count_in (form, len - HEADER_SIZE);
  if (count < 0)
    return count;
  memcpy (&w, buf, len);
  m->type = be16_get (w.header.type);
  return decode_body (&w, count, m);
}
