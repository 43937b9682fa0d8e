/* Borrowers, honest and other, against a donor over tcp. */

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "conf/units.h"
#include "test/unit/donor/peer.h"

static const uint64_t second_ns = 1000000000;

START_TEST (hello_is_welcomed)
{
  struct donor d;
  struct peer p;
  struct message m;

  donor_start (&d, "--memory=8M", "--ready=1", NULL);
  peer_connect (&p, &d);
  ck_assert_int_eq (peer_hello_with (&p, 1, SLAB_BYTES, second_ns, &m),
                    MESSAGE_WELCOME);
  ck_assert_uint_ne (m.welcome.session, 0);
  ck_assert_uint_eq (m.welcome.slab_size_bytes, SLAB_BYTES);
  ck_assert_uint_eq (m.welcome.free_bytes, 8 << 20);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

static void
check_refused (const struct message *m, const char *reason)
{
  ck_assert_int_eq (m->type, MESSAGE_REFUSED);
  ck_assert_msg (strstr (m->refused.reason, reason), "%s",
                 m->refused.reason);
}

START_TEST (another_slab_size_is_refused)
{
  struct donor d;
  struct peer p;
  struct message m;

  donor_start (&d, NULL);
  peer_connect (&p, &d);
  peer_hello_with (&p, 1, 64 << 20, second_ns, &m);
  check_refused (&m, "slab size 64M, this donor lends 1M");
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (another_version_is_refused)
{
  struct message hello = { .type = MESSAGE_HELLO, .id = 7 }, m;
  uint8_t buf[FABRIC_MESSAGE_MAX];
  struct donor d;
  struct peer p;
  int len;

  donor_start (&d, NULL);
  peer_connect (&p, &d);
  len = message_encode (&hello, buf, sizeof buf);
  buf[5] = 200;
  peer_send_raw (&p, buf, len);
  ck_assert_int_eq (peer_receive (&p, &m), 0);
  check_refused (&m, "version 200, this donor speaks version 1");
  ck_assert_uint_eq (m.id, 7);
  /* The donor hangs up by itself. */
  peer_expect_end (&p);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (senseless_deadlines_are_refused)
{
  static const uint64_t deadlines_ns[] = { 0, 999999, UINT64_C (60000000001),
                                           UINT64_MAX };
  struct donor d;
  struct peer p;
  struct message m;
  size_t i;

  donor_start (&d, NULL);
  for (i = 0; i < G_N_ELEMENTS (deadlines_ns); i++) {
    peer_connect (&p, &d);
    peer_hello_with (&p, 1, SLAB_BYTES, deadlines_ns[i], &m);
    check_refused (&m, "allowed are 1ms to 60s");
    peer_close (&p);
  }
  peer_connect (&p, &d);
  ck_assert_int_eq (peer_hello_with (&p, 1, SLAB_BYTES, 60 * second_ns, &m),
                    MESSAGE_WELCOME);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (too_many_borrowers_are_refused)
{
  struct donor d;
  struct peer a, b, c;
  struct message m;

  donor_start (&d, "--max-borrowers=2", NULL);
  peer_begin (&a, &d, 1);
  peer_begin (&b, &d, 2);
  peer_connect (&c, &d);
  peer_hello_with (&c, 3, SLAB_BYTES, second_ns, &m);
  check_refused (&m, "at most 2");
  peer_close (&c);

  peer_close (&a);
  donor_wait_number (&d, "counters", "sessions_ended", 1);
  peer_begin (&c, &d, 3);
  peer_close (&b);
  peer_close (&c);
  donor_stop (&d);
}
END_TEST

/* The earlier session is over, with all it had, when the new one is
 * welcomed; it does not even count any more.
 */
START_TEST (a_device_has_one_session)
{
  struct donor d;
  struct peer a, b;
  struct peer_lane lane;
  struct message m;

  donor_start (&d, "--max-borrowers=1", "--memory=1M", "--ready=1", NULL);
  peer_begin (&a, &d, 1);
  ck_assert_int_eq (peer_map (&a, 0, &m), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_lane_open (&lane, &a), 0);

  peer_begin (&b, &d, 1);
  ck_assert_uint_ne (a.session, b.session);
  peer_expect_end (&a);
  ck_assert_int_lt (peer_lane_io (&lane, FABRIC_WRITE, &m, 0, 4096), 0);
  ck_assert_int_eq (peer_map (&b, 0, &m), MESSAGE_MR_INFO);
  peer_lane_close (&lane);
  peer_close (&a);
  peer_close (&b);
  donor_stop (&d);
}
END_TEST

/* Its sender has given it up, and has a session already. */
START_TEST (a_hello_that_was_held_up_ends_no_session)
{
  struct donor d;
  struct peer a, late;
  struct message m;

  donor_start (&d, NULL);
  peer_connect (&a, &d);
  a.last_id = 10;
  ck_assert_int_eq (peer_hello (&a, 1), MESSAGE_WELCOME);
  ck_assert_int_eq (peer_map (&a, 0, &m), MESSAGE_MR_INFO);
  peer_connect (&late, &d);
  late.last_id = 8;
  ck_assert_int_eq (peer_hello (&late, 1), MESSAGE_REFUSED);
  ck_assert_int_eq (peer_map (&a, 1, &m), MESSAGE_MR_INFO);
  peer_close (&late);
  peer_close (&a);
  donor_stop (&d);
}
END_TEST

START_TEST (memory_runs_out)
{
  struct donor d;
  struct peer p;
  struct message grants[3], m;
  uint64_t i;

  donor_start (&d, "--memory=3M", "--ready=1", NULL);
  peer_begin (&p, &d, 1);
  for (i = 0; i < 3; i++) {
    ck_assert_int_eq (peer_map (&p, i, &grants[i]), MESSAGE_MR_INFO);
    ck_assert_uint_eq (grants[i].mr_info.length_bytes, SLAB_BYTES);
    peer_query (&p, &m);
    ck_assert_uint_eq (m.free_mem.slabs_lent, i + 1);
    ck_assert_uint_eq (m.free_mem.free_bytes, (2 - i) * SLAB_BYTES);
  }
  peer_map (&p, 3, &m);
  check_refused (&m, "--memory 3M");
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.slabs_lent, 3);
  ck_assert_int_eq (donor_number (&d, "counters", "maps_refused"), 1);

  /* What is given back can be had again, under another grant. */
  peer_unmap (&p, grants[1].mr_info.grant);
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.slabs_lent, 2);
  ck_assert_uint_eq (m.free_mem.free_bytes, SLAB_BYTES);
  ck_assert_int_eq (peer_map (&p, 3, &m), MESSAGE_MR_INFO);
  ck_assert_uint_gt (m.mr_info.grant, grants[2].mr_info.grant);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (a_borrower_that_left_leaves_nothing_behind)
{
  struct donor d;
  struct peer p, q;
  struct peer_lane lane;
  struct message m;

  donor_start (&d, "--memory=2M", NULL);
  peer_begin (&p, &d, 1);
  peer_map (&p, 0, &m);
  peer_map (&p, 1, &m);
  ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
  ck_assert_int_eq (peer_lane_io (&lane, FABRIC_WRITE, &m, 0, 4096), 0);
  peer_close (&p);
  donor_wait_number (&d, "slabs", "lent", 0);

  peer_begin (&q, &d, 2);
  ck_assert_int_eq (peer_map (&q, 0, &m), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_map (&q, 1, &m), MESSAGE_MR_INFO);
  peer_lane_close (&lane);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

/* All of the slab is read, and then filled for the next round. */
static void
check_zero_and_soil (struct peer_lane *lane, const struct message *mr_info)
{
  const char *p = lane->buffer;
  uint64_t offset;

  for (offset = 0; offset < SLAB_BYTES; offset += FABRIC_TRANSFER_MAX) {
    ck_assert_int_eq (peer_lane_io (lane, FABRIC_READ, mr_info, offset,
                                    FABRIC_TRANSFER_MAX), 0);
    ck_assert (p[0] == 0 && memcmp (p, p + 1, FABRIC_TRANSFER_MAX - 1) == 0);
    memset (lane->buffer, 0x5a, FABRIC_TRANSFER_MAX);
    ck_assert_int_eq (peer_lane_io (lane, FABRIC_WRITE, mr_info, offset,
                                    FABRIC_TRANSFER_MAX), 0);
  }
}

START_TEST (memory_is_zero_when_lent_again)
{
  struct donor d;
  struct peer p;
  struct peer_lane lane;
  struct message m;
  unsigned i;

  donor_start (&d, "--memory=1M", NULL);
  for (i = 0; i < 6; i++) {
    peer_begin (&p, &d, 1);
    ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
    ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
    check_zero_and_soil (&lane, &m);
    peer_unmap (&p, m.mr_info.grant);
    ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
    check_zero_and_soil (&lane, &m);
    peer_lane_close (&lane);
    peer_close (&p);
    donor_wait_number (&d, "slabs", "lent", 0);
  }
  donor_stop (&d);
}
END_TEST

START_TEST (grants_end_with_unmap)
{
  struct donor d;
  struct peer p;
  struct peer_lane lane;
  struct message m;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  peer_unmap (&p, m.mr_info.grant);
  ck_assert_int_lt (peer_lane_io (&lane, FABRIC_WRITE, &m, 0, 4096), 0);
  peer_lane_close (&lane);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (a_borrower_reaches_its_own_slabs_only)
{
  struct donor d;
  struct peer p, q;
  struct peer_lane lane;
  struct message m;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  peer_begin (&q, &d, 2);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_lane_open (&lane, &q), 0);
  ck_assert_int_lt (peer_lane_io (&lane, FABRIC_READ, &m, 0, 4096), 0);
  peer_lane_close (&lane);

  ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
  ck_assert_int_eq (peer_lane_io (&lane, FABRIC_READ, &m, 0, 4096), 0);
  peer_lane_close (&lane);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

START_TEST (a_slab_is_mapped_once)
{
  struct donor d;
  struct peer p;
  struct message m, again;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 5, &m), MESSAGE_MR_INFO);
  peer_map (&p, 5, &again);
  check_refused (&again, "mapped already");
  peer_unmap (&p, m.mr_info.grant);
  ck_assert_int_eq (peer_map (&p, 5, &m), MESSAGE_MR_INFO);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (unmap_of_an_unknown_grant_is_done)
{
  struct donor d;
  struct peer p;
  struct message m;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  peer_unmap (&p, 12345);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  peer_unmap (&p, m.mr_info.grant);
  peer_unmap (&p, m.mr_info.grant);
  ck_assert_int_eq (donor_number (&d, "counters", "unmaps"), 1);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* Nor can one borrower end another's grant. */
START_TEST (grants_belong_to_their_session)
{
  struct donor d;
  struct peer p, q;
  struct message m;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  peer_begin (&q, &d, 2);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  peer_unmap (&q, m.mr_info.grant);
  ck_assert_int_eq (donor_number (&d, "slabs", "lent"), 1);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

START_TEST (one_borrower_gets_no_more_than_its_share)
{
  struct donor d;
  struct peer p, q;
  struct message m;

  donor_start (&d, "--memory=8M", "--max-per-borrower=2M", NULL);
  peer_begin (&p, &d, 1);
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.free_bytes, 2 << 20);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_map (&p, 1, &m), MESSAGE_MR_INFO);
  peer_map (&p, 2, &m);
  check_refused (&m, "--max-per-borrower");
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.free_bytes, 0);
  peer_begin (&q, &d, 2);
  peer_query (&q, &m);
  ck_assert_uint_eq (m.free_mem.free_bytes, 2 << 20);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

/* 1 GiB, of which 1022 MiB stay: two slabs can be lent. */
START_TEST (the_headroom_stays_free)
{
  struct donor d;
  struct peer p;
  struct message m;

  donor_start (&d, "--headroom=1022M", "--ready=4", NULL);
  peer_begin (&p, &d, 1);
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.free_bytes, 2 << 20);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_map (&p, 1, &m), MESSAGE_MR_INFO);
  peer_map (&p, 2, &m);
  check_refused (&m, "headroom of 1022M");
  ck_assert_int_eq (donor_number (&d, "memory", "held_bytes"), 2 << 20);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* What others use counts at the next sample; smoothing 1 takes it as it
 * is.
 */
START_TEST (lending_follows_the_use_of_the_node)
{
  struct donor d;
  struct peer p;
  struct message m;

  donor_start (&d, "--headroom=1000M", "--ready=0", "--smoothing=1", NULL);
  peer_begin (&p, &d, 1);
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.free_bytes, 24 << 20);
  donor_set_node (&d, 1 << 30, 1004 << 20);
  donor_wait_number (&d, "memory", "would_lend_bytes", 4 << 20);
  donor_wait_number (&d, "memory", "used_by_others_bytes", 20 << 20);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (nothing_ready_is_waited_for)
{
  struct donor d;
  struct peer p;
  struct message m = { .type = MESSAGE_MAP };
  unsigned i;

  donor_start (&d, "--ready=0", "--memory=8M", NULL);
  peer_begin (&p, &d, 1);
  /* All are under way before the first is answered. */
  for (i = 0; i < 8; i++) {
    m.map.slab = i;
    m.type = MESSAGE_MAP;
    peer_send (&p, &m);
  }
  for (i = 0; i < 8; i++) {
    ck_assert_int_eq (peer_receive (&p, &m), 0);
    ck_assert_int_eq (m.type, MESSAGE_MR_INFO);
    ck_assert_uint_eq (m.id, 2 + i);
  }
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.slabs_lent, 8);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (a_lane_proves_that_it_belongs)
{
  struct donor d;
  struct peer p, q;
  struct peer_lane lane;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  peer_begin (&q, &d, 2);
  ck_assert_int_lt (peer_lane_open_with (&lane, &p, p.session, p.token ^ 1),
                    0);
  ck_assert_int_lt (peer_lane_open_with (&lane, &p, p.session, q.token), 0);
  ck_assert_int_lt (peer_lane_open_with (&lane, &p, p.session + 1, p.token),
                    0);
  ck_assert_int_lt (peer_lane_open_with (&lane, &p, 0, 0), 0);
  ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
  peer_lane_close (&lane);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

START_TEST (lanes_are_bounded)
{
  struct peer_lane lanes[128], more;
  struct donor d;
  struct peer p;
  unsigned i;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  for (i = 0; i < G_N_ELEMENTS (lanes); i++)
    ck_assert_int_eq (peer_lane_open (&lanes[i], &p), 0);
  ck_assert_int_lt (peer_lane_open (&more, &p), 0);
  for (i = 0; i < G_N_ELEMENTS (lanes); i++)
    peer_lane_close (&lanes[i]);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* What a borrower may not say once its session stands. */
static const enum message_type unexpected[] = {
  MESSAGE_HELLO, MESSAGE_WELCOME, MESSAGE_REFUSED, MESSAGE_FREE_MEM,
  MESSAGE_MR_INFO, MESSAGE_DONE, MESSAGE_CHECK_ACTIVITY, MESSAGE_ACTIVITY,
  MESSAGE_EVICT, MESSAGE_PONG,
};

static void
check_ends_only_this (const struct message *bad, bool greeted)
{
  struct donor d;
  struct peer p, other;
  struct message m;

  donor_start (&d, NULL);
  peer_begin (&other, &d, 1);
  ck_assert_int_eq (peer_map (&other, 0, &m), MESSAGE_MR_INFO);
  if (greeted) {
    peer_begin (&p, &d, 2);
    ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  }
  else
    peer_connect (&p, &d);
  if (bad) {
    m = *bad;
    peer_send (&p, &m);
  }
  else
    peer_send_raw (&p, "malformed", 9);
  peer_expect_end (&p);
  ck_assert_int_eq (donor_number (&d, "counters", "messages_bad"), 1);
  ck_assert_int_eq (donor_number (&d, "counters", "sessions_ended"),
                    greeted ? 1 : 0);
  peer_query (&other, &m);
  ck_assert_uint_eq (m.free_mem.slabs_lent, 1);
  peer_close (&p);
  peer_close (&other);
  donor_stop (&d);
}

START_TEST (an_unexpected_message_ends_its_session)
{
  check_ends_only_this (&(struct message) { .type = unexpected[_i] }, true);
}
END_TEST

START_TEST (a_malformed_message_ends_its_session)
{
  check_ends_only_this (NULL, true);
  check_ends_only_this (NULL, false);
}
END_TEST

START_TEST (the_first_message_is_hello)
{
  check_ends_only_this (&(struct message) { .type = MESSAGE_PING }, false);
  check_ends_only_this (&(struct message) { .type = MESSAGE_MAP }, false);
}
END_TEST

START_TEST (ping_is_answered)
{
  struct message m = { .type = MESSAGE_PING };
  struct donor d;
  struct peer p;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  peer_call (&p, &m);
  ck_assert_int_eq (m.type, MESSAGE_PONG);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* The shortest there is: the borrower's own, plus a second. */
START_TEST (a_silent_borrower_is_ended_by_its_deadline)
{
  struct donor d;
  struct peer p;
  struct message m;
  int64_t began_ns, took_ns;

  donor_start (&d, "--deadline=1ms", NULL);
  peer_connect (&p, &d);
  p.mute = true;
  began_ns = fabric_now_ns ();
  ck_assert_int_eq (peer_hello_with (&p, 1, SLAB_BYTES, 1000000, &m),
                    MESSAGE_WELCOME);
  peer_expect_end (&p);
  took_ns = fabric_now_ns () - began_ns;
  ck_assert_int_ge (took_ns, 1000000000);
  ck_assert_int_le (took_ns, 2000000000);
  ck_assert_uint_ge (p.pings, 3);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

static gboolean
has_come (gpointer flag)
{
  *(bool *) flag = true;
  return G_SOURCE_REMOVE;
}

START_TEST (an_idle_borrower_that_answers_stays)
{
  struct donor d;
  struct peer p;
  struct message m;
  bool over = false;
  GSource *later = g_timeout_source_new (2500);

  donor_start (&d, "--deadline=1ms", NULL);
  peer_connect (&p, &d);
  ck_assert_int_eq (peer_hello_with (&p, 1, SLAB_BYTES, 1000000, &m),
                    MESSAGE_WELCOME);
  g_source_set_callback (later, has_come, &over, NULL);
  g_source_attach (later, d.context);
  /* Only messages make the borrower answer PINGs: ask now and then. */
  while (!over) {
    peer_query (&p, &m);
    donor_turn (&d);
  }
  ck_assert_int_eq (donor_number (&d, "counters", "sessions_ended"), 0);
  g_source_unref (later);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (hello_is_not_awaited_for_ever)
{
  struct donor d;
  struct peer p;
  const int64_t began_ns = fabric_now_ns ();

  donor_start (&d, NULL);
  peer_connect (&p, &d);
  peer_expect_end (&p);
  ck_assert_int_ge (fabric_now_ns () - began_ns, 4900000000);
  ck_assert_int_le (fabric_now_ns () - began_ns, 7000000000);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* More than are kept: the first is dropped long before its time to say
 * HELLO is over, and an honest borrower that comes last is served.
 */
START_TEST (a_crowd_that_says_nothing_keeps_nobody_out)
{
  enum { CROWD = 100 };
  struct peer crowd[CROWD], p;
  struct message m;
  struct donor d;
  int64_t began_ns;
  uint8_t buf[FABRIC_MESSAGE_MAX];
  unsigned i, turns;

  donor_start (&d, NULL);
  for (i = 0; i < CROWD; i++) {
    peer_connect (&crowd[i], &d);
    /* Sends what the fabric wants first, so that only HELLO is missing. */
    fabric_channel_receive (crowd[i].channel, buf, sizeof buf);
    for (turns = 0; turns < 4; turns++)
      g_main_context_iteration (d.context, FALSE);
  }
  began_ns = fabric_now_ns ();
  peer_begin (&p, &d, 1);
  peer_expect_end (&crowd[0]);
  ck_assert_int_le (fabric_now_ns () - began_ns, 4000000000);
  for (i = 0; i < CROWD; i++)
    peer_close (&crowd[i]);
  peer_query (&p, &m);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (status_shows_what_there_is)
{
  struct donor d;
  struct peer p;
  struct peer_lane lane;
  struct message m;
  JsonObject *status, *session;
  JsonArray *sessions;

  donor_start (&d, "--memory=4M", "--ready=1", NULL);
  peer_begin (&p, &d, 0xab);
  ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  donor_wait_number (&d, "slabs", "ready", 1);
  status = donor_status (&d);
  ck_assert_str_eq (json_object_get_string_member (status, "kind"), "donor");
  ck_assert_str_eq (json_object_get_string_member (status, "version"),
                    ISW_VERSION);
  ck_assert_str_eq (json_object_get_string_member (
    json_object_get_object_member (status, "config"), "memory"), "4M");
  sessions = json_object_get_array_member (status, "sessions");
  ck_assert_uint_eq (json_array_get_length (sessions), 1);
  session = json_array_get_object_element (sessions, 0);
  ck_assert_str_eq (json_object_get_string_member (session, "device"),
                    "abababababababababababababababab");
  ck_assert_str_eq (json_object_get_string_member (session, "fabric"), "tcp");
  ck_assert_int_eq (json_object_get_int_member (session, "lanes"), 1);
  ck_assert_int_eq (json_object_get_int_member (session, "slabs"), 1);
  ck_assert_int_eq (json_object_get_int_member (session, "deadline_ms"),
                    3000);
  json_object_unref (status);

  ck_assert_int_eq (donor_number (&d, "memory", "lent_bytes"), 1 << 20);
  ck_assert_int_eq (donor_number (&d, "memory", "held_bytes"), 2 << 20);
  ck_assert_int_eq (donor_number (&d, "memory", "limit_bytes"), 4 << 20);
  ck_assert_int_eq (donor_number (&d, "memory", "would_lend_bytes"), 3 << 20);
  ck_assert_int_eq (donor_number (&d, "memory", "total_bytes"), 1 << 30);
  ck_assert_int_eq (donor_number (&d, "memory", "available_bytes"), 1 << 30);
  ck_assert_int_eq (donor_number (&d, "memory", "headroom_bytes"), 0);
  ck_assert_int_eq (donor_number (&d, "memory", "pressure_events"), 0);
  ck_assert_int_eq (donor_number (&d, "counters", "sessions_started"), 1);
  ck_assert_int_eq (donor_number (&d, "counters", "maps"), 1);
  peer_lane_close (&lane);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (a_quiet_borrower_has_a_slab_reserved)
{
  struct message m[2], last;
  struct peer_lane lane;
  struct donor d;
  struct peer p;
  int i;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
  for (i = 0; i < 2; i++) {
    donor_wait_number (&d, "slabs", "reserved", 1);
    ck_assert_int_eq (peer_map (&p, i, &m[i]), MESSAGE_MR_INFO);
    ck_assert_int_eq (donor_number (&d, "slabs", "reserved"), 0);
    memset (lane.buffer, 'x', FABRIC_TRANSFER_MAX);
    ck_assert_int_eq (peer_lane_io (&lane, FABRIC_READ, &m[i], 0,
                                    FABRIC_TRANSFER_MAX), 0);
    ck_assert_int_eq (((char *) lane.buffer)[FABRIC_TRANSFER_MAX - 1], 0);
  }
  /* It is no grant, and nobody's who has left. */
  donor_wait_number (&d, "slabs", "reserved", 1);
  peer_query (&p, &last);
  ck_assert_uint_eq (last.free_mem.slabs_lent, 2);
  peer_lane_close (&lane);
  peer_close (&p);
  donor_wait_number (&d, "slabs", "reserved", 0);
  donor_wait_number (&d, "slabs", "lent", 0);
  donor_stop (&d);
}
END_TEST

START_TEST (a_reserved_slab_keeps_nobody_waiting)
{
  struct message m;
  struct donor d;
  struct peer p, q;

  donor_start (&d, "--memory=2M", NULL);
  peer_begin (&p, &d, 1);
  donor_wait_number (&d, "slabs", "reserved", 1);
  peer_begin (&q, &d, 2);
  ck_assert_int_eq (peer_map (&q, 0, &m), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_map (&q, 1, &m), MESSAGE_MR_INFO);
  ck_assert_int_eq (donor_number (&d, "slabs", "reserved"), 0);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_REFUSED);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

/* Nor is one kept for a borrower that may have no more. */
START_TEST (a_borrower_with_its_share_has_none_reserved)
{
  struct message m;
  struct donor d;
  struct peer p;

  donor_start (&d, "--max-per-borrower=1M", NULL);
  peer_begin (&p, &d, 1);
  donor_wait_number (&d, "slabs", "reserved", 1);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  g_usleep (700000);
  peer_query (&p, &m);
  ck_assert_int_eq (donor_number (&d, "slabs", "reserved"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* Nobody hangs up first. */
START_TEST (stops_with_borrowers)
{
  struct donor d;
  struct peer p, q;
  struct peer_lane lane;
  struct message m;

  donor_start (&d, NULL);
  peer_connect (&q, &d);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  server_free (d.server);
  d.server = NULL;
  peer_expect_end (&p);
  peer_expect_end (&q);
  ck_assert_int_lt (peer_lane_io (&lane, FABRIC_WRITE, &m, 0, 4096), 0);
  peer_lane_close (&lane);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("server");
  TCase *tc = tcase_create ("sessions");
  SRunner *sr;
  int failed;

  tcase_set_timeout (tc, 120);
  tcase_add_test (tc, hello_is_welcomed);
  tcase_add_test (tc, another_slab_size_is_refused);
  tcase_add_test (tc, another_version_is_refused);
  tcase_add_test (tc, senseless_deadlines_are_refused);
  tcase_add_test (tc, too_many_borrowers_are_refused);
  tcase_add_test (tc, a_device_has_one_session);
  tcase_add_test (tc, a_hello_that_was_held_up_ends_no_session);
  tcase_add_test (tc, memory_runs_out);
  tcase_add_test (tc, a_borrower_that_left_leaves_nothing_behind);
  tcase_add_test (tc, memory_is_zero_when_lent_again);
  tcase_add_test (tc, grants_end_with_unmap);
  tcase_add_test (tc, a_borrower_reaches_its_own_slabs_only);
  tcase_add_test (tc, a_slab_is_mapped_once);
  tcase_add_test (tc, unmap_of_an_unknown_grant_is_done);
  tcase_add_test (tc, grants_belong_to_their_session);
  tcase_add_test (tc, one_borrower_gets_no_more_than_its_share);
  tcase_add_test (tc, the_headroom_stays_free);
  tcase_add_test (tc, lending_follows_the_use_of_the_node);
  tcase_add_test (tc, nothing_ready_is_waited_for);
  tcase_add_test (tc, a_lane_proves_that_it_belongs);
  tcase_add_test (tc, lanes_are_bounded);
  tcase_add_loop_test (tc, an_unexpected_message_ends_its_session,
                       0, G_N_ELEMENTS (unexpected));
  tcase_add_test (tc, a_malformed_message_ends_its_session);
  tcase_add_test (tc, the_first_message_is_hello);
  tcase_add_test (tc, ping_is_answered);
  tcase_add_test (tc, a_silent_borrower_is_ended_by_its_deadline);
  tcase_add_test (tc, an_idle_borrower_that_answers_stays);
  tcase_add_test (tc, hello_is_not_awaited_for_ever);
  tcase_add_test (tc, a_crowd_that_says_nothing_keeps_nobody_out);
  tcase_add_test (tc, status_shows_what_there_is);
  tcase_add_test (tc, a_quiet_borrower_has_a_slab_reserved);
  tcase_add_test (tc, a_reserved_slab_keeps_nobody_waiting);
  tcase_add_test (tc, a_borrower_with_its_share_has_none_reserved);
  tcase_add_test (tc, stops_with_borrowers);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
