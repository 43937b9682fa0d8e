/* A donor that stops in order: what it asks of its borrowers, and what
 * it does where they do not answer.
 */

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "test/unit/donor/peer.h"

static const int64_t second_ns = 1000000000;

static void
set (void *flag)
{
  *(bool *) flag = true;
}

static void
wait_for (struct donor *d, const bool *flag)
{
  const int64_t end_ns = fabric_now_ns () + PATIENCE_NS;

  while (!*flag) {
    ck_assert (fabric_now_ns () < end_ns);
    donor_turn (d);
  }
}

/* A session with the shortest deadline there is: one second more. */
static void
begin_short (struct peer *p, struct donor *d, uint8_t device)
{
  struct message m;

  peer_connect (p, d);
  ck_assert_int_eq (peer_hello_with (p, device, SLAB_BYTES, 1000000, &m),
                    MESSAGE_WELCOME);
}

static void
check_stopping (const struct message *m)
{
  ck_assert_int_eq (m->type, MESSAGE_REFUSED);
  ck_assert_str_eq (m->refused.reason, "the donor is stopping");
}

START_TEST (nothing_lent_is_not_waited_for)
{
  struct donor d;
  struct peer p;
  struct message m;
  bool stopped = false;
  int64_t began_ns;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  peer_unmap (&p, m.mr_info.grant);
  began_ns = fabric_now_ns ();
  server_stop (d.server, set, &stopped);
  wait_for (&d, &stopped);
  ck_assert_int_lt (fabric_now_ns () - began_ns, second_ns);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* More than one message names. */
START_TEST (all_slabs_are_asked_back)
{
  enum { SLABS = MESSAGE_GRANTS_MAX + 4 };
  struct message grants[SLABS], m[2];
  struct donor d;
  struct peer p, q;
  struct peer_lane lane;
  bool stopped = false;
  unsigned i;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  peer_begin (&q, &d, 2);
  ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
  for (i = 0; i < SLABS; i++)
    ck_assert_int_eq (peer_map (&p, i, &grants[i]), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_map (&q, 0, &m[0]), MESSAGE_MR_INFO);

  server_stop (d.server, set, &stopped);
  peer_receive_evict (&p, &m[0], MESSAGE_GRANTS_MAX);
  peer_receive_evict (&p, &m[1], 4);
  ck_assert_int_eq (peer_lane_io (&lane, FABRIC_WRITE, &grants[0], 0, 4096),
                    0);
  for (i = 0; i < SLABS; i++)
    peer_done (&p, m[i / MESSAGE_GRANTS_MAX].id,
               m[i / MESSAGE_GRANTS_MAX].grants.grants
               [i % MESSAGE_GRANTS_MAX]);
  donor_wait_number (&d, "slabs", "lent", 1);
  ck_assert_int_lt (peer_lane_io (&lane, FABRIC_WRITE, &grants[0], 0, 4096),
                    0);
  ck_assert_int_eq (donor_number (&d, "slabs", "evicting"), 1);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_asked"),
                    SLABS + 1);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_done"), SLABS);
  ck_assert (!stopped);

  peer_receive_evict (&q, &m[0], 1);
  peer_done (&q, m[0].id, m[0].grants.grants[0]);
  wait_for (&d, &stopped);
  /* The sessions stand to the end. */
  peer_query (&p, &m[0]);
  peer_lane_close (&lane);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

START_TEST (nothing_more_is_lent)
{
  struct message evict, m;
  struct donor d;
  struct peer p, q;
  bool stopped = false;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  server_stop (d.server, set, &stopped);
  peer_receive_evict (&p, &evict, 1);
  peer_map (&p, 1, &m);
  check_stopping (&m);
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.free_bytes, 0);
  ck_assert_int_eq (donor_number (&d, "memory", "would_lend_bytes"), 0);
  peer_connect (&q, &d);
  peer_hello_with (&q, 2, SLAB_BYTES, second_ns, &m);
  check_stopping (&m);
  /* Nor does one that comes again lose the session it has. */
  peer_close (&q);
  peer_connect (&q, &d);
  peer_hello_with (&q, 1, SLAB_BYTES, second_ns, &m);
  check_stopping (&m);
  peer_done (&p, evict.id, evict.grants.grants[0]);
  wait_for (&d, &stopped);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

/* It answers everything else. */
START_TEST (nothing_more_is_prepared)
{
  struct donor d;
  struct peer p;
  struct message map, evict;
  bool stopped = false;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 0, &map), MESSAGE_MR_INFO);
  donor_wait_number (&d, "slabs", "ready", 2);
  server_stop (d.server, set, &stopped);
  donor_wait_number (&d, "slabs", "ready", 0);
  peer_receive_evict (&p, &evict, 1);
  peer_done (&p, evict.id, evict.grants.grants[0]);
  wait_for (&d, &stopped);
  ck_assert_int_eq (donor_number (&d, "slabs", "ready"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (evict_unanswered_ends_the_session)
{
  struct message m;
  struct donor d;
  struct peer p;
  bool stopped = false;
  int64_t began_ns, took_ns;

  donor_start (&d, "--deadline=1ms", NULL);
  begin_short (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_map (&p, 1, &m), MESSAGE_MR_INFO);
  began_ns = fabric_now_ns ();
  server_stop (d.server, set, &stopped);
  peer_receive_evict (&p, &m, 2);
  peer_done (&p, m.id, m.grants.grants[0]);
  peer_expect_end (&p);
  took_ns = fabric_now_ns () - began_ns;
  ck_assert_int_ge (took_ns, second_ns);
  ck_assert_int_le (took_ns, 2 * second_ns);
  ck_assert_uint_ge (p.pings, 1);
  wait_for (&d, &stopped);
  ck_assert_int_eq (donor_number (&d, "slabs", "lent"), 0);
  ck_assert_int_eq (donor_number (&d, "slabs", "evicting"), 0);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_done"), 1);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_unanswered"), 1);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* UNMAP first, as it must be where both were under way; then also the
 * other way round.
 */
START_TEST (evict_and_unmap_may_cross)
{
  struct message first, second, unmap, m;
  struct donor d;
  struct peer p;
  bool stopped = false;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 0, &first), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_map (&p, 1, &second), MESSAGE_MR_INFO);
  server_stop (d.server, set, &stopped);
  donor_wait_number (&d, "slabs", "evicting", 2);

  unmap = (struct message) { .type = MESSAGE_UNMAP };
  unmap.unmap.grant = first.mr_info.grant;
  peer_send (&p, &unmap);
  peer_receive_evict (&p, &m, 2);
  peer_done (&p, m.id, first.mr_info.grant);
  peer_done (&p, m.id, second.mr_info.grant);
  ck_assert_int_eq (peer_receive (&p, &m), 0);
  ck_assert_int_eq (m.type, MESSAGE_DONE);
  ck_assert_uint_eq (m.id, unmap.id);
  peer_unmap (&p, second.mr_info.grant);
  wait_for (&d, &stopped);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_done"), 2);
  ck_assert_int_eq (donor_number (&d, "counters", "unmaps"), 1);
  ck_assert_int_eq (donor_number (&d, "counters", "sessions_ended"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (a_borrower_that_leaves_is_not_waited_for)
{
  struct message m;
  struct donor d;
  struct peer p;
  bool stopped = false;

  donor_start (&d, "--deadline=40s", NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  server_stop (d.server, set, &stopped);
  peer_receive_evict (&p, &m, 1);
  peer_close (&p);
  wait_for (&d, &stopped);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_unanswered"), 1);
  donor_stop (&d);
}
END_TEST

/* As after a second signal. */
START_TEST (stopping_can_be_cut_short)
{
  struct message m;
  struct donor d;
  struct peer p;
  bool stopped = false;

  donor_start (&d, "--deadline=40s", NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  server_stop (d.server, set, &stopped);
  peer_receive_evict (&p, &m, 1);
  server_free (d.server);
  d.server = NULL;
  peer_expect_end (&p);
  ck_assert (!stopped);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("stop");
  TCase *tc = tcase_create ("stop");
  SRunner *sr;
  int failed;

  tcase_set_timeout (tc, 120);
  tcase_add_test (tc, nothing_lent_is_not_waited_for);
  tcase_add_test (tc, all_slabs_are_asked_back);
  tcase_add_test (tc, nothing_more_is_lent);
  tcase_add_test (tc, nothing_more_is_prepared);
  tcase_add_test (tc, evict_unanswered_ends_the_session);
  tcase_add_test (tc, evict_and_unmap_may_cross);
  tcase_add_test (tc, a_borrower_that_leaves_is_not_waited_for);
  tcase_add_test (tc, stopping_can_be_cut_short);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
