/* Placement and sessions, with donors that do what they like. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf/state_socket.h"
#include "nbdkit-plugin/placing.h"
#include "rig.h"
#include "scratch.h"
#include "suite.h"

enum { SLAB = MIB / PAGE };

static struct rig rig;
static struct rig_params params;
static struct fake_script script[FAKE_DONORS_MAX]; /* of each donor */

static void
setup (void)
{
  scratch_setup ();
  params = rig_defaults ();
}

/* With n donors, of which each has more free memory than the next. */
static void
prepare (unsigned n)
{
  params.donors = n;
  rig_prepare (&rig, &params);
  for (unsigned i = 0; i < n; i++) {
    script[i] = fake_donor_script (rig.donors[i]);
    script[i].free_bytes = (100 - i) * UINT64_C (100) * MIB;
    fake_donor_follow (rig.donors[i], &script[i]);
  }
}

static void
follow (unsigned i)
{
  fake_donor_follow (rig.donors[i], &script[i]);
}

/* Start, and wait until all donors have been greeted and had the time to
 * answer: the first probes shall find them connected.
 */
static void
start (void)
{
  rig_start (&rig);
  for (unsigned i = 0; i < params.donors; i++)
    fake_donor_wait_heard (rig.donors[i], MESSAGE_HELLO, 1);
  usleep (50000);
}

static void
stop (void)
{
  ck_assert_int_eq (rig_stop (&rig), 0);
}

static bool
lives_on (uint64_t slab, unsigned donor)
{
  struct slab_home home = rig_wait_mapped (&rig, slab);
  char byte;

  /* The other donors hold nothing in these tests. */
  ck_assert (fake_grant_copy (home.key, 0, &byte, 1));
  return fake_donor_lent (rig.donors[donor]) > 0;
}

START_TEST (the_donor_with_the_most_free_memory_gets_the_slab)
{
  prepare (2);
  start ();
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 0));
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_QUERY_MEM), 1);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[1], MESSAGE_QUERY_MEM), 1);
  ck_assert_uint_eq (fake_donor_last (rig.donors[0], MESSAGE_MAP).map.slab,
                     0);
  stop ();
}
END_TEST

START_TEST (hello_tells_the_terms)
{
  struct message m;

  prepare (2);
  start ();
  m = fake_donor_last (rig.donors[0], MESSAGE_HELLO);
  ck_assert_uint_eq (m.hello.slab_size_bytes, params.slab_size_bytes);
  ck_assert_uint_eq (m.hello.deadline_ns, params.deadline_ns);
  ck_assert_mem_eq (m.hello.device_id,
                    fake_donor_last (rig.donors[1],
                                     MESSAGE_HELLO).hello.device_id,
                    MESSAGE_DEVICE_ID_SIZE);
  stop ();
}
END_TEST

START_TEST (each_hello_has_a_greater_number)
{
  struct message first;

  prepare (1);
  start ();
  first = fake_donor_last (rig.donors[0], MESSAGE_HELLO);
  fake_donor_end_sessions (rig.donors[0]);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 2);
  ck_assert_uint_gt (fake_donor_last (rig.donors[0], MESSAGE_HELLO).id,
                     first.id);
  stop ();
}
END_TEST

START_TEST (a_donor_silent_on_probes_delays_by_a_quarter_of_the_deadline)
{
  int64_t began;

  params.deadline_ns = 2000 * MS;
  prepare (2);
  script[0].ignore = FAKE_BIT (MESSAGE_QUERY_MEM);
  follow (0);
  start ();
  began = fabric_now_ns ();
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 1));
  ck_assert_int_ge (fabric_now_ns () - began, 490 * MS);
  ck_assert_int_lt (fabric_now_ns () - began, 1900 * MS);
  stop ();
}
END_TEST

START_TEST (a_donor_that_refuses_is_passed_over)
{
  prepare (2);
  script[0].slabs = 0;
  follow (0);
  start ();
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 1));
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_MAP), 1);
  stop ();
}
END_TEST

START_TEST (a_donor_without_memory_is_not_asked)
{
  prepare (2);
  script[0].free_bytes = MIB - 1;
  follow (0);
  start ();
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 1));
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_MAP), 0);
  stop ();
}
END_TEST

/* Lose donor 0 when it has heard a message, which it does not answer; the
 * slab goes to donor 1.
 */
static void
lose_at (enum message_type type)
{
  prepare (2);
  script[0].hold = FAKE_BIT (type);
  follow (0);
  start ();
  rig_write (&rig, 0, 'a');
  fake_donor_wait_heard (rig.donors[0], type, 1);
  script[0].down = true;
  follow (0);
  fake_donor_end_sessions (rig.donors[0]);
  ck_assert (lives_on (0, 1));
  ck_assert_uint_eq (fake_donor_lent (rig.donors[0]), 0);
  stop ();
}

START_TEST (a_donor_lost_while_it_is_probed)
{
  lose_at (MESSAGE_QUERY_MEM);
}
END_TEST

START_TEST (a_donor_lost_while_it_is_asked_for_a_slab)
{
  lose_at (MESSAGE_MAP);
}
END_TEST

START_TEST (a_donor_lost_while_its_lanes_are_connected)
{
  prepare (2);
  script[0].lanes = -EAGAIN;
  follow (0);
  start ();
  rig_write (&rig, 0, 'a');
  while (fake_donor_lent (rig.donors[0]) == 0)
    usleep (500);
  script[0].down = true;
  follow (0);
  fake_donor_end_sessions (rig.donors[0]);
  ck_assert (lives_on (0, 1));
  stop ();
}
END_TEST

START_TEST (a_slab_not_given_in_time_ends_the_session)
{
  params.deadline_ns = 400 * MS;
  prepare (2);
  script[0].hold = FAKE_BIT (MESSAGE_MAP);
  follow (0);
  start ();
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 1));
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 2);
  fake_donor_answer (rig.donors[0]); /* too late for anybody */
  stop ();
}
END_TEST

START_TEST (lanes_that_fail_end_the_session)
{
  prepare (2);
  script[0].lanes = -ECONNREFUSED;
  follow (0);
  start ();
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 1));
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 2);
  stop ();
}
END_TEST

START_TEST (lanes_that_never_stand_end_the_session)
{
  params.deadline_ns = 400 * MS;
  prepare (2);
  script[0].lanes = -EAGAIN;
  follow (0);
  start ();
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 1));
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 2);
  stop ();
}
END_TEST

START_TEST (a_grant_that_is_too_short_ends_the_session)
{
  prepare (2);
  script[0].mr_info_length_bytes = MIB - PAGE;
  follow (0);
  start ();
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 1));
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 2);
  stop ();
}
END_TEST

/* Two slabs want donor 0, which answers the second time only after the
 * borrower was given a grant that it never asked for.
 */
START_TEST (a_grant_nobody_waits_for_is_given_back)
{
  struct message m = {
    .type = MESSAGE_MR_INFO, .id = 4711,
    .mr_info = { .grant = 77, .address = 1, .key = 2, .length_bytes = MIB },
  };

  prepare (1);
  start ();
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  fake_donor_say (rig.donors[0], &m);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_UNMAP, 1);
  ck_assert_uint_eq (fake_donor_last (rig.donors[0],
                                      MESSAGE_UNMAP).unmap.grant, 77);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_HELLO), 1);
  rig_wait_mapped (&rig, 0);
  stop ();
}
END_TEST

START_TEST (donors_without_a_slab_come_first)
{
  prepare (4);
  start ();
  for (int i = 0; i < 4; i++) {
    rig_write (&rig, i * SLAB, 'a');
    rig_wait_mapped (&rig, i);
  }
  for (int i = 0; i < 4; i++)
    ck_assert_uint_eq (fake_donor_lent (rig.donors[i]), 1);
  stop ();
}
END_TEST

START_TEST (slabs_placed_at_once_are_spread_as_well)
{
  static char all[4 * MIB];

  prepare (4);
  start ();
  ck_assert_int_eq (device_write (rig.device, all, sizeof all, 0), 0);
  for (int i = 0; i < 4; i++)
    rig_wait_mapped (&rig, i);
  for (int i = 0; i < 4; i++)
    ck_assert_uint_eq (fake_donor_lent (rig.donors[i]), 1);
  stop ();
}
END_TEST

START_TEST (a_donor_gets_no_more_slabs_than_allowed)
{
  params.max_slabs_per_donor = 1;
  prepare (2);
  start ();
  for (int i = 0; i < 4; i++)
    rig_write (&rig, i * SLAB, 'a');
  /* Which two is the donors' affair; the rest stays on disk. */
  for (int i = 0; i < 2; i++)
    while (fake_donor_lent (rig.donors[i]) < 1)
      usleep (500);
  for (int i = 0; i < 4; i++) {
    rig_write (&rig, i * SLAB, 'b');
    rig_expect (&rig, i * SLAB, 'b');
  }
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_MAP), 1);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[1], MESSAGE_MAP), 1);
  stop ();
}
END_TEST

START_TEST (another_slab_size_is_no_session)
{
  prepare (1);
  script[0].slab_size_bytes = 2 * MIB;
  follow (0);
  rig_start (&rig);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 2);
  rig_write (&rig, 0, 'a');
  script[0].slab_size_bytes = MIB;
  follow (0);
  rig_wait_mapped (&rig, 0);
  stop ();
}
END_TEST

START_TEST (a_session_without_registered_memory_is_tried_again)
{
  prepare (1);
  fake_fabric_no_memory (true);
  rig_start (&rig);
  rig_write (&rig, 0, 'a');
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 2);
  fake_fabric_no_memory (false);
  rig_wait_mapped (&rig, 0);
  stop ();
}
END_TEST

START_TEST (a_refused_session_is_tried_again)
{
  prepare (1);
  script[0].refuse_hello = "too many borrowers";
  follow (0);
  rig_start (&rig);
  rig_write (&rig, 0, 'a');
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 2);
  script[0].refuse_hello = NULL;
  follow (0);
  rig_wait_mapped (&rig, 0);
  stop ();
}
END_TEST

START_TEST (a_donor_that_comes_up_later_is_found)
{
  prepare (1);
  script[0].down = true;
  follow (0);
  rig_start (&rig);
  rig_write (&rig, 0, 'a');
  script[0].down = false;
  follow (0);
  rig_wait_mapped (&rig, 0);
  stop ();
}
END_TEST

START_TEST (a_donor_that_does_not_answer_hello_is_tried_again)
{
  params.deadline_ns = 300 * MS;
  prepare (1);
  script[0].ignore = FAKE_ALL;
  follow (0);
  rig_start (&rig);
  rig_write (&rig, 0, 'a');
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 2);
  script[0].ignore = 0;
  follow (0);
  rig_wait_mapped (&rig, 0);
  stop ();
}
END_TEST

START_TEST (an_idle_donor_is_kept_by_pings)
{
  params.deadline_ns = 1000 * MS;
  prepare (1);
  start ();
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_PING, 6);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_HELLO), 1);
  stop ();
}
END_TEST

START_TEST (a_silent_donor_is_given_up_within_the_deadline)
{
  int64_t began;

  params.deadline_ns = 500 * MS;
  prepare (2);
  start ();
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 0));
  rig_write (&rig, 0, 'b');
  began = fabric_now_ns ();
  script[0].ignore = FAKE_ALL;
  follow (0);
  while (fake_donor_lent (rig.donors[0]) > 0)
    usleep (500);
  printf ("given up after %.2f s\n", (fabric_now_ns () - began) * 1e-9);
  ck_assert_int_lt (fabric_now_ns () - began, 1500 * MS);
  rig_expect (&rig, 0, 'b');
  ck_assert (lives_on (0, 1));
  stop ();
}
END_TEST

START_TEST (a_ping_is_answered)
{
  struct message m = { .type = MESSAGE_PING, .id = 815 };

  prepare (1);
  start ();
  fake_donor_say (rig.donors[0], &m);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_PONG, 1);
  ck_assert_uint_eq (fake_donor_last (rig.donors[0], MESSAGE_PONG).id, 815);
  stop ();
}
END_TEST

START_TEST (a_donor_that_talks_without_end_keeps_nobody_waiting)
{
  const struct message m = { .type = MESSAGE_PONG };

  prepare (2);
  script[0].slabs = 0;
  follow (0);
  start ();
  script[0].chatter = MESSAGE_PONG;
  follow (0);
  fake_donor_say (rig.donors[0], &m);
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 1));
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_HELLO), 1);
  stop ();
}
END_TEST

START_TEST (a_donor_that_takes_no_messages_loses_its_session)
{
  const struct message m = { .type = MESSAGE_PING };

  prepare (1);
  start ();
  fake_fabric_full (true);
  script[0].chatter = MESSAGE_PING;
  follow (0);
  fake_donor_say (rig.donors[0], &m);
  fake_donor_wait_let_go (rig.donors[0]);
  script[0].chatter = 0;
  follow (0);
  fake_fabric_full (false);
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 0));
  stop ();
}
END_TEST

static void
write_all (void)
{
  for (uint64_t i = 0; i < params.size_bytes / MIB; i++)
    rig_write (&rig, i * SLAB, 'a');
}

START_TEST (a_donor_is_asked_about_few_slabs_at_a_time)
{
  params.size_bytes = 40 * MIB;
  prepare (1);
  script[0].hold = FAKE_BIT (MESSAGE_MAP);
  follow (0);
  start ();
  write_all ();
  fake_donor_wait_heard (rig.donors[0], MESSAGE_MAP, ASKED_MAX);
  usleep (50000);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_MAP),
                     ASKED_MAX);
  script[0].hold = 0;
  follow (0);
  fake_donor_answer (rig.donors[0]);
  for (uint64_t i = 0; i < 40; i++)
    rig_wait_mapped (&rig, i);
  stop ();
}
END_TEST

START_TEST (a_donor_that_answers_no_map_keeps_few_slabs_waiting)
{
  params.size_bytes = 40 * MIB;
  prepare (2);
  script[0].ignore = FAKE_BIT (MESSAGE_MAP);
  follow (0);
  start ();
  write_all ();
  while (fake_donor_lent (rig.donors[1]) < 40 - ASKED_MAX)
    usleep (1000);
  stop ();
}
END_TEST

static void
say_out_of_turn (enum message_type type)
{
  struct message m = { .type = type, .id = 1 };

  m.welcome.slab_size_bytes = MIB;
  prepare (1);
  start ();
  fake_donor_say (rig.donors[0], &m);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 2);
  stop ();
}

START_TEST (a_second_welcome_ends_the_session)
{
  say_out_of_turn (MESSAGE_WELCOME);
}
END_TEST

START_TEST (a_message_of_a_borrower_ends_the_session)
{
  say_out_of_turn (MESSAGE_QUERY_MEM);
}
END_TEST

START_TEST (verbs_is_taken_where_both_have_it)
{
  prepare (1);
  fake_fabric_have_verbs (true);
  start ();
  rig_write (&rig, 0, 'a');
  ck_assert_str_eq (session_fabric (rig_wait_mapped (&rig, 0).session)->name,
                    "verbs");
  stop ();
}
END_TEST

START_TEST (tcp_is_taken_where_the_donor_has_no_verbs)
{
  prepare (1);
  script[0].no_verbs = true;
  follow (0);
  fake_fabric_have_verbs (true);
  start ();
  rig_write (&rig, 0, 'a');
  ck_assert_str_eq (session_fabric (rig_wait_mapped (&rig, 0).session)->name,
                    "tcp");
  stop ();
}
END_TEST

START_TEST (only_verbs_is_only_verbs)
{
  params.fabric = FABRIC_ONLY_VERBS;
  prepare (1);
  script[0].no_verbs = true;
  follow (0);
  fake_fabric_have_verbs (true);
  rig_start (&rig);
  rig_write (&rig, 0, 'a');
  usleep (300000);              /* some tries */
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_HELLO), 0);
  script[0].no_verbs = false;
  follow (0);
  rig_wait_mapped (&rig, 0);
  stop ();
}
END_TEST

START_TEST (a_slab_below_the_threshold_stays_on_disk)
{
  params.hot_slab = 20;
  prepare (1);
  start ();
  for (int i = 0; i < 50; i++)
    rig_write (&rig, i, 'a');
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_QUERY_MEM), 0);
  for (int i = 0; i < 200; i++)
    rig_write (&rig, i % 100, 'b');
  rig_wait_mapped (&rig, 0);
  stop ();
}
END_TEST

static void
write_donors_file (const char *text)
{
  static int second;
  struct timespec times[2] = { { 0 } };

  /* A change of the time shows, whatever the clock's grain. */
  times[0].tv_sec = times[1].tv_sec = ++second;
  ck_assert (g_file_set_contents (params.donors_file, text, -1, NULL));
  ck_assert_int_eq (utimensat (AT_FDCWD, params.donors_file, times, 0), 0);
}

START_TEST (the_donors_file_is_read_again_when_it_changes)
{
  params.donors_file = scratch_path ("donors");
  write_donors_file ("127.0.0.1:9400\n");
  prepare (2);
  g_ptr_array_remove_index (rig.list->addresses, 1);
  rig_start (&rig);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 1);
  rig_write (&rig, 0, 'a');
  ck_assert (lives_on (0, 0));
  write_donors_file ("127.0.0.1:0\n"); /* nonsense changes nothing */
  rig_write (&rig, 0, 'b');
  write_donors_file ("127.0.0.1:9401\n");
  fake_donor_wait_heard (rig.donors[1], MESSAGE_HELLO, 1);
  fake_donor_wait_let_go (rig.donors[0]);
  ck_assert_uint_eq (fake_donor_lent (rig.donors[0]), 0);
  ck_assert (lives_on (0, 1));
  rig_expect (&rig, 0, 'b');
  stop ();
}
END_TEST

START_TEST (the_state_can_be_asked_for_until_the_very_end)
{
  g_autofree char *error = NULL;
  JsonNode *answer;

  params.state = scratch_path ("state");
  prepare (1);
  start ();
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  ck_assert_int_eq (rig_stop_device (&rig), 0);
  answer = state_socket_ask (params.state, "status", 10000 * MS, &error);
  ck_assert_msg (answer != NULL, "%s", error);
  ck_assert (json_object_has_member (json_node_get_object (answer),
                                     "counters"));
  json_node_unref (answer);
  rig_free (&rig);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("mapper");

  tcase_add_checked_fixture (c, setup, scratch_teardown);
  tcase_add_test (c, the_donor_with_the_most_free_memory_gets_the_slab);
  tcase_add_test (c, hello_tells_the_terms);
  tcase_add_test (c, each_hello_has_a_greater_number);
  tcase_add_test
    (c, a_donor_silent_on_probes_delays_by_a_quarter_of_the_deadline);
  tcase_add_test (c, a_donor_that_refuses_is_passed_over);
  tcase_add_test (c, a_donor_without_memory_is_not_asked);
  tcase_add_test (c, a_donor_lost_while_it_is_probed);
  tcase_add_test (c, a_donor_lost_while_it_is_asked_for_a_slab);
  tcase_add_test (c, a_donor_lost_while_its_lanes_are_connected);
  tcase_add_test (c, a_slab_not_given_in_time_ends_the_session);
  tcase_add_test (c, lanes_that_fail_end_the_session);
  tcase_add_test (c, lanes_that_never_stand_end_the_session);
  tcase_add_test (c, a_grant_that_is_too_short_ends_the_session);
  tcase_add_test (c, a_grant_nobody_waits_for_is_given_back);
  tcase_add_test (c, donors_without_a_slab_come_first);
  tcase_add_test (c, slabs_placed_at_once_are_spread_as_well);
  tcase_add_test (c, a_donor_gets_no_more_slabs_than_allowed);
  tcase_add_test (c, another_slab_size_is_no_session);
  tcase_add_test (c, a_session_without_registered_memory_is_tried_again);
  tcase_add_test (c, a_refused_session_is_tried_again);
  tcase_add_test (c, a_donor_that_comes_up_later_is_found);
  tcase_add_test (c, a_donor_that_does_not_answer_hello_is_tried_again);
  tcase_add_test (c, an_idle_donor_is_kept_by_pings);
  tcase_add_test (c, a_silent_donor_is_given_up_within_the_deadline);
  tcase_add_test (c, a_ping_is_answered);
  tcase_add_test (c, a_donor_that_talks_without_end_keeps_nobody_waiting);
  tcase_add_test (c, a_donor_that_takes_no_messages_loses_its_session);
  tcase_add_test (c, a_donor_is_asked_about_few_slabs_at_a_time);
  tcase_add_test (c, a_donor_that_answers_no_map_keeps_few_slabs_waiting);
  tcase_add_test (c, a_second_welcome_ends_the_session);
  tcase_add_test (c, a_message_of_a_borrower_ends_the_session);
  tcase_add_test (c, verbs_is_taken_where_both_have_it);
  tcase_add_test (c, tcp_is_taken_where_the_donor_has_no_verbs);
  tcase_add_test (c, only_verbs_is_only_verbs);
  tcase_add_test (c, a_slab_below_the_threshold_stays_on_disk);
  tcase_add_test (c, the_donors_file_is_read_again_when_it_changes);
  tcase_add_test (c, the_state_can_be_asked_for_until_the_very_end);
  return suite_run ("mapper", c);
}
