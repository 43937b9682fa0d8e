/* Slabs that leave a donor which stands: because it wants its memory back,
 * or because they need it no more.
 */

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "rig.h"
#include "scratch.h"
#include "suite.h"

enum { SLAB = MIB / PAGE, EVICT = 815 };

static struct rig rig;
static struct rig_params params;

static void
setup (void)
{
  scratch_setup ();
  params = rig_defaults ();
}

/* The first donor has the most free memory. */
static void
start (unsigned donors)
{
  params.donors = donors;
  rig_prepare (&rig, &params);
  for (unsigned i = 0; i < donors; i++) {
    struct fake_script s = fake_donor_script (rig.donors[i]);

    s.free_bytes = (100 - i) * UINT64_C (100) * MIB;
    fake_donor_follow (rig.donors[i], &s);
  }
  rig_start (&rig);
  for (unsigned i = 0; i < donors; i++)
    fake_donor_wait_heard (rig.donors[i], MESSAGE_HELLO, 1);
  usleep (50000);
}

static void
stop (void)
{
  ck_assert_int_eq (rig_stop (&rig), 0);
}

static void
say (enum message_type type, uint64_t grant)
{
  struct message m = {
    .type = type, .id = EVICT,
    .grants = { .count = 1, .grants = { grant } },
  };

  fake_donor_say (rig.donors[0], &m);
}

static void
expect_done (unsigned count, uint64_t grant)
{
  struct message m;

  fake_donor_wait_heard (rig.donors[0], MESSAGE_DONE, count);
  m = fake_donor_last (rig.donors[0], MESSAGE_DONE);
  ck_assert_uint_eq (m.id, EVICT);
  ck_assert_uint_eq (m.done.grant, grant);
}

/* The slab is mapped, with another grant than this. */
static struct slab_home
wait_moved (uint64_t slab, uint64_t grant)
{
  struct slab_home home;

  do
    home = rig_wait_mapped (&rig, slab);
  while (home.grant == grant);
  return home;
}

START_TEST (an_evicted_slab_is_placed_with_another_donor_at_once)
{
  struct slab_home home;

  start (2);
  rig_write (&rig, 0, 'a');
  home = rig_wait_mapped (&rig, 0);
  rig_write (&rig, 1, 'b');
  say (MESSAGE_EVICT, home.grant);
  expect_done (1, home.grant);
  wait_moved (0, home.grant);
  ck_assert_uint_eq (fake_donor_lent (rig.donors[0]), 0);
  ck_assert_uint_eq (fake_donor_lent (rig.donors[1]), 1);
  rig_expect (&rig, 0, 'a');
  rig_expect (&rig, 1, 'b');
  /* The session went on. */
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_HELLO), 1);
  stop ();
}
END_TEST

START_TEST (where_there_is_no_other_donor_the_same_is_asked)
{
  struct slab_home home;

  start (1);
  rig_write (&rig, 0, 'a');
  home = rig_wait_mapped (&rig, 0);
  say (MESSAGE_EVICT, home.grant);
  expect_done (1, home.grant);
  wait_moved (0, home.grant);
  rig_expect (&rig, 0, 'a');
  stop ();
}
END_TEST

START_TEST (a_grant_that_is_not_in_use_is_done_with)
{
  struct slab_home home;

  start (1);
  rig_write (&rig, 0, 'a');
  home = rig_wait_mapped (&rig, 0);
  say (MESSAGE_EVICT, 4711);
  expect_done (1, 4711);
  ck_assert_uint_eq (rig_wait_mapped (&rig, 0).grant, home.grant);
  stop ();
}
END_TEST

static struct fake_fate
hold (void *data, const struct fabric_op *op)
{
  (void) data;
  (void) op;
  return (struct fake_fate) { .delay_ns = FAKE_HELD };
}

static void *
write_page (void *data)
{
  (void) data;
  rig_write (&rig, 0, 'b');
  return NULL;
}

START_TEST (done_waits_for_what_is_in_flight)
{
  struct slab_home home;
  pthread_t writer;

  start (1);
  rig_write (&rig, 0, 'a');
  home = rig_wait_mapped (&rig, 0);
  fake_donor_decide (rig.donors[0], hold, NULL);
  pthread_create (&writer, NULL, write_page, NULL);
  fake_donor_wait_held (rig.donors[0], 1);
  say (MESSAGE_EVICT, home.grant);
  rig_wait_unmapped (&rig, 0);
  rig_expect (&rig, 2, 0);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_DONE), 0);
  fake_donor_decide (rig.donors[0], NULL, NULL);
  fake_donor_release (rig.donors[0], false);
  expect_done (1, home.grant);
  pthread_join (writer, NULL);
  rig_expect (&rig, 0, 'b');
  stop ();
}
END_TEST

START_TEST (a_session_that_ends_during_an_eviction)
{
  struct slab_home home;
  pthread_t writer;

  start (1);
  rig_write (&rig, 0, 'a');
  home = rig_wait_mapped (&rig, 0);
  fake_donor_decide (rig.donors[0], hold, NULL);
  pthread_create (&writer, NULL, write_page, NULL);
  fake_donor_wait_held (rig.donors[0], 1);
  say (MESSAGE_EVICT, home.grant);
  rig_wait_unmapped (&rig, 0);
  fake_donor_decide (rig.donors[0], NULL, NULL);
  fake_donor_end_sessions (rig.donors[0]);
  pthread_join (writer, NULL);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 2);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_DONE), 0);
  wait_moved (0, home.grant);
  rig_expect (&rig, 0, 'b');
  stop ();
}
END_TEST

START_TEST (a_slab_whose_lanes_do_not_stand_yet_looks_elsewhere)
{
  struct fake_script s;
  uint64_t grant;

  start (2);
  s = fake_donor_script (rig.donors[0]);
  s.lanes = -EAGAIN;
  fake_donor_follow (rig.donors[0], &s);
  rig_write (&rig, 0, 'a');
  fake_donor_wait_heard (rig.donors[0], MESSAGE_MAP, 1);
  while (fake_donor_lent (rig.donors[0]) == 0)
    usleep (500);
  usleep (50000);               /* for MR_INFO to arrive */
  grant = fake_donor_newest_grant (rig.donors[0]);
  say (MESSAGE_EVICT, grant);
  expect_done (1, grant);
  rig_wait_mapped (&rig, 0);
  ck_assert_uint_eq (fake_donor_lent (rig.donors[1]), 1);
  rig_expect (&rig, 0, 'a');
  stop ();
}
END_TEST

START_TEST (a_channel_that_is_full_is_waited_for)
{
  struct slab_home home;

  params.deadline_ns = 2000 * MS;
  start (1);
  rig_write (&rig, 0, 'a');
  home = rig_wait_mapped (&rig, 0);
  fake_fabric_full (true);
  say (MESSAGE_EVICT, home.grant);
  rig_wait_unmapped (&rig, 0);
  usleep (50000);
  fake_fabric_full (false);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_DONE, 1);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_HELLO), 1);
  wait_moved (0, home.grant);
  rig_expect (&rig, 0, 'a');
  stop ();
}
END_TEST

START_TEST (activity_is_told)
{
  struct message question = {
    .type = MESSAGE_CHECK_ACTIVITY, .id = 77,
    .grants = { .count = 2, .grants = { 4711 } },
  };
  struct message m;

  start (1);
  rig_write (&rig, 0, 'a');
  question.grants.grants[1] = rig_wait_mapped (&rig, 0).grant;
  for (int i = 0; i < 100; i++)
    rig_write (&rig, i, 'a');
  fake_donor_say (rig.donors[0], &question);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_ACTIVITY, 1);
  m = fake_donor_last (rig.donors[0], MESSAGE_ACTIVITY);
  ck_assert_uint_eq (m.id, 77);
  ck_assert_uint_eq (m.activity.count, 2);
  ck_assert_uint_eq (m.activity.of[0].grant, 4711);
  ck_assert_uint_eq (m.activity.of[0].activity_milli, 0);
  ck_assert_uint_eq (m.activity.of[1].grant, question.grants.grants[1]);
  /* 101 pages at alpha = 0.2, a second or two ago at most. */
  ck_assert_uint_ge (m.activity.of[1].activity_milli, 9000);
  ck_assert_uint_le (m.activity.of[1].activity_milli, 20200);
  stop ();
}
END_TEST

START_TEST (a_cold_slab_is_given_back_and_comes_again)
{
  struct slab_home home;

  params.hot_slab = 8;
  params.cold_slab = 4;
  start (1);
  for (int i = 0; i < 50; i++)
    rig_write (&rig, i, 'a');
  home = rig_wait_mapped (&rig, 0);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_UNMAP, 1);
  ck_assert_uint_eq (fake_donor_last (rig.donors[0],
                                      MESSAGE_UNMAP).unmap.grant,
                     home.grant);
  for (int i = 0; i < 50; i++)
    rig_expect (&rig, i, 'a');
  wait_moved (0, home.grant);
  stop ();
}
END_TEST

START_TEST (a_slab_that_is_discarded_is_given_back)
{
  struct slab_home home;

  start (1);
  rig_write (&rig, 0, 'a');
  home = rig_wait_mapped (&rig, 0);
  rig_write (&rig, 1, 'a');
  rig_settle (&rig);
  ck_assert_int_eq (device_trim (rig.device, MIB, 0), 0);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_UNMAP, 1);
  rig_expect (&rig, 1, 0);
  usleep (50000);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_MAP), 1);
  rig_write (&rig, 2, 'b');
  wait_moved (0, home.grant);
  rig_expect (&rig, 2, 'b');
  stop ();
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("eviction");

  tcase_add_checked_fixture (c, setup, scratch_teardown);
  tcase_add_test (c, an_evicted_slab_is_placed_with_another_donor_at_once);
  tcase_add_test (c, where_there_is_no_other_donor_the_same_is_asked);
  tcase_add_test (c, a_grant_that_is_not_in_use_is_done_with);
  tcase_add_test (c, done_waits_for_what_is_in_flight);
  tcase_add_test (c, a_session_that_ends_during_an_eviction);
  tcase_add_test (c, a_slab_whose_lanes_do_not_stand_yet_looks_elsewhere);
  tcase_add_test (c, a_channel_that_is_full_is_waited_for);
  tcase_add_test (c, activity_is_told);
  tcase_add_test (c, a_cold_slab_is_given_back_and_comes_again);
  tcase_add_test (c, a_slab_that_is_discarded_is_given_back);
  return suite_run ("eviction", c);
}
