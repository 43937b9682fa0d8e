/* How the donor chooses the slabs that it takes back: whom it asks, what
 * it makes of the answers, and of answers that do not come.
 */

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "test/unit/donor/peer.h"

static const int64_t second_ns = 1000000000;

/* Demand slabs as infiniswapctl does; how many there will be. */
static gint64
demand (struct donor *d, const char *request)
{
  g_autofree char *error = NULL;
  JsonObject *answer = donor_ask (d, request, &error);
  gint64 slabs;

  ck_assert_msg (answer, "%s", error);
  slabs = json_object_get_int_member (answer, "slabs");
  json_object_unref (answer);
  return slabs;
}

/* A session with n slabs. */
static void
begin_with (struct peer *p, struct donor *d, uint8_t device, unsigned n)
{
  struct message m;
  unsigned i;

  peer_begin (p, d, device);
  for (i = 0; i < n; i++)
    ck_assert_int_eq (peer_map (p, i, &m), MESSAGE_MR_INFO);
}

static bool
names (const struct message *m, uint64_t grant)
{
  uint32_t i;

  for (i = 0; i < m->grants.count; i++)
    if (m->grants.grants[i] == grant)
      return true;
  return false;
}

/* Grants are numbered from 1; the older, the less active. */
static void
answer_by_age (struct peer *p, const struct message *check)
{
  struct message m = { .type = MESSAGE_ACTIVITY, .id = check->id };
  uint32_t i;

  m.activity.count = check->grants.count;
  for (i = 0; i < m.activity.count; i++) {
    m.activity.of[i].grant = check->grants.grants[i];
    m.activity.of[i].activity_milli = 7 * check->grants.grants[i];
  }
  peer_answer (p, &m);
}

static void
done_with_all (struct peer *p, const struct message *evict)
{
  uint32_t i;

  for (i = 0; i < evict->grants.count; i++)
    peer_done (p, evict->id, evict->grants.grants[i]);
}

START_TEST (the_least_active_go)
{
  struct message check, evict;
  struct donor d;
  struct peer p;
  uint64_t grant;

  donor_start (&d, NULL);
  begin_with (&p, &d, 1, 8);
  ck_assert_int_eq (demand (&d, "evict 4"), 4);
  peer_receive_check (&p, &check, 8);
  ck_assert_int_eq (donor_number (&d, "slabs", "evicting"), 4);
  answer_by_age (&p, &check);
  peer_receive_evict (&p, &evict, 4);
  for (grant = 1; grant <= 4; grant++)
    ck_assert (names (&evict, grant));
  done_with_all (&p, &evict);
  donor_wait_number (&d, "slabs", "lent", 4);
  ck_assert_int_eq (donor_number (&d, "slabs", "evicting"), 0);
  ck_assert_int_eq (donor_number (&d, "counters", "eviction_rounds"), 1);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_done"), 4);
  ck_assert_int_gt (donor_number (&d, "counters", "eviction_us_median"), 0);
  ck_assert_int_eq (donor_number (&d, "counters", "activity_unanswered"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* Each owner is asked once for all it has. */
START_TEST (all_owners_are_compared)
{
  struct message check, evict;
  struct donor d;
  struct peer p, q;

  donor_start (&d, NULL);
  begin_with (&p, &d, 1, 3);
  begin_with (&q, &d, 2, 3);
  ck_assert_int_eq (demand (&d, "evict 3"), 3);
  peer_receive_check (&p, &check, 3);
  peer_activity (&p, &check, 5001);
  peer_receive_check (&q, &check, 3);
  peer_activity (&q, &check, 5000);
  peer_receive_evict (&q, &evict, 3);
  done_with_all (&q, &evict);
  donor_wait_number (&d, "slabs", "lent", 3);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

START_TEST (so_many_extra_are_compared)
{
  static const struct { const char *option; uint32_t asked; } table[] = {
    { "--evict-extra=0", 0 }, { "--evict-extra=1", 3 },
    { "--evict-extra=9", 4 },
  };
  struct message m;
  struct donor d;
  struct peer p;

  donor_start (&d, table[_i].option, NULL);
  begin_with (&p, &d, 1, 8);
  ck_assert_int_eq (demand (&d, "evict 2"), 2);
  if (table[_i].asked > 0) {
    peer_receive_check (&p, &m, table[_i].asked);
    answer_by_age (&p, &m);
  }
  peer_receive_evict (&p, &m, 2);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* Nor do those count that are being evicted already. */
START_TEST (where_all_go_nobody_is_asked)
{
  struct message m;
  struct donor d;
  struct peer p;

  donor_start (&d, "--evict-extra=0", NULL);
  begin_with (&p, &d, 1, 3);
  ck_assert_int_eq (demand (&d, "evict 1"), 1);
  peer_receive_evict (&p, &m, 1);
  ck_assert_int_eq (demand (&d, "evict 99"), 2);
  peer_receive_evict (&p, &m, 2);
  ck_assert_int_eq (demand (&d, "evict all"), 0);
  ck_assert_int_eq (donor_number (&d, "slabs", "evicting"), 3);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (many_are_asked_in_several_messages)
{
  struct message check[3], m;
  struct donor d;
  struct peer p;
  unsigned i;

  donor_start (&d, NULL);
  begin_with (&p, &d, 1, 2 * MESSAGE_GRANTS_MAX + 10);
  ck_assert_int_eq (demand (&d, "evict 65"), 65);
  peer_receive_check (&p, &check[0], MESSAGE_GRANTS_MAX);
  peer_receive_check (&p, &check[1], MESSAGE_GRANTS_MAX);
  peer_receive_check (&p, &check[2], 10);
  for (i = 0; i < 3; i++)
    answer_by_age (&p, &check[i]);
  peer_receive_evict (&p, &m, MESSAGE_GRANTS_MAX);
  done_with_all (&p, &m);
  peer_receive_evict (&p, &m, 5);
  done_with_all (&p, &m);
  donor_wait_number (&d, "slabs", "lent", 65);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* It is not waited for long, and gains nothing; while it still owes that
 * answer it is not even asked.
 */
START_TEST (silence_counts_as_idle)
{
  struct message m;
  struct donor d;
  struct peer p, q;
  int64_t began_ns;

  donor_start (&d, "--deadline=40s", NULL);
  begin_with (&p, &d, 1, 3);
  begin_with (&q, &d, 2, 3);
  began_ns = fabric_now_ns ();
  ck_assert_int_eq (demand (&d, "evict 3"), 3);
  peer_receive_check (&p, &m, 3);
  peer_activity (&p, &m, 1);
  peer_receive_check (&q, &m, 3);
  peer_receive_evict (&q, &m, 3);
  ck_assert_int_lt (fabric_now_ns () - began_ns, 2 * second_ns);
  ck_assert_int_eq (donor_number (&d, "counters", "activity_unanswered"), 1);

  done_with_all (&q, &m);
  donor_wait_number (&d, "slabs", "lent", 3);
  ck_assert_int_eq (peer_map (&q, 9, &m), MESSAGE_MR_INFO);
  ck_assert_int_eq (demand (&d, "evict 2"), 2);
  peer_receive_check (&p, &m, 3);
  peer_activity (&p, &m, 1);
  peer_receive_evict (&q, &m, 1);
  peer_receive_evict (&p, &m, 1);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

/* Left out: what it does not say is no activity. */
START_TEST (a_grant_without_an_answer_is_idle)
{
  struct message check, evict, m = { .type = MESSAGE_ACTIVITY };
  struct donor d;
  struct peer p;

  donor_start (&d, NULL);
  begin_with (&p, &d, 1, 2);
  ck_assert_int_eq (demand (&d, "evict 1"), 1);
  peer_receive_check (&p, &check, 2);
  m.id = check.id;
  m.activity.count = 1;
  m.activity.of[0].grant = 1;
  m.activity.of[0].activity_milli = 1;
  peer_answer (&p, &m);
  peer_receive_evict (&p, &evict, 1);
  ck_assert (names (&evict, 2));
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (a_session_may_end_in_a_round)
{
  struct message check, evict;
  struct donor d;
  struct peer p, q;

  donor_start (&d, NULL);
  begin_with (&p, &d, 1, 3);
  begin_with (&q, &d, 2, 3);
  ck_assert_int_eq (demand (&d, "evict 3"), 3);
  peer_receive_check (&p, &check, 3);
  peer_close (&q);
  donor_wait_number (&d, "counters", "sessions_ended", 1);
  peer_activity (&p, &check, 5000);
  peer_receive_evict (&p, &evict, 3);
  done_with_all (&p, &evict);
  donor_wait_number (&d, "slabs", "lent", 0);
  ck_assert_int_eq (donor_number (&d, "counters", "activity_unanswered"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (a_grant_may_end_in_a_round)
{
  struct message check, evict;
  struct donor d;
  struct peer p;

  donor_start (&d, NULL);
  begin_with (&p, &d, 1, 4);
  ck_assert_int_eq (demand (&d, "evict 2"), 2);
  peer_receive_check (&p, &check, 4);
  peer_unmap (&p, 1);
  answer_by_age (&p, &check);
  peer_receive_evict (&p, &evict, 2);
  ck_assert (names (&evict, 2) && names (&evict, 3));
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* What was demanded is as much as still stands. */
START_TEST (all_may_end_in_a_round)
{
  struct message m;
  struct donor d;
  struct peer p;

  donor_start (&d, NULL);
  begin_with (&p, &d, 1, 2);
  ck_assert_int_eq (demand (&d, "evict 1"), 1);
  peer_receive_check (&p, &m, 2);
  peer_unmap (&p, 1);
  peer_unmap (&p, 2);
  donor_wait_number (&d, "slabs", "evicting", 0);
  ck_assert_int_eq (peer_map (&p, 7, &m), MESSAGE_MR_INFO);
  peer_query (&p, &m);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_asked"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (without_slabs_nothing_is_evicted)
{
  struct donor d;
  struct peer p;

  donor_start (&d, NULL);
  ck_assert_int_eq (demand (&d, "evict all"), 0);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (demand (&d, "evict 5"), 0);
  ck_assert_int_eq (donor_number (&d, "counters", "eviction_rounds"), 0);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* The borrower may have it again at once. */
START_TEST (an_evicted_slab_is_mapped_again)
{
  struct message first, again, m;
  struct donor d;
  struct peer p;
  struct peer_lane lane;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
  ck_assert_int_eq (peer_map (&p, 3, &first), MESSAGE_MR_INFO);
  ck_assert_int_eq (demand (&d, "evict all"), 1);
  peer_receive_evict (&p, &m, 1);
  done_with_all (&p, &m);
  ck_assert_int_eq (peer_map (&p, 3, &again), MESSAGE_MR_INFO);
  ck_assert_uint_gt (again.mr_info.grant, first.mr_info.grant);
  ck_assert_int_lt (peer_lane_io (&lane, FABRIC_READ, &first, 0, 4096), 0);
  peer_lane_close (&lane);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

static void
ignore (void *unused)
{
  (void) unused;
}

START_TEST (senseless_demands_are_refused)
{
  static const char *const requests[] = {
    "evict 0", "evict -1", "evict 1x", "evict  ", "evict", "evict ALL",
    "evict 99999999999999999999", "evict 1 2",
  };
  struct donor d;
  struct peer p;
  size_t i;

  donor_start (&d, NULL);
  begin_with (&p, &d, 1, 1);
  for (i = 0; i < G_N_ELEMENTS (requests); i++) {
    g_autofree char *error = NULL;

    ck_assert_ptr_null (donor_ask (&d, requests[i], &error));
    ck_assert_msg (strstr (error, "evict"), "%s", error);
  }
  ck_assert_int_eq (donor_number (&d, "slabs", "evicting"), 0);
  server_stop (d.server, ignore, NULL);
  {
    g_autofree char *error = NULL;

    ck_assert_ptr_null (donor_ask (&d, "evict all", &error));
    ck_assert_msg (strstr (error, "stopping"), "%s", error);
  }
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* 16 MiB above the headroom, of which eight slabs have 8, until others
 * use 13: five must go.
 */
START_TEST (short_memory_evicts_what_it_needs)
{
  struct message check, evict, m;
  struct donor d;
  struct peer p, q;

  donor_start (&d, "--headroom=1008M", "--smoothing=1", "--ready=0", NULL);
  begin_with (&p, &d, 1, 6);
  begin_with (&q, &d, 2, 2);
  donor_set_node (&d, 1 << 30, 1003 << 20);
  peer_receive_check (&p, &check, 6);
  answer_by_age (&p, &check);
  peer_receive_check (&q, &check, 2);
  peer_activity (&q, &check, 0);
  peer_receive_evict (&q, &evict, 2);
  peer_receive_evict (&p, &m, 3);
  ck_assert (names (&m, 1) && names (&m, 2) && names (&m, 3));

  /* What is on its way is not asked for once more, and what has come
   * back is not lent again.
   */
  peer_query (&p, &check);
  ck_assert_uint_eq (check.free_mem.free_bytes, 0);
  /* So little that it makes no difference whether it counts twice. */
  donor_set_node (&d, 1 << 30, (1002 << 20) + (768 << 10));
  peer_receive_check (&p, &check, 2);
  peer_activity (&p, &check, 0);
  peer_receive_evict (&p, &check, 1);
  donor_set_node (&d, 1 << 30, 1008 << 20);
  done_with_all (&q, &evict);
  done_with_all (&p, &m);
  done_with_all (&p, &check);
  donor_wait_number (&d, "slabs", "lent", 2);
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.free_bytes, 0);
  ck_assert_int_eq (peer_map (&q, 0, &m), MESSAGE_REFUSED);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_asked"), 6);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

/* Stopped, or hostile: its memory is back by the deadline. */
START_TEST (short_memory_does_not_wait_for_a_silent_borrower)
{
  struct message m;
  struct donor d;
  struct peer p;
  int64_t began_ns;
  unsigned i;

  donor_start (&d, "--headroom=1008M", "--smoothing=1", "--deadline=1ms",
               NULL);
  peer_connect (&p, &d);
  ck_assert_int_eq (peer_hello_with (&p, 1, SLAB_BYTES, 1000000, &m),
                    MESSAGE_WELCOME);
  /* On a busy machine one may come too late for a patience of 1 ms. */
  for (i = 0; i < 8; i++)
    while (peer_map (&p, i, &m) == MESSAGE_REFUSED)
      continue;
  began_ns = fabric_now_ns ();
  donor_set_node (&d, 1 << 30, 990 << 20);
  peer_receive_evict (&p, &m, 8);
  peer_expect_end (&p);
  ck_assert_int_ge (fabric_now_ns () - began_ns, second_ns);
  ck_assert_int_le (fabric_now_ns () - began_ns, 3 * second_ns);
  donor_wait_number (&d, "memory", "held_bytes", 0);
  ck_assert_int_eq (donor_number (&d, "counters", "evictions_unanswered"), 8);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("evict");
  TCase *tc = tcase_create ("evict");
  SRunner *sr;
  int failed;

  tcase_set_timeout (tc, 120);
  tcase_add_test (tc, the_least_active_go);
  tcase_add_test (tc, all_owners_are_compared);
  tcase_add_loop_test (tc, so_many_extra_are_compared, 0, 3);
  tcase_add_test (tc, where_all_go_nobody_is_asked);
  tcase_add_test (tc, many_are_asked_in_several_messages);
  tcase_add_test (tc, silence_counts_as_idle);
  tcase_add_test (tc, a_grant_without_an_answer_is_idle);
  tcase_add_test (tc, a_session_may_end_in_a_round);
  tcase_add_test (tc, a_grant_may_end_in_a_round);
  tcase_add_test (tc, all_may_end_in_a_round);
  tcase_add_test (tc, without_slabs_nothing_is_evicted);
  tcase_add_test (tc, an_evicted_slab_is_mapped_again);
  tcase_add_test (tc, senseless_demands_are_refused);
  tcase_add_test (tc, short_memory_evicts_what_it_needs);
  tcase_add_test (tc, short_memory_does_not_wait_for_a_silent_borrower);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
