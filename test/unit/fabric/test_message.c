#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fabric/fabric.h"
#include "fabric/message.h"
#include "test/unit/fabric/conformance.h"
#include "test/unit/fabric/ends.h"

enum { HEADER_BYTES = 20, FIRST = MESSAGE_HELLO, LAST = MESSAGE_PONG };

/* A message with something else in every field of its type; zeros
 * elsewhere, so that messages compare as memory.
 */
static struct message
random_message (enum message_type type)
{
  struct message m, all;

  memset (&m, 0, sizeof m);
  for (size_t i = 0; i < sizeof all; i++)
    ((uint8_t *) &all)[i] = ends_random () >> 56;
  m.type = type;
  m.id = all.id;
  switch (type) {
  case MESSAGE_HELLO: m.hello = all.hello; break;
  case MESSAGE_WELCOME: m.welcome = all.welcome; break;
  case MESSAGE_REFUSED:
    for (size_t n = ends_random () % MESSAGE_TEXT_MAX; n-- > 0;)
      m.refused.reason[n] = ' ' + ends_random () % 95;
    break;
  case MESSAGE_FREE_MEM: m.free_mem = all.free_mem; break;
  case MESSAGE_MAP: m.map = all.map; break;
  case MESSAGE_MR_INFO: m.mr_info = all.mr_info; break;
  case MESSAGE_UNMAP: m.unmap = all.unmap; break;
  case MESSAGE_DONE: m.done = all.done; break;
  case MESSAGE_CHECK_ACTIVITY:
  case MESSAGE_EVICT:
    m.grants.count = ends_random () % (MESSAGE_GRANTS_MAX + 1);
    memcpy (m.grants.grants, all.grants.grants,
            m.grants.count * sizeof m.grants.grants[0]);
    break;
  case MESSAGE_ACTIVITY:
    m.activity.count = ends_random () % (MESSAGE_GRANTS_MAX + 1);
    memcpy (m.activity.of, all.activity.of,
            m.activity.count * sizeof m.activity.of[0]);
    break;
  case MESSAGE_QUERY_MEM:
  case MESSAGE_PING:
  case MESSAGE_PONG:
    break;
  }
  return m;
}

/* Decode from memory of exactly len bytes, so that valgrind and ASan see
 * a read beyond it.
 */
static int
decode_exactly (const uint8_t *buf, size_t len, struct message *m)
{
  uint8_t *copy = calloc (1, len);
  int r;

  if (len > 0)
    memcpy (copy, buf, len);
  r = message_decode (copy, len, m);
  free (copy);
  return r;
}

START_TEST (test_round_trip)
{
  struct message m = random_message (_i), back;
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int len;

  for (int n = 0; n < 200; n++) {
    len = message_encode (&m, buf, sizeof buf);
    ck_assert_int_ge (len, HEADER_BYTES);
    ck_assert_int_eq (decode_exactly (buf, len, &back), 0);
    ck_assert_mem_eq (&m, &back, sizeof m);
    m = random_message (_i);
  }
}
END_TEST

START_TEST (test_every_other_length_is_refused)
{
  struct message m = random_message (_i), back;
  uint8_t buf[2 * FABRIC_MESSAGE_MAX] = { 0 };
  int len = message_encode (&m, buf, sizeof buf);

  for (int n = 0; n <= (int) sizeof buf; n++)
    if (n != len)
      ck_assert_int_eq (decode_exactly (buf, n, &back), -EBADMSG);
}
END_TEST

/* The length in the header agrees; the body does not suit the type. */
START_TEST (test_body_of_another_length)
{
  static const uint16_t body_bytes[LAST + 1] = {
    [MESSAGE_HELLO] = 32, [MESSAGE_WELCOME] = 32, [MESSAGE_FREE_MEM] = 24,
    [MESSAGE_MAP] = 8, [MESSAGE_MR_INFO] = 32, [MESSAGE_UNMAP] = 8,
    [MESSAGE_DONE] = 8,
  };
  static const uint16_t element_bytes[LAST + 1] = {
    [MESSAGE_REFUSED] = 1, [MESSAGE_CHECK_ACTIVITY] = 8,
    [MESSAGE_ACTIVITY] = 16, [MESSAGE_EVICT] = 8,
  };
  struct message m = random_message (_i), back;
  uint8_t buf[FABRIC_MESSAGE_MAX];
  const unsigned element = element_bytes[_i];
  const unsigned max = _i == MESSAGE_REFUSED ? MESSAGE_TEXT_MAX - 1
                                             : MESSAGE_GRANTS_MAX;
  bool good;

  memset (buf, 'a', sizeof buf);
  ck_assert_int_ge (message_encode (&m, buf, sizeof buf), 0);
  for (unsigned body = 0; body <= sizeof buf - HEADER_BYTES; body++) {
    buf[8] = buf[9] = 0;
    buf[10] = (body + HEADER_BYTES) >> 8;
    buf[11] = body + HEADER_BYTES;
    good = element > 0 ? body % element == 0 && body / element <= max
                       : body == body_bytes[_i];
    ck_assert_int_eq (decode_exactly (buf, body + HEADER_BYTES, &back),
                      good ? 0 : -EBADMSG);
  }
}
END_TEST

/* What is decoded from a changed message encodes to the same bytes, but
 * for unprintable ones in a reason.
 */
START_TEST (test_single_byte_mutations)
{
  struct message m = random_message (_i), back;
  uint8_t encoded[FABRIC_MESSAGE_MAX], again[FABRIC_MESSAGE_MAX];
  int len = message_encode (&m, encoded, sizeof encoded), r;
  uint8_t *buf = memcpy (malloc (len), encoded, len);

  for (int at = 0; at < len; at++)
    for (int change = 1; change < 256; change++) {
      buf[at] ^= change;
      r = message_decode (buf, len, &back);
      if (r == 0) {
        ck_assert_int_eq (message_encode (&back, again, sizeof again), len);
        if (back.type != MESSAGE_REFUSED)
          ck_assert_mem_eq (buf, again, len);
      }
      else
        ck_assert_int_eq (r, at == 4 || at == 5 ? -EPROTONOSUPPORT
                                                : -EBADMSG);
      buf[at] ^= change;
    }
  free (buf);
}
END_TEST

START_TEST (test_encode_needs_room)
{
  struct message m = random_message (_i);
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int len = message_encode (&m, buf, sizeof buf);

  memset (buf, 0xcc, sizeof buf);
  for (int size = 0; size < len; size++)
    ck_assert_int_eq (message_encode (&m, buf, size), -ENOSPC);
  ck_assert_int_eq (buf[0], 0xcc);
  ck_assert_int_eq (message_encode (&m, buf, len), len);
}
END_TEST

START_TEST (test_bytes_on_the_wire)
{
  static const uint8_t map[] = {
    'I', 'S', 'W', 'M', 0, 1, 0, 6, 0, 0, 0, 28,
    1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 1, 0x42,
  };
  const struct message m = {
    .type = MESSAGE_MAP, .id = 0x0102030405060708, .map.slab = 0x142,
  };
  uint8_t buf[FABRIC_MESSAGE_MAX];

  ck_assert_int_eq (message_encode (&m, buf, sizeof buf), sizeof map);
  ck_assert_mem_eq (buf, map, sizeof map);
}
END_TEST

START_TEST (test_other_version)
{
  struct message m = random_message (MESSAGE_HELLO), back;
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int len = message_encode (&m, buf, sizeof buf);

  buf[5] = MESSAGE_VERSION + 1;
  /* Whatever follows the header there. */
  for (int n = HEADER_BYTES; n <= len; n++) {
    ck_assert_int_eq (decode_exactly (buf, n, &back), -EPROTONOSUPPORT);
    ck_assert_uint_eq (back.id, m.id);
  }
}
END_TEST

START_TEST (test_messages_that_cannot_be)
{
  struct message m = { 0 }, back;
  uint8_t buf[FABRIC_MESSAGE_MAX] = { 0 };
  int len;

  ck_assert_int_eq (decode_exactly (buf, 0, &back), -EBADMSG);
  ck_assert_int_eq (decode_exactly (buf, sizeof buf, &back), -EBADMSG);
  for (unsigned type = 0; type <= 0x10000; type++)
    if (type < FIRST || type > LAST) {
      m.type = type;
      ck_assert_int_eq (message_encode (&m, buf, sizeof buf), -EINVAL);
    }

  m.type = MESSAGE_PING;
  len = message_encode (&m, buf, sizeof buf);
  for (unsigned type = 0; type <= 0xffff; type++)
    if (type < FIRST || type > LAST) {
      buf[6] = type >> 8;
      buf[7] = type;
      ck_assert_int_eq (decode_exactly (buf, len, &back), -EBADMSG);
    }

  m = (struct message) { .type = MESSAGE_EVICT };
  m.grants.count = MESSAGE_GRANTS_MAX + 1;
  ck_assert_int_eq (message_encode (&m, buf, sizeof buf), -EINVAL);
  m = (struct message) { .type = MESSAGE_ACTIVITY };
  m.activity.count = UINT32_MAX;
  ck_assert_int_eq (message_encode (&m, buf, sizeof buf), -EINVAL);
}
END_TEST

START_TEST (test_reasons)
{
  struct message m = { .type = MESSAGE_REFUSED }, back;
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int len;

  strcpy (m.refused.reason, "no\033[2J\n\377 \"memory\"~\177");
  len = message_encode (&m, buf, sizeof buf);
  ck_assert_int_eq (decode_exactly (buf, len, &back), 0);
  ck_assert_str_eq (back.refused.reason, "no?[2J?? \"memory\"~?");

  buf[HEADER_BYTES + 1] = 0;
  ck_assert_int_eq (decode_exactly (buf, len, &back), -EBADMSG);

  /* One that does not end is cut. */
  memset (m.refused.reason, 'x', MESSAGE_TEXT_MAX);
  len = message_encode (&m, buf, sizeof buf);
  ck_assert_int_eq (decode_exactly (buf, len, &back), 0);
  ck_assert_uint_eq (strlen (back.refused.reason), MESSAGE_TEXT_MAX - 1);
}
END_TEST

START_TEST (test_names)
{
  ck_assert_str_eq (message_name (MESSAGE_HELLO), "HELLO");
  ck_assert_str_eq (message_name (MESSAGE_CHECK_ACTIVITY), "CHECK_ACTIVITY");
  ck_assert_str_eq (message_name (MESSAGE_PONG), "PONG");
  for (int type = FIRST; type <= LAST; type++)
    ck_assert_str_ne (message_name (type), "?");
  ck_assert_str_eq (message_name (0), "?");
  ck_assert_str_eq (message_name (LAST + 1), "?");
  ck_assert_str_eq (message_name (-1), "?");
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("message");
  TCase *t = tcase_create ("message");

  ends_random ();
  tcase_set_timeout (t, 120);
  tcase_add_loop_test (t, test_round_trip, FIRST, LAST + 1);
  tcase_add_loop_test (t, test_every_other_length_is_refused, FIRST,
                       LAST + 1);
  tcase_add_loop_test (t, test_body_of_another_length, FIRST, LAST + 1);
  tcase_add_loop_test (t, test_single_byte_mutations, FIRST, LAST + 1);
  tcase_add_loop_test (t, test_encode_needs_room, FIRST, LAST + 1);
  tcase_add_test (t, test_bytes_on_the_wire);
  tcase_add_test (t, test_other_version);
  tcase_add_test (t, test_messages_that_cannot_be);
  tcase_add_test (t, test_reasons);
  tcase_add_test (t, test_names);
  suite_add_tcase (suite, t);
  return conformance_run (suite);
}
