/* The control messages of a session: one definition, and pure functions
 * that encode and decode it.
 *
 * On the wire: a header (magic, version, type, length, request id), then
 * the body of the type, all big-endian.  An answer carries the request
 * id of its request.
 */

#ifndef ISW_MESSAGE_H
#define ISW_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

enum {
  MESSAGE_VERSION = 1,
  MESSAGE_DEVICE_ID_SIZE = 16,
  MESSAGE_TEXT_MAX = 256,       /* with the terminating zero */
  MESSAGE_GRANTS_MAX = 60,      /* in one CHECK_ACTIVITY, ACTIVITY, EVICT */
};

/* In HELLO: a borrower that only asks, and takes any slab size. */
#define MESSAGE_ANY_SLAB_SIZE UINT64_C (0)

enum message_type {
  MESSAGE_HELLO = 1,            /* borrower; of a device's HELLOs the one
                                   with the greatest request id counts */
  MESSAGE_WELCOME,              /* donor's answer to HELLO */
  MESSAGE_REFUSED,              /* donor's answer to HELLO or MAP */
  MESSAGE_QUERY_MEM,            /* borrower */
  MESSAGE_FREE_MEM,             /* donor's answer */
  MESSAGE_MAP,                  /* borrower */
  MESSAGE_MR_INFO,              /* donor's answer */
  MESSAGE_UNMAP,                /* borrower; answered by DONE */
  MESSAGE_DONE,                 /* answer to UNMAP (donor), EVICT (borrower,
                                   one for each grant) */
  MESSAGE_CHECK_ACTIVITY,       /* donor */
  MESSAGE_ACTIVITY,             /* borrower's answer */
  MESSAGE_EVICT,                /* donor */
  MESSAGE_PING,                 /* either */
  MESSAGE_PONG,                 /* either's answer */
};

struct message {
  enum message_type type;
  uint64_t id;                  /* request id */
  union {
    struct {
      uint8_t device_id[MESSAGE_DEVICE_ID_SIZE];
      uint64_t slab_size_bytes;
      uint64_t deadline_ns;
    } hello;
    struct {
      uint64_t session;
      uint64_t token;
      uint64_t slab_size_bytes;
      uint64_t free_bytes;
    } welcome;
    struct { char reason[MESSAGE_TEXT_MAX]; } refused;
    struct {
      uint64_t free_bytes;      /* what the donor would lend now */
      uint64_t slabs_ready;
      uint64_t slabs_lent;
    } free_mem;
    struct { uint64_t slab; } map;
    struct {
      uint64_t grant;
      uint64_t address;
      uint64_t key;
      uint64_t length_bytes;
    } mr_info;
    struct { uint64_t grant; } unmap;
    struct { uint64_t grant; } done;
    struct {
      uint32_t count;
      uint64_t grants[MESSAGE_GRANTS_MAX];
    } grants;                   /* CHECK_ACTIVITY, EVICT */
    struct {
      uint32_t count;
      struct {
        uint64_t grant;
        uint64_t activity_milli; /* page I/Os per second, times 1000 */
      } of[MESSAGE_GRANTS_MAX];
    } activity;
  };
};

/* Writes the message into buf and returns its length, or -EINVAL for a
 * message that cannot be (unknown type, too many grants) and -ENOSPC if
 * size does not suffice (FABRIC_MESSAGE_MAX always does).  A reason is
 * cut to fit.
 */
int message_encode (const struct message *m, void *buf, size_t size);

/* Reads a message of exactly len bytes.  0; -EPROTONOSUPPORT for another
 * version (m->id is set where the header is whole); -EBADMSG for
 * anything else that is not a valid message.  buf may hold anything.
 */
int message_decode (const void *buf, size_t len, struct message *m);

/* "HELLO" and so on; "?" for an unknown type. */
const char *message_name (enum message_type type);

#endif /* ISW_MESSAGE_H */
