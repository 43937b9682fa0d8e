/* Big-endian integers for structs that travel.
 *
 * They are arrays of bytes: no alignment, so no padding and no need to
 * pack, and no arithmetic, so a value that was not converted does not
 * compile.
 */

#ifndef ISW_WIRE_H
#define ISW_WIRE_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

struct be16 { uint8_t bytes[2]; };
struct be32 { uint8_t bytes[4]; };
struct be64 { uint8_t bytes[8]; };

static inline struct be16
be16_from (uint16_t value)
{
  struct be16 r;

  value = htobe16 (value);
  memcpy (r.bytes, &value, sizeof r.bytes);
  return r;
}

static inline struct be32
be32_from (uint32_t value)
{
  struct be32 r;

  value = htobe32 (value);
  memcpy (r.bytes, &value, sizeof r.bytes);
  return r;
}

static inline struct be64
be64_from (uint64_t value)
{
  struct be64 r;

  value = htobe64 (value);
  memcpy (r.bytes, &value, sizeof r.bytes);
  return r;
}

static inline uint16_t
be16_get (struct be16 from)
{
  uint16_t value;

  memcpy (&value, from.bytes, sizeof value);
  return be16toh (value);
}

static inline uint32_t
be32_get (struct be32 from)
{
  uint32_t value;

  memcpy (&value, from.bytes, sizeof value);
  return be32toh (value);
}

static inline uint64_t
be64_get (struct be64 from)
{
  uint64_t value;

  memcpy (&value, from.bytes, sizeof value);
  return be64toh (value);
}

#endif /* ISW_WIRE_H */
