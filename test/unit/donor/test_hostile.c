/* What a borrower can do to a donor with its bare hands, on tcp. */

#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fabric/tcp.h"
#include "test/unit/donor/peer.h"

struct frame {
  struct be32 length;
  uint8_t message[FABRIC_MESSAGE_MAX];
};

static size_t
make_frame (struct frame *f, const struct message *m)
{
  const int len = message_encode (m, f->message, sizeof f->message);

  ck_assert_int_gt (len, 0);
  f->length = be32_from (len);
  return sizeof f->length + len;
}

/* A socket that has sent this preface, and takes in little. */
static int
open_raw (struct donor *d, enum fabric_kind kind, uint64_t session,
          uint64_t token)
{
  const struct fabric_preface preface = { kind, session, token };
  struct wire_preface wire;
  const int fd = socket (AF_INET, SOCK_STREAM, 0), little = 4096;
  socklen_t len;
  const struct sockaddr *addr = server_address (d->server, &len);

  ck_assert_int_ge (fd, 0);
  setsockopt (fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
  ck_assert_int_eq (connect (fd, addr, len), 0);
  preface_encode (&preface, &wire);
  ck_assert_int_eq (send (fd, &wire, sizeof wire, 0), sizeof wire);
  return fd;
}

/* Receive all of it, while the donor goes on. */
static void
receive_raw (struct donor *d, int fd, void *buf, size_t size)
{
  size_t got = 0;
  ssize_t r;

  while (got < size) {
    r = recv (fd, (char *) buf + got, size - got, MSG_DONTWAIT);
    if (r > 0)
      got += r;
    else {
      ck_assert (r == -1 && errno == EAGAIN);
      g_main_context_iteration (d->context, FALSE);
    }
  }
}

/* A session over a raw control connection. */
static int
open_raw_session (struct donor *d)
{
  const int fd = open_raw (d, FABRIC_CONTROL, 0, 0);
  struct message m = { .type = MESSAGE_HELLO };
  struct frame f;

  m.hello.slab_size_bytes = SLAB_BYTES;
  m.hello.deadline_ns = 2000000000;
  ck_assert_int_ge (send (fd, &f, make_frame (&f, &m), 0), 0);
  receive_raw (d, fd, &f.length, sizeof f.length);
  receive_raw (d, fd, f.message, be32_get (f.length));
  ck_assert_int_eq (message_decode (f.message, be32_get (f.length), &m), 0);
  ck_assert_int_eq (m.type, MESSAGE_WELCOME);
  return fd;
}

/* Until all that was sent on fd, one half of a connection within this
 * process, has been taken in at the other.
 */
static void
wait_until_taken (int fd)
{
  struct sockaddr_in ours, theirs;
  int other = -1, r, waiting;
  socklen_t len = sizeof ours;

  ck_assert_int_eq (getsockname (fd, (struct sockaddr *) &ours, &len), 0);
  do {
    len = sizeof theirs;
    r = getpeername (++other, (struct sockaddr *) &theirs, &len);
    ck_assert_int_lt (other, 1024);
  } while (r == -1 || theirs.sin_family != AF_INET
           || theirs.sin_port != ours.sin_port);
  do
    ck_assert_int_eq (ioctl (other, FIONREAD, &waiting), 0);
  while (waiting > 0);
}

/* A lane with a WRITE of which only half the data ever comes: until the
 * lane ends the donor is inside the slab.
 */
static int
open_stuck_lane (struct donor *d, struct peer *p,
                 const struct message *mr_info)
{
  const int fd = open_raw (d, FABRIC_LANE, p->session, p->token);
  const struct wire_tcp_request request = {
    .type = be32_from (TCP_WRITE),
    .key = be64_from (mr_info->mr_info.key),
    .address = be64_from (mr_info->mr_info.address),
    .length = be32_from (4096),
  };
  const uint8_t half[2048] = { 0 };
  struct be32 answer;

  receive_raw (d, fd, &answer, sizeof answer);
  ck_assert_uint_eq (be32_get (answer), TCP_LANE_ACCEPTED);
  ck_assert_int_eq (send (fd, &request, sizeof request, 0), sizeof request);
  ck_assert_int_eq (send (fd, half, sizeof half, 0), sizeof half);
  wait_until_taken (fd);
  return fd;
}

/* Send all of it, while the donor goes on; false once it has hung up. */
static bool
send_raw (struct donor *d, int fd, const void *buf, size_t size)
{
  size_t sent = 0;
  ssize_t r;

  while (sent < size) {
    r = send (fd, (const char *) buf + sent, size - sent,
              MSG_DONTWAIT | MSG_NOSIGNAL);
    if (r == -1 && errno != EAGAIN)
      return false;
    if (r > 0)
      sent += r;
    else
      g_main_context_iteration (d->context, FALSE);
  }
  return true;
}

START_TEST (a_borrower_that_does_not_read_is_ended)
{
  struct message m = { .type = MESSAGE_QUERY_MEM };
  struct donor d;
  struct peer other;
  struct frame f;
  unsigned i;
  size_t len;
  int fd;

  donor_start (&d, NULL);
  peer_begin (&other, &d, 1);
  fd = open_raw_session (&d);
  len = make_frame (&f, &m);
  /* Meanwhile others are served. */
  for (i = 0; send_raw (&d, fd, &f, len); i++)
    if (i % 4096 == 0)
      peer_query (&other, &m);
  ck_assert_int_eq (donor_number (&d, "counters", "sessions_ended"), 1);
  peer_query (&other, &m);
  close (fd);
  peer_close (&other);
  donor_stop (&d);
}
END_TEST

START_TEST (unmap_during_an_access_ends_the_session)
{
  struct message mr_info, m = { .type = MESSAGE_UNMAP };
  struct donor d;
  struct peer p;
  int fd;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 0, &mr_info), MESSAGE_MR_INFO);
  fd = open_stuck_lane (&d, &p, &mr_info);
  m.unmap.grant = mr_info.mr_info.grant;
  peer_send (&p, &m);
  peer_expect_end (&p);
  ck_assert_int_eq (donor_number (&d, "slabs", "lent"), 0);
  ck_assert_int_eq (donor_number (&d, "counters", "unmaps"), 0);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 1);
  close (fd);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

static void
ignore (void *unused)
{
  (void) unused;
}

/* A borrower with one grant that has got EVICT for it. */
static void
begin_evicted (struct donor *d, struct peer *p, struct message *mr_info,
               struct message *evict)
{
  donor_start (d, NULL);
  peer_begin (p, d, 1);
  ck_assert_int_eq (peer_map (p, 0, mr_info), MESSAGE_MR_INFO);
  server_stop (d->server, ignore, NULL);
  peer_receive_evict (p, evict, 1);
  ck_assert_uint_eq (evict->grants.grants[0], mr_info->mr_info.grant);
}

START_TEST (done_during_an_access_ends_the_session)
{
  struct message mr_info, m;
  struct donor d;
  struct peer p;
  int fd;

  begin_evicted (&d, &p, &mr_info, &m);
  fd = open_stuck_lane (&d, &p, &mr_info);
  peer_done (&p, m.id, mr_info.mr_info.grant);
  peer_expect_end (&p);
  ck_assert_int_eq (donor_number (&d, "slabs", "lent"), 0);
  ck_assert_int_eq (donor_number (&d, "slabs", "evicting"), 0);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 1);
  close (fd);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* In every way there is, while it cannot be revoked yet. */
START_TEST (a_grant_is_taken_back_once)
{
  struct message mr_info, evict, unmap = { .type = MESSAGE_UNMAP }, m;
  struct donor d;
  struct peer p;
  int fd;

  begin_evicted (&d, &p, &mr_info, &evict);
  fd = open_stuck_lane (&d, &p, &mr_info);
  peer_done (&p, evict.id, mr_info.mr_info.grant);
  peer_done (&p, evict.id, mr_info.mr_info.grant);
  unmap.unmap.grant = mr_info.mr_info.grant;
  peer_send (&p, &unmap);
  peer_done (&p, evict.id, mr_info.mr_info.grant);
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.slabs_lent, 1);
  close (fd);
  ck_assert_int_eq (peer_receive (&p, &m), 0);
  ck_assert_int_eq (m.type, MESSAGE_DONE);
  ck_assert_uint_eq (m.id, unmap.id);
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.slabs_lent, 0);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_done"), 1);
  ck_assert_int_eq (donor_number (&d, "counters", "unmaps"), 1);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* UNMAP and DONE of a slab that cannot be revoked yet: once each. */
START_TEST (unmap_twice_is_one_too_many)
{
  struct message mr_info, m;
  struct donor d;
  struct peer p;
  int fd;

  begin_evicted (&d, &p, &mr_info, &m);
  fd = open_stuck_lane (&d, &p, &mr_info);
  peer_done (&p, m.id, mr_info.mr_info.grant);
  peer_done (&p, m.id, mr_info.mr_info.grant);
  m = (struct message) { .type = MESSAGE_UNMAP };
  m.unmap.grant = mr_info.mr_info.grant;
  peer_send (&p, &m);
  peer_query (&p, &m);
  m = (struct message) { .type = MESSAGE_UNMAP };
  m.unmap.grant = mr_info.mr_info.grant;
  peer_send (&p, &m);
  peer_expect_end (&p);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 1);
  close (fd);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* What no EVICT asked for: an id that it did not have, and grants that
 * nobody has had.  (Ids are relative to EVICT's, grants to its own.)
 */
static const struct { int64_t id, grant; } lies[] = {
  { 1, 0 }, { -1, 0 }, { INT64_MIN, 0 }, { INT64_MAX, 0 },
  { 0, 1 }, { 0, -1 }, { 0, INT64_MIN },
};

START_TEST (done_that_nobody_asked_for_ends_the_session)
{
  struct message mr_info, m;
  struct donor d;
  struct peer p;

  begin_evicted (&d, &p, &mr_info, &m);
  peer_done (&p, m.id + lies[_i].id, m.grants.grants[0] + lies[_i].grant);
  peer_expect_end (&p);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 1);
  ck_assert_int_eq (donor_number (&d, "slabs", "lent"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (done_of_what_is_gone_is_ignored)
{
  struct message mr_info, m, answer;
  struct donor d;
  struct peer p;
  unsigned i;

  begin_evicted (&d, &p, &mr_info, &m);
  for (i = 0; i < 3; i++)
    peer_done (&p, m.id, mr_info.mr_info.grant);
  peer_query (&p, &answer);
  ck_assert_uint_eq (answer.free_mem.slabs_lent, 0);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_done"), 1);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* One demanded of two: DONE of the other one as well. */
START_TEST (done_of_a_grant_that_evict_did_not_name)
{
  g_autofree char *error = NULL;
  struct message m;
  struct donor d;
  struct peer p;

  donor_start (&d, "--evict-extra=0", NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_map (&p, 1, &m), MESSAGE_MR_INFO);
  json_object_unref (donor_ask (&d, "evict 1", &error));
  peer_receive_evict (&p, &m, 1);
  peer_done (&p, m.id, 3 - m.grants.grants[0]);
  peer_expect_end (&p);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 1);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* A borrower with two grants that has been asked about both. */
static void
begin_asked (struct donor *d, struct peer *p, struct message *check)
{
  g_autofree char *error = NULL;
  struct message m;

  donor_start (d, NULL);
  peer_begin (p, d, 1);
  ck_assert_int_eq (peer_map (p, 0, &m), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_map (p, 1, &m), MESSAGE_MR_INFO);
  json_object_unref (donor_ask (d, "evict 1", &error));
  peer_receive_check (p, check, 2);
}

START_TEST (activity_that_nobody_asked_for_ends_the_session)
{
  static const int64_t off[] = { 1, -1, INT64_MIN, INT64_MAX };
  struct message check;
  struct donor d;
  struct peer p;

  begin_asked (&d, &p, &check);
  check.id += off[_i];
  peer_activity (&p, &check, 0);
  peer_expect_end (&p);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 1);
  ck_assert_int_eq (donor_number (&d, "slabs", "evicting"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* Grants it was not asked about, in as many pairs as there can be, and
 * activities that are no help.
 */
START_TEST (activity_may_say_anything)
{
  static const uint64_t grants[] = { 0, 1, 3, UINT64_MAX };
  struct message m = { .type = MESSAGE_ACTIVITY }, check;
  struct donor d;
  struct peer p;
  uint32_t i;

  begin_asked (&d, &p, &check);
  m.id = check.id;
  m.activity.count = MESSAGE_GRANTS_MAX;
  for (i = 0; i < MESSAGE_GRANTS_MAX; i++) {
    m.activity.of[i].grant = grants[i % G_N_ELEMENTS (grants)];
    m.activity.of[i].activity_milli = UINT64_MAX;
  }
  peer_answer (&p, &m);
  peer_receive_evict (&p, &m, 1);
  ck_assert_uint_eq (m.grants.grants[0], 2);
  peer_done (&p, m.id, 2);
  donor_wait_number (&d, "slabs", "lent", 1);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (late_activity_is_ignored)
{
  struct message check, m;
  struct donor d;
  struct peer p;
  unsigned i;

  begin_asked (&d, &p, &check);
  peer_receive_evict (&p, &m, 1);
  for (i = 0; i < 3; i++)
    peer_activity (&p, &check, 1);
  peer_query (&p, &m);
  ck_assert_int_eq (donor_number (&d, "counters", "activity_unanswered"), 1);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 0);
  ck_assert_int_eq (donor_number (&d, "slabs", "evicting"), 1);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* Another borrower's grants are gone for all it knows. */
START_TEST (done_of_another_borrowers_grant_does_nothing)
{
  struct message mr_info, other, m;
  struct donor d;
  struct peer p, q;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  peer_begin (&q, &d, 2);
  ck_assert_int_eq (peer_map (&q, 0, &other), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_map (&p, 0, &mr_info), MESSAGE_MR_INFO);
  server_stop (d.server, ignore, NULL);
  peer_receive_evict (&p, &m, 1);
  peer_done (&p, m.id, other.mr_info.grant);
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.slabs_lent, 2);
  ck_assert_int_eq (donor_number (&d, "slabs", "evicting"), 2);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

START_TEST (a_stuck_lane_does_not_hold_memory)
{
  struct message mr_info;
  struct donor d;
  struct peer p, q;
  int fd;

  donor_start (&d, "--memory=1M", NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 0, &mr_info), MESSAGE_MR_INFO);
  fd = open_stuck_lane (&d, &p, &mr_info);
  peer_close (&p);
  donor_wait_number (&d, "slabs", "lent", 0);
  peer_begin (&q, &d, 2);
  ck_assert_int_eq (peer_map (&q, 0, &mr_info), MESSAGE_MR_INFO);
  close (fd);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

/* Stops in the middle of a message, and is silent from then on. */
START_TEST (half_a_message_is_silence)
{
  struct message m = { .type = MESSAGE_QUERY_MEM };
  struct donor d;
  struct frame f;
  size_t len;
  int fd;

  donor_start (&d, "--deadline=1ms", NULL);
  fd = open_raw_session (&d);
  len = make_frame (&f, &m);
  ck_assert_int_eq (send (fd, &f, len - 1, 0), len - 1);
  donor_wait_number (&d, "counters", "sessions_ended", 1);
  close (fd);
  donor_stop (&d);
}
END_TEST

/* A length that no message has. */
static const uint32_t lengths[] = { 0, FABRIC_MESSAGE_MAX + 1, UINT32_MAX };

START_TEST (an_impossible_length_ends_the_session)
{
  const struct be32 length = be32_from (lengths[_i]);
  struct donor d;
  int fd;

  donor_start (&d, NULL);
  fd = open_raw_session (&d);
  ck_assert_int_eq (send (fd, &length, sizeof length, 0), sizeof length);
  donor_wait_number (&d, "counters", "sessions_ended", 1);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 1);
  close (fd);
  donor_stop (&d);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("hostile");
  TCase *tc = tcase_create ("tcp");
  SRunner *sr;
  int failed;

  tcase_set_timeout (tc, 120);
  tcase_add_test (tc, a_borrower_that_does_not_read_is_ended);
  tcase_add_test (tc, unmap_during_an_access_ends_the_session);
  tcase_add_test (tc, done_during_an_access_ends_the_session);
  tcase_add_test (tc, a_grant_is_taken_back_once);
  tcase_add_test (tc, unmap_twice_is_one_too_many);
  tcase_add_loop_test (tc, done_that_nobody_asked_for_ends_the_session,
                       0, G_N_ELEMENTS (lies));
  tcase_add_test (tc, done_of_what_is_gone_is_ignored);
  tcase_add_test (tc, done_of_a_grant_that_evict_did_not_name);
  tcase_add_test (tc, done_of_another_borrowers_grant_does_nothing);
  tcase_add_loop_test (tc, activity_that_nobody_asked_for_ends_the_session,
                       0, 4);
  tcase_add_test (tc, activity_may_say_anything);
  tcase_add_test (tc, late_activity_is_ignored);
  tcase_add_test (tc, a_stuck_lane_does_not_hold_memory);
  tcase_add_test (tc, half_a_message_is_silence);
  tcase_add_loop_test (tc, an_impossible_length_ends_the_session,
                       0, G_N_ELEMENTS (lengths));
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
