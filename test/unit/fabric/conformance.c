#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "test/unit/fabric/conformance.h"
#include "test/unit/fabric/ends.h"

enum { TEST_TIMEOUT_S = 120 };

static unsigned fds_before;

/* A fabric may keep devices open for the life of the process, so the
 * first use is not counted.
 */
static void
setup (void)
{
  struct ends e;
  struct lane l;

  ends_open (&e);
  lane_open (&e, &l);
  lane_close (&l);
  ends_close (&e);
  fds_before = ends_count_fds ();
}

static void
teardown (void)
{
  ck_assert_uint_eq (ends_count_fds (), fds_before);
}

static void
fill_random (uint8_t *p, size_t n)
{
  while (n-- > 0)
    *p++ = ends_random () >> 56;
}

static bool
is_all (const uint8_t *p, size_t n, uint8_t value)
{
  while (n-- > 0)
    if (*p++ != value)
      return false;
  return true;
}

START_TEST (test_address_in_use)
{
  struct sockaddr_storage addr;
  struct fabric_listener *l, *other;
  struct fabric_request *request;
  socklen_t len;

  ck_assert_int_eq (fabric_available (ends_ops), 0);
  l = ends_listen (&addr, &len);
  ck_assert_int_eq (fabric_listener_accept (l, &request), -EAGAIN);
  ck_assert_int_eq (fabric_listen (ends_ops, (struct sockaddr *) &addr, len,
                                   &other), -EADDRINUSE);
  fabric_listener_close (l);
}
END_TEST

static void
check_one_message (struct talker *from, struct talker *to, size_t len)
{
  uint8_t sent[FABRIC_MESSAGE_MAX], received[FABRIC_MESSAGE_MAX];

  fill_random (sent, len);
  ck_assert_int_eq (fabric_channel_send (from->channel, sent, len), 0);
  ck_assert_int_eq (talker_receive (to, from, received), len);
  ck_assert_mem_eq (sent, received, len);
}

START_TEST (test_messages_of_all_lengths)
{
  struct ends e;

  ends_open (&e);
  for (size_t len = 1; len <= FABRIC_MESSAGE_MAX; len += 1 + len / 8) {
    check_one_message (&e.borrower, &e.donor, len);
    check_one_message (&e.donor, &e.borrower, len);
  }
  check_one_message (&e.borrower, &e.donor, FABRIC_MESSAGE_MAX);
  check_one_message (&e.donor, &e.borrower, FABRIC_MESSAGE_MAX);
  ends_close (&e);
}
END_TEST

START_TEST (test_message_of_impossible_length)
{
  uint8_t buf[FABRIC_MESSAGE_MAX + 1] = { 0 };
  struct ends e;

  ends_open (&e);
  ck_assert_int_lt (fabric_channel_send (e.donor.channel, buf, 0), 0);
  ck_assert_int_lt (fabric_channel_send (e.donor.channel, buf, sizeof buf), 0);
  check_one_message (&e.donor, &e.borrower, 10);
  ends_close (&e);
}
END_TEST

/* Send as many numbered messages as it takes, up to n in all. */
static void
send_numbers (struct talker *t, uint32_t *next, uint32_t n)
{
  int r = 0;

  while (*next < n && r == 0) {
    r = fabric_channel_send (t->channel, next, sizeof *next);
    if (r == 0)
      ++*next;
  }
  ck_assert (r == 0 || r == -ENOBUFS);
}

static void
check_numbers (struct talker *to, struct talker *from, uint32_t n)
{
  uint8_t buf[FABRIC_MESSAGE_MAX];

  for (uint32_t i = 0; i < n; i++) {
    ck_assert_int_eq (talker_receive (to, from, buf), sizeof i);
    ck_assert_mem_eq (buf, &i, sizeof i);
  }
}

START_TEST (test_many_messages_keep_their_order)
{
  const uint32_t n = 5000;
  uint32_t to_donor = 0, to_borrower = 0;
  struct ends e;

  ends_open (&e);
  for (;;) {
    send_numbers (&e.borrower, &to_donor, n);
    send_numbers (&e.donor, &to_borrower, n);
    talker_pump (&e.borrower);
    talker_pump (&e.donor);
    ck_assert_int_eq (e.borrower.error, 0);
    ck_assert_int_eq (e.donor.error, 0);
    if (to_donor == n && to_borrower == n)
      break;
    talker_wait (&e.borrower, &e.donor);
  }
  check_numbers (&e.donor, &e.borrower, n);
  check_numbers (&e.borrower, &e.donor, n);
  ends_close (&e);
}
END_TEST

START_TEST (test_messages_sent_before_it_stands)
{
  struct fabric_request *request;
  struct ends e = { 0 };
  uint32_t sent = 0;

  e.listener = ends_listen (&e.addr, &e.addr_len);
  ck_assert_int_eq (fabric_channel_connect (
    ends_ops, (struct sockaddr *) &e.addr, e.addr_len, ENDS_PATIENCE_NS,
    &e.borrower.channel), 0);
  send_numbers (&e.borrower, &sent, 64);
  ck_assert_uint_eq (sent, 64);
  while (fabric_listener_accept (e.listener, &request) == -EAGAIN)
    talker_pump (&e.borrower);
  ck_assert_int_eq (fabric_request_preface (request)->kind, FABRIC_CONTROL);
  ck_assert_uint_eq (fabric_request_preface (request)->session, 0);
  ck_assert_uint_eq (fabric_request_preface (request)->token, 0);
  ck_assert_int_eq (fabric_channel_accept (request, &e.donor.channel), 0);
  check_numbers (&e.donor, &e.borrower, sent);
  talker_close (&e.borrower);
  talker_close (&e.donor);
  fabric_listener_close (e.listener);
}
END_TEST

/* A peer that takes nothing: the sender is told, soon and for good. */
START_TEST (test_unsent_messages_are_bounded)
{
  uint8_t buf[FABRIC_MESSAGE_MAX] = { 0 };
  uint32_t sent = 0, received = 0;
  struct ends e;
  int r;

  ends_open (&e);
  while ((r = fabric_channel_send (e.borrower.channel, buf, sizeof buf)) == 0)
    memcpy (buf, &(uint32_t) { ++sent }, sizeof sent);
  ck_assert_uint_ge (sent, 64);
  ck_assert_int_lt (r, 0);
  if (r != -ENOBUFS)
    goto out;

  /* None of those it accepted is lost if the peer wakes up. */
  while (received < sent) {
    r = talker_receive (&e.donor, &e.borrower, buf);
    ck_assert_int_eq (r, sizeof buf);
    ck_assert_mem_eq (buf, &received, sizeof received);
    received++;
  }
out:
  ends_close (&e);
}
END_TEST

START_TEST (test_close_ends_the_other_end)
{
  struct ends e;
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int r;

  ends_open (&e);
  if (_i == 0) {
    talker_close (&e.donor);
    r = talker_receive (&e.borrower, &e.donor, buf);
    ck_assert_int_lt (r, 0);
    ck_assert_int_eq (fabric_channel_receive (e.borrower.channel, buf,
                                              sizeof buf), r);
    ck_assert_int_lt (fabric_channel_send (e.borrower.channel, "x", 1), 0);
  }
  else {
    talker_close (&e.borrower);
    ck_assert_int_lt (talker_receive (&e.donor, &e.borrower, buf), 0);
  }
  ends_close (&e);
}
END_TEST

/* An address of this machine where nobody listens. */
static socklen_t
find_no_listener (struct sockaddr_storage *addr)
{
  socklen_t len;

  fabric_listener_close (ends_listen (addr, &len));
  return len;
}

START_TEST (test_channel_refused)
{
  uint8_t buf[FABRIC_MESSAGE_MAX];
  struct sockaddr_storage addr;
  socklen_t len = find_no_listener (&addr);
  struct talker t = { 0 }, nobody = { 0 };
  int r;

  ck_assert_int_eq (fabric_channel_connect (
    ends_ops, (struct sockaddr *) &addr, len, ENDS_PATIENCE_NS,
    &t.channel), 0);
  ck_assert_int_eq (talker_receive (&t, &nobody, buf), -ECONNREFUSED);
  r = fabric_channel_receive (t.channel, buf, sizeof buf);
  ck_assert_int_eq (r, -ECONNREFUSED);
  ck_assert_int_lt (fabric_channel_send (t.channel, "x", 1), 0);
  talker_close (&t);
}
END_TEST

START_TEST (test_channel_rejected)
{
  uint8_t buf[FABRIC_MESSAGE_MAX];
  struct sockaddr_storage addr;
  socklen_t len;
  struct fabric_listener *l = ends_listen (&addr, &len);
  struct talker t = { 0 }, nobody = { 0 };
  struct fabric_request *request;

  ck_assert_int_eq (fabric_channel_connect (
    ends_ops, (struct sockaddr *) &addr, len, ENDS_PATIENCE_NS,
    &t.channel), 0);
  while (fabric_listener_accept (l, &request) == -EAGAIN)
    talker_pump (&t);
  fabric_request_reject (request);
  ck_assert_int_lt (talker_receive (&t, &nobody, buf), 0);
  talker_close (&t);
  fabric_listener_close (l);
}
END_TEST

START_TEST (test_lane_refused)
{
  const struct fabric_preface preface = { .kind = FABRIC_LANE };
  struct sockaddr_storage addr;
  socklen_t len = find_no_listener (&addr);
  struct fabric_queue *q;
  struct ends e;

  ends_open (&e);
  ck_assert_int_eq (fabric_queue_connect (
    e.borrower_domain, (struct sockaddr *) &addr, len, &preface,
    ENDS_PATIENCE_NS, &q), 0);
  ck_assert_int_eq (queue_finish_connect (q), -ECONNREFUSED);
  fabric_queue_free (q);
  ends_close (&e);
}
END_TEST

START_TEST (test_lane_rejected_after_its_preface)
{
  const struct fabric_preface preface = {
    .kind = FABRIC_LANE, .session = ends_random (), .token = ends_random (),
  };
  const struct fabric_preface *got;
  struct fabric_request *request;
  struct fabric_queue *q;
  struct ends e;

  ends_open (&e);
  ck_assert_int_eq (fabric_queue_connect (
    e.borrower_domain, (struct sockaddr *) &e.addr, e.addr_len, &preface,
    ENDS_PATIENCE_NS, &q), 0);
  while (fabric_listener_accept (e.listener, &request) == -EAGAIN)
    ck_assert_int_eq (fabric_queue_step (q), -EAGAIN);
  got = fabric_request_preface (request);
  ck_assert_int_eq (got->kind, FABRIC_LANE);
  ck_assert_uint_eq (got->session, preface.session);
  ck_assert_uint_eq (got->token, preface.token);
  ck_assert_ptr_nonnull (strstr (fabric_request_peer (request), ends_host));
  fabric_request_reject (request);
  ck_assert_int_eq (queue_finish_connect (q), -ECONNREFUSED);
  fabric_queue_free (q);
  ends_close (&e);
}
END_TEST

START_TEST (test_connecting_abandoned)
{
  const struct fabric_preface preface = { .kind = FABRIC_LANE };
  struct fabric_channel *c;
  struct fabric_queue *q;
  struct ends e;

  ends_open (&e);
  ck_assert_int_eq (fabric_channel_connect (
    ends_ops, (struct sockaddr *) &e.addr, e.addr_len, ENDS_PATIENCE_NS,
    &c), 0);
  fabric_channel_close (c);
  ck_assert_int_eq (fabric_queue_connect (
    e.borrower_domain, (struct sockaddr *) &e.addr, e.addr_len, &preface,
    ENDS_PATIENCE_NS, &q), 0);
  if (_i == 1) {
    fabric_queue_break (q);
    ck_assert_int_lt (queue_finish_connect (q), 0);
  }
  fabric_queue_free (q);
  ends_close (&e);
}
END_TEST

/* Write, read back elsewhere, and nothing beside it changes. */
static void
check_round_trip (struct ends *e, struct lane *l, uint32_t length)
{
  const size_t half = ENDS_MEMORY_BYTES / 2;
  size_t at = 1 + ends_random () % (half - length - 2);
  size_t to = 1 + ends_random () % (half - length - 2);
  struct fabric_op write = ends_op (e, FABRIC_WRITE, at, to, length);
  struct fabric_op read = ends_op (e, FABRIC_READ, half + at, to, length);

  memset (e->memory + to - 1, 0x5a, length + 2);
  memset (e->local + half + at - 1, 0xa5, length + 2);
  fill_random (e->local + at, length);
  ck_assert_int_eq (queue_run (l->queue, &write), 0);
  ck_assert_mem_eq (e->memory + to, e->local + at, length);
  ck_assert_int_eq (e->memory[to - 1], 0x5a);
  ck_assert_int_eq (e->memory[to + length], 0x5a);

  ck_assert_int_eq (queue_run (l->queue, &read), 0);
  ck_assert_mem_eq (e->local + half + at, e->local + at, length);
  ck_assert_int_eq (e->local[half + at - 1], 0xa5);
  ck_assert_int_eq (e->local[half + at + length], 0xa5);
}

START_TEST (test_round_trips)
{
  struct ends e;
  struct lane l;

  ends_open (&e);
  lane_open (&e, &l);
  for (uint32_t length = 1; length <= FABRIC_TRANSFER_MAX; length *= 2) {
    check_round_trip (&e, &l, length);
    if (length > 1)
      check_round_trip (&e, &l, length - 1);
  }
  for (int i = 0; i < 50; i++)
    check_round_trip (&e, &l, 1 + ends_random () % FABRIC_TRANSFER_MAX);
  lane_close (&l);
  ends_close (&e);
}
END_TEST

START_TEST (test_whole_region_is_in_reach)
{
  const size_t last = ENDS_MEMORY_BYTES - FABRIC_TRANSFER_MAX;
  struct fabric_op op;
  struct ends e;
  struct lane l;

  ends_open (&e);
  lane_open (&e, &l);
  fill_random (e.local, FABRIC_TRANSFER_MAX);
  op = ends_op (&e, FABRIC_WRITE, 0, last, FABRIC_TRANSFER_MAX);
  ck_assert_int_eq (queue_run (l.queue, &op), 0);
  ck_assert_mem_eq (e.memory + last, e.local, FABRIC_TRANSFER_MAX);
  op = ends_op (&e, FABRIC_WRITE, 0, 0, FABRIC_TRANSFER_MAX);
  ck_assert_int_eq (queue_run (l.queue, &op), 0);
  ck_assert_mem_eq (e.memory, e.local, FABRIC_TRANSFER_MAX);
  lane_close (&l);
  ends_close (&e);
}
END_TEST

START_TEST (test_operation_of_impossible_length)
{
  struct fabric_op op;
  struct ends e;
  struct lane l;

  ends_open (&e);
  lane_open (&e, &l);
  op = ends_op (&e, FABRIC_WRITE, 0, 0, 0);
  ck_assert_int_lt (fabric_queue_post (l.queue, &op), 0);
  op = ends_op (&e, FABRIC_WRITE, 0, 0, FABRIC_TRANSFER_MAX + 1);
  ck_assert_int_lt (fabric_queue_post (l.queue, &op), 0);
  ck_assert_uint_eq (l.queue->outstanding, 0);
  check_round_trip (&e, &l, 4096);
  lane_close (&l);
  ends_close (&e);
}
END_TEST

/* Fill the queue to the brim and wait for all of it. */
static void
run_full_queue (struct ends *e, struct lane *l, enum fabric_type type,
                uint32_t length)
{
  struct fabric_op ops[FABRIC_QUEUE_DEPTH], more;

  for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
    ops[i] = ends_op (e, type, i * length, i * length, length);
    ck_assert_int_eq (fabric_queue_post (l->queue, &ops[i]), 0);
  }
  ck_assert_uint_eq (l->queue->outstanding, FABRIC_QUEUE_DEPTH);
  more = ends_op (e, type, 0, 0, length);
  ck_assert_int_eq (fabric_queue_post (l->queue, &more), -ENOBUFS);
  queue_wait (l->queue);
  for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
    ck_assert (ops[i].done);
    ck_assert_int_eq (ops[i].status, 0);
  }
}

START_TEST (test_full_queue)
{
  const uint32_t length = ENDS_MEMORY_BYTES / FABRIC_QUEUE_DEPTH;
  struct ends e;
  struct lane l;

  ends_open (&e);
  lane_open (&e, &l);
  for (int i = 0; i < 8; i++) {
    fill_random (e.local, ENDS_MEMORY_BYTES);
    run_full_queue (&e, &l, FABRIC_WRITE, length);
    ck_assert_mem_eq (e.memory, e.local, ENDS_MEMORY_BYTES);
    memset (e.local, 0, ENDS_MEMORY_BYTES);
    run_full_queue (&e, &l, FABRIC_READ, length);
    ck_assert_mem_eq (e.memory, e.local, ENDS_MEMORY_BYTES);
  }
  lane_close (&l);
  ends_close (&e);
}
END_TEST

/* More bytes under way than any buffer in between holds. */
START_TEST (test_full_queue_of_largest_operations)
{
  struct fabric_op ops[FABRIC_QUEUE_DEPTH];
  struct ends e;
  struct lane l;

  ends_open (&e);
  lane_open (&e, &l);
  for (int round = 0; round < 4; round++) {
    for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
      ops[i] = ends_op (&e, round % 2 || i % 3 ? FABRIC_WRITE : FABRIC_READ,
                        i, 2 * i, FABRIC_TRANSFER_MAX);
      ck_assert_int_eq (fabric_queue_post (l.queue, &ops[i]), 0);
    }
    queue_wait (l.queue);
    for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++)
      ck_assert_int_eq (ops[i].status, 0);
  }
  lane_close (&l);
  ends_close (&e);
}
END_TEST

/* An access that was not granted: it fails, the lane with it, and no
 * byte of the donor's memory changes.
 */
static void
check_refused (struct ends *e, struct lane *l, struct fabric_op op)
{
  struct fabric_op next = ends_op (e, FABRIC_WRITE, 0, 0, 4096);

  ck_assert_int_eq (queue_run (l->queue, &next), 0);
  memset (e->memory, 0x11, ENDS_MEMORY_BYTES);
  memset (e->local, 0x22, ENDS_MEMORY_BYTES);
  ck_assert_int_lt (queue_run (l->queue, &op), 0);
  ck_assert_int_lt (fabric_queue_post (l->queue, &next), 0);
  ck_assert_uint_eq (l->queue->outstanding, 0);
  fabric_service_end (l->service);
  l->service = NULL;
  ck_assert (is_all (e->memory, ENDS_MEMORY_BYTES, 0x11));
  if (op.type == FABRIC_READ)
    ck_assert (is_all (e->local, ENDS_MEMORY_BYTES, 0x22));
}

static const struct { int64_t from_end; uint32_t length; } outside[] = {
  { 0, 1 },
  { 0, 4096 },
  { -1, 2 },
  { -4096, 4097 },
  { -FABRIC_TRANSFER_MAX + 1, FABRIC_TRANSFER_MAX },
  { INT64_C (1) << 40, 4096 },
  { -ENDS_MEMORY_BYTES - 1, 1 },
  { -ENDS_MEMORY_BYTES - 1, 2 },
  { -ENDS_MEMORY_BYTES - 4096, 8192 },
};

START_TEST (test_out_of_range)
{
  struct fabric_op op;
  struct ends e;
  struct lane l;

  ends_open (&e);
  for (int type = FABRIC_READ; type <= FABRIC_WRITE; type++) {
    lane_open (&e, &l);
    op = ends_op (&e, type, 0, ENDS_MEMORY_BYTES + outside[_i].from_end,
                  outside[_i].length);
    check_refused (&e, &l, op);
    lane_close (&l);
  }
  ends_close (&e);
}
END_TEST

START_TEST (test_wrong_key)
{
  static const uint64_t wrong[] = { 1, 0x80, 0x100, 0xff00, 0x80000000 };
  struct fabric_op op;
  struct ends e;
  struct lane l;

  ends_open (&e);
  for (int type = FABRIC_READ; type <= FABRIC_WRITE; type++) {
    lane_open (&e, &l);
    op = ends_op (&e, type, 0, 0, 4096);
    op.key ^= wrong[_i];
    check_refused (&e, &l, op);
    lane_close (&l);
  }
  ends_close (&e);
}
END_TEST

/* A second domain of the donor, with a region of its own memory. */
START_TEST (test_key_of_another_domain)
{
  static uint8_t foreign_memory[8192];
  struct fabric_domain *domain;
  struct fabric_region *foreign;
  struct fabric_op op;
  struct ends e;
  struct lane l;

  ends_open (&e);
  ck_assert_int_eq (fabric_domain_create (e.donor.channel, &domain), 0);
  ck_assert_int_eq (fabric_region_add (domain, foreign_memory,
                                       sizeof foreign_memory, true,
                                       &foreign), 0);
  for (int type = FABRIC_READ; type <= FABRIC_WRITE; type++) {
    lane_open (&e, &l);
    op = ends_op (&e, type, 0, 0, 4096);
    op.remote = fabric_region_address (foreign);
    op.key = fabric_region_key (foreign);
    check_refused (&e, &l, op);
    lane_close (&l);
  }
  ck_assert (is_all (foreign_memory, sizeof foreign_memory, 0));
  ck_assert_int_eq (fabric_region_remove (foreign), 0);
  fabric_domain_free (domain);
  ends_close (&e);
}
END_TEST

START_TEST (test_region_not_for_the_peer)
{
  static uint8_t private_memory[8192];
  struct fabric_region *private;
  struct fabric_op op;
  struct ends e;
  struct lane l;

  ends_open (&e);
  ck_assert_int_eq (fabric_region_add (e.donor_domain, private_memory,
                                       sizeof private_memory, false,
                                       &private), 0);
  for (int type = FABRIC_READ; type <= FABRIC_WRITE; type++) {
    lane_open (&e, &l);
    op = ends_op (&e, type, 0, 0, 4096);
    op.remote = fabric_region_address (private);
    op.key = fabric_region_key (private);
    check_refused (&e, &l, op);
    lane_close (&l);
  }
  ck_assert (is_all (private_memory, sizeof private_memory, 0));
  ck_assert_int_eq (fabric_region_remove (private), 0);
  ends_close (&e);
}
END_TEST

/* Revoking one region leaves the lane and the other regions alone until
 * the old key is used.
 */
START_TEST (test_removed_region)
{
  static uint8_t more_memory[8192];
  struct fabric_region *more;
  struct fabric_op ok, op;
  struct ends e;
  struct lane l;

  ends_open (&e);
  for (int type = FABRIC_READ; type <= FABRIC_WRITE; type++) {
    ck_assert_int_eq (fabric_region_add (e.donor_domain, more_memory,
                                         sizeof more_memory, true, &more), 0);
    lane_open (&e, &l);
    op = ends_op (&e, type, 0, 0, sizeof more_memory);
    op.remote = fabric_region_address (more);
    op.key = fabric_region_key (more);
    ck_assert_int_eq (queue_run (l.queue, &op), 0);
    memset (more_memory, 0, sizeof more_memory);
    ends_remove (more);

    ok = ends_op (&e, type, 0, 0, 4096);
    ck_assert_int_eq (queue_run (l.queue, &ok), 0);
    check_refused (&e, &l, op);
    ck_assert (is_all (more_memory, sizeof more_memory, 0));
    lane_close (&l);
  }
  ends_close (&e);
}
END_TEST

START_TEST (test_refusal_ends_what_is_behind_it)
{
  struct fabric_op ops[FABRIC_QUEUE_DEPTH];
  struct ends e;
  struct lane l;

  ends_open (&e);
  lane_open (&e, &l);
  for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
    ops[i] = ends_op (&e, i % 2, 4096 * i, 4096 * i, 4096);
    if (i == 20)
      ops[i].key ^= 0x5500;
    ck_assert_int_eq (fabric_queue_post (l.queue, &ops[i]), 0);
  }
  queue_wait (l.queue);
  for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
    ck_assert (ops[i].done);
    if (i >= 20)
      ck_assert_int_lt (ops[i].status, 0);
  }
  ck_assert_int_lt (fabric_queue_post (l.queue, &ops[0]), 0);
  lane_close (&l);
  ends_close (&e);
}
END_TEST

START_TEST (test_nothing_to_wait_for)
{
  struct fabric_queue *queues[2];
  struct ends e;
  struct lane l[2];

  ends_open (&e);
  for (int i = 0; i < 2; i++) {
    lane_open (&e, &l[i]);
    queues[i] = l[i].queue;
  }
  ck_assert_int_eq (fabric_wait (queues, 0, 0), 0);
  ck_assert_int_eq (fabric_wait (queues, 2, 0), 0);
  for (int i = 0; i < 2; i++) {
    check_round_trip (&e, &l[i], 4096);
    lane_close (&l[i]);
  }
  ends_close (&e);
}
END_TEST

START_TEST (test_two_queues_at_once)
{
  struct fabric_op ops[2][16];
  struct fabric_queue *queues[2];
  struct ends e[2];
  struct lane l[2];

  for (int i = 0; i < 2; i++) {
    ends_open (&e[i]);
    lane_open (&e[i], &l[i]);
    queues[i] = l[i].queue;
    fill_random (e[i].local, 16 * 4096);
  }
  for (size_t n = 0; n < 16; n++)
    for (int i = 0; i < 2; i++) {
      ops[i][n] = ends_op (&e[i], FABRIC_WRITE, n * 4096, n * 4096, 4096);
      ck_assert_int_eq (fabric_queue_post (queues[i], &ops[i][n]), 0);
    }
  ck_assert_int_eq (fabric_wait (queues, 2,
                                 fabric_now_ns () + ENDS_PATIENCE_NS), 0);
  for (int i = 0; i < 2; i++) {
    for (size_t n = 0; n < 16; n++)
      ck_assert (ops[i][n].done && ops[i][n].status == 0);
    ck_assert_mem_eq (e[i].memory, e[i].local, 16 * 4096);
    lane_close (&l[i]);
    ends_close (&e[i]);
  }
}
END_TEST

/* Looked at now and then, as by who has other things to do. */
START_TEST (test_await)
{
  struct fabric_op op;
  struct ends e;
  struct lane l;

  ends_open (&e);
  lane_open (&e, &l);
  for (int i = 0; i < 100; i++) {
    op = ends_op (&e, i % 2 ? FABRIC_READ : FABRIC_WRITE, 0, 0, 4096);
    fill_random (i % 2 ? e.memory : e.local, 4096);
    ck_assert_int_eq (fabric_queue_post (l.queue, &op), 0);
    if (i < 50)
      ck_assert (fabric_await (l.queue,
                               fabric_now_ns () + ENDS_PATIENCE_NS));
    else
      while (!fabric_await (l.queue, 0))
        ;
    ck_assert (op.done && op.status == 0);
    ck_assert_mem_eq (e.memory, e.local, 4096);
  }
  lane_close (&l);
  ends_close (&e);
}
END_TEST

START_TEST (test_broken_queue)
{
  struct fabric_op op;
  struct ends e;
  struct lane l;

  ends_open (&e);
  lane_open (&e, &l);
  op = ends_op (&e, FABRIC_WRITE, 0, 0, FABRIC_TRANSFER_MAX);
  if (_i == 1)
    ck_assert_int_eq (fabric_queue_post (l.queue, &op), 0);
  fabric_queue_break (l.queue);
  fabric_queue_break (l.queue);
  queue_wait (l.queue);
  ck_assert_int_lt (fabric_queue_post (l.queue, &op), 0);
  lane_close (&l);
  ends_close (&e);
}
END_TEST

struct worker {
  pthread_t thread;
  struct ends *e;
  struct lane *l;
  size_t at;                    /* its part of the memory */
  size_t bytes;
  atomic_uint rounds;           /* it got through */
  atomic_bool ended;
};

/* Write and read back until it fails; then nothing is outstanding.
 * Check's own assertions are for one thread at a time.
 */
static void *
work_until_error (void *arg)
{
  struct worker *w = arg;
  struct fabric_queue *q = w->l->queue;
  struct fabric_op ops[8];
  int status = 0;

  while (status == 0) {
    for (size_t i = 0; i < 8; i++) {
      ops[i] = ends_op (w->e, i % 2 ? FABRIC_READ : FABRIC_WRITE,
                        w->at, w->at, w->bytes);
      if (fabric_queue_post (q, &ops[i]) < 0) {
        ops[i].done = true;
        ops[i].status = -EIO;
      }
    }
    fabric_wait (&q, 1, fabric_now_ns () + ENDS_PATIENCE_NS);
    for (size_t i = 0; i < 8; i++) {
      assert (ops[i].done);
      status = status ?: ops[i].status;
    }
    atomic_fetch_add (&w->rounds, 1);
  }
  assert (q->outstanding == 0);
  atomic_store (&w->ended, true);
  return NULL;
}

static void
await_rounds (struct worker *w, unsigned n)
{
  while (atomic_load (&w->rounds) < n) {
    ck_assert (!atomic_load (&w->ended));
    sched_yield ();
  }
}

static void
start_worker (struct worker *w, struct ends *e, struct lane *l,
              size_t at, size_t bytes)
{
  *w = (struct worker) { .e = e, .l = l, .at = at, .bytes = bytes };
  ck_assert_int_eq (pthread_create (&w->thread, NULL, work_until_error, w),
                    0);
  await_rounds (w, 3);
}

START_TEST (test_break_from_another_thread)
{
  struct worker w;
  struct ends e;
  struct lane l;
  int64_t began_ns;

  ends_open (&e);
  for (int i = 0; i < 20; i++) {
    lane_open (&e, &l);
    start_worker (&w, &e, &l, 0, i % 2 ? FABRIC_TRANSFER_MAX : 4096);
    began_ns = fabric_now_ns ();
    fabric_queue_break (l.queue);
    pthread_join (w.thread, NULL);
    ck_assert_int_lt (fabric_now_ns () - began_ns, ENDS_PATIENCE_NS / 4);
    lane_close (&l);
  }
  ends_close (&e);
}
END_TEST

/* While writes are on their way; none lands afterwards. */
START_TEST (test_service_end)
{
  struct worker w;
  struct ends e;
  struct lane l;
  int64_t began_ns;

  ends_open (&e);
  for (int i = 0; i < 20; i++) {
    memset (e.local, i, ENDS_MEMORY_BYTES);
    lane_open (&e, &l);
    start_worker (&w, &e, &l, 0, FABRIC_TRANSFER_MAX);
    began_ns = fabric_now_ns ();
    fabric_service_end (l.service);
    l.service = NULL;
    ck_assert_int_lt (fabric_now_ns () - began_ns, ENDS_PATIENCE_NS / 4);
    memset (e.memory, 0xee, FABRIC_TRANSFER_MAX);
    pthread_join (w.thread, NULL);
    ck_assert (is_all (e.memory, FABRIC_TRANSFER_MAX, 0xee));
    lane_close (&l);
    ck_assert (is_all (e.memory, FABRIC_TRANSFER_MAX, 0xee));
  }
  ends_close (&e);
}
END_TEST

/* The whole donor goes, listener and all, with operations under way. */
START_TEST (test_donor_goes)
{
  struct worker w;
  struct ends e;
  struct lane l;
  uint8_t buf[FABRIC_MESSAGE_MAX];

  ends_open (&e);
  lane_open (&e, &l);
  start_worker (&w, &e, &l, 0, 4096);
  fabric_service_end (l.service);
  l.service = NULL;
  talker_close (&e.donor);
  pthread_join (w.thread, NULL);
  ck_assert_int_lt (talker_receive (&e.borrower, &e.donor, buf), 0);
  lane_close (&l);
  ends_close (&e);
}
END_TEST

/* The borrower goes first; its lane ends without it. */
START_TEST (test_borrower_goes)
{
  struct ends e;
  struct lane l;

  ends_open (&e);
  lane_open (&e, &l);
  check_round_trip (&e, &l, 4096);
  fabric_queue_free (l.queue);
  l.queue = NULL;
  talker_close (&e.borrower);
  fabric_service_end (l.service);
  l.service = NULL;
  ends_close (&e);
}
END_TEST

/* The session's domain outlives its control connection. */
START_TEST (test_lane_without_its_channel)
{
  struct ends e;
  struct lane l;

  ends_open (&e);
  lane_open (&e, &l);
  talker_close (&e.borrower);
  talker_close (&e.donor);
  check_round_trip (&e, &l, 4096);
  lane_close (&l);
  ends_close (&e);
}
END_TEST

START_TEST (test_lanes_in_parallel)
{
  enum { LANES = 4, BYTES = ENDS_MEMORY_BYTES / 8 };
  struct worker w[LANES];
  struct lane l[LANES];
  struct ends e;

  ends_open (&e);
  fill_random (e.local, ENDS_MEMORY_BYTES);
  for (int i = 0; i < LANES; i++) {
    lane_open (&e, &l[i]);
    start_worker (&w[i], &e, &l[i], i * BYTES, BYTES);
  }
  for (int i = 0; i < LANES; i++)
    await_rounds (&w[i], 50);
  for (int i = 0; i < LANES; i++)
    fabric_queue_break (l[i].queue);
  for (int i = 0; i < LANES; i++)
    pthread_join (w[i].thread, NULL);
  for (int i = 0; i < LANES; i++)
    lane_close (&l[i]);
  ends_close (&e);
}
END_TEST

static void
add_channel_tests (TCase *t)
{
  tcase_add_test (t, test_address_in_use);
  tcase_add_test (t, test_messages_of_all_lengths);
  tcase_add_test (t, test_message_of_impossible_length);
  tcase_add_test (t, test_many_messages_keep_their_order);
  tcase_add_test (t, test_messages_sent_before_it_stands);
  tcase_add_test (t, test_unsent_messages_are_bounded);
  tcase_add_loop_test (t, test_close_ends_the_other_end, 0, 2);
  tcase_add_test (t, test_channel_refused);
  tcase_add_test (t, test_channel_rejected);
}

static void
add_lane_tests (TCase *t)
{
  tcase_add_test (t, test_lane_refused);
  tcase_add_test (t, test_lane_rejected_after_its_preface);
  tcase_add_loop_test (t, test_connecting_abandoned, 0, 2);
  tcase_add_test (t, test_round_trips);
  tcase_add_test (t, test_whole_region_is_in_reach);
  tcase_add_test (t, test_operation_of_impossible_length);
  tcase_add_test (t, test_full_queue);
  tcase_add_test (t, test_full_queue_of_largest_operations);
  tcase_add_loop_test (t, test_out_of_range, 0,
                       sizeof outside / sizeof outside[0]);
  tcase_add_loop_test (t, test_wrong_key, 0, 5);
  tcase_add_test (t, test_key_of_another_domain);
  tcase_add_test (t, test_region_not_for_the_peer);
  tcase_add_test (t, test_removed_region);
  tcase_add_test (t, test_refusal_ends_what_is_behind_it);
}

static void
add_ending_tests (TCase *t)
{
  tcase_add_test (t, test_nothing_to_wait_for);
  tcase_add_test (t, test_two_queues_at_once);
  tcase_add_test (t, test_await);
  tcase_add_loop_test (t, test_broken_queue, 0, 2);
  tcase_add_test (t, test_break_from_another_thread);
  tcase_add_test (t, test_service_end);
  tcase_add_test (t, test_donor_goes);
  tcase_add_test (t, test_borrower_goes);
  tcase_add_test (t, test_lane_without_its_channel);
  tcase_add_test (t, test_lanes_in_parallel);
}

Suite *
conformance_suite (const struct fabric_ops *ops, const char *host)
{
  static void (*const add[]) (TCase *) = {
    add_channel_tests, add_lane_tests, add_ending_tests,
  };
  static const char *const names[] = { "channels", "lanes", "endings" };
  Suite *suite = suite_create (ops->name);

  ends_ops = ops;
  ends_host = host;
  /* Here, so that it says the seed once for all tests. */
  ends_random ();
  for (size_t i = 0; i < sizeof add / sizeof add[0]; i++) {
    TCase *t = tcase_create (names[i]);

    tcase_set_timeout (t, TEST_TIMEOUT_S);
    tcase_add_checked_fixture (t, setup, teardown);
    add[i] (t);
    suite_add_tcase (suite, t);
  }
  return suite;
}

int
conformance_run (Suite *suite)
{
  SRunner *runner = srunner_create (suite);
  int failed;

  srunner_run_all (runner, CK_ENV);
  failed = srunner_ntests_failed (runner);
  srunner_free (runner);
  return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
