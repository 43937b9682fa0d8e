/* Pages that the local copy refused: they are saved as soon as it works
 * again, and before their donor takes its memory back.
 */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "fake_disk.h"
#include "logged.h"
#include "rig.h"
#include "scratch.h"
#include "suite.h"
#include "thread.h"

enum { EVICT = 815 };

static struct rig rig;
static struct slab_home home;   /* of slab 0 */

static void
lend (unsigned donor, unsigned slabs)
{
  struct fake_script s = fake_donor_script (rig.donors[donor]);

  s.slabs = slabs;
  fake_donor_follow (rig.donors[donor], &s);
}

/* Donor 0 has slab 0: page 0 and 1, full of 'a', are on the local copy as
 * well, page 2 and 3, full of 'b', were refused by it.
 */
static void
start_with (unsigned donors, int64_t deadline_ns)
{
  struct rig_params p = rig_defaults ();

  scratch_setup ();
  p.donors = donors;
  p.deadline_ns = deadline_ns;
  rig_prepare (&rig, &p);
  for (unsigned i = 1; i < donors; i++)
    lend (i, 0);
  rig_start (&rig);
  for (unsigned i = 0; i < donors; i++)
    fake_donor_wait_heard (rig.donors[i], MESSAGE_HELLO, 1);
  usleep (50000);
  rig_write (&rig, 0, 'a');
  home = rig_wait_mapped (&rig, 0);
  rig_write (&rig, 0, 'a');
  rig_write (&rig, 1, 'a');
  ck_assert_int_eq (device_flush (rig.device), 0);
  fake_disk_fail (0, MIB, true);
  rig_write (&rig, 2, 'b');
  rig_write (&rig, 3, 'b');
  while (slab_table_remote_only (rig.device->slabs) < 2)
    usleep (500);
}

static void
start (unsigned donors)
{
  start_with (donors, rig_defaults ().deadline_ns);
}

static void
stop (int result)
{
  ck_assert_int_eq (rig_stop (&rig), result);
  scratch_teardown ();
}

static void
evict (void)
{
  struct message m = {
    .type = MESSAGE_EVICT, .id = EVICT,
    .grants = { .count = 1, .grants = { home.grant } },
  };

  fake_donor_say (rig.donors[0], &m);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_DONE, 1);
  m = fake_donor_last (rig.donors[0], MESSAGE_DONE);
  ck_assert_uint_eq (m.id, EVICT);
  ck_assert_uint_eq (m.done.grant, home.grant);
}

static void
expect_all (void)
{
  rig_expect (&rig, 0, 'a');
  rig_expect (&rig, 1, 'a');
  rig_expect (&rig, 2, 'b');
  rig_expect (&rig, 3, 'b');
}

static int
try_read (uint64_t page)
{
  char buf[PAGE];

  return device_read (rig.device, buf, PAGE, page * PAGE);
}

START_TEST (a_disk_that_works_again_gets_what_it_refused)
{
  start (1);
  fake_disk_mend ();
  while (slab_table_remote_only (rig.device->slabs) > 0)
    usleep (500);
  ck_assert_int_eq (rig_disk_byte (&rig, 2 * PAGE), 'b');
  expect_all ();
  stop (0);
}
END_TEST

START_TEST (a_flush_saves_what_was_refused)
{
  start (1);
  ck_assert_int_eq (device_flush (rig.device), -EIO);
  fake_disk_mend ();
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 2 * PAGE), 'b');
  stop (0);
}
END_TEST

static void
wait_logged (const char *line)
{
  while (!strstr (logged (), line))
    usleep (10000);
}

START_TEST (the_log_tells_what_is_wrong_and_when_it_is_over)
{
  g_autofree char *fails = NULL, *well = NULL;

  logged_begin ();
  start_with (1, 4000 * MS);    /* it is over after twice that, at least */
  fails = g_strdup_printf ("local copy %s: writes fail: Input/output error",
                           rig.path);
  well = g_strdup_printf ("local copy %s: has every page again", rig.path);
  wait_logged (fails);
  usleep (1500000);
  ck_assert_ptr_null (strstr (logged (), "local copy"));
  fake_disk_mend ();
  wait_logged (well);
  stop (0);
  logged_end ();
}
END_TEST

/* Page 2 stays bad, its neighbour does not. */
START_TEST (a_bad_page_does_not_keep_others_from_being_saved)
{
  start (1);
  fake_disk_fail (2 * PAGE, 3 * PAGE, false);
  ck_assert_int_eq (device_flush (rig.device), -EIO);
  ck_assert_int_eq (rig_disk_byte (&rig, 3 * PAGE), 'b');
  ck_assert_uint_eq (slab_table_remote_only (rig.device->slabs), 1);
  expect_all ();
  fake_disk_mend ();
  stop (0);
}
END_TEST

START_TEST (a_stop_saves_what_was_refused)
{
  start (1);
  fake_disk_mend ();
  ck_assert_int_eq (rig_stop_device (&rig), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 3 * PAGE), 'b');
  rig_free (&rig);
  scratch_teardown ();
}
END_TEST

START_TEST (an_evicted_slab_is_saved_to_a_disk_that_works_again)
{
  start (1);
  fake_disk_mend ();
  evict ();
  ck_assert_int_eq (rig_disk_byte (&rig, 2 * PAGE), 'b');
  ck_assert_int_eq (rig_disk_byte (&rig, 3 * PAGE), 'b');
  expect_all ();
  stop (0);
}
END_TEST

START_TEST (an_evicted_slab_moves_while_the_disk_fails)
{
  start (2);
  lend (1, 1);
  evict ();
  usleep (50000);               /* it is to stay there */
  ck_assert_uint_eq (fake_donor_lent (rig.donors[0]), 0);
  ck_assert_uint_eq (fake_donor_lent (rig.donors[1]), 1);
  expect_all ();
  fake_disk_mend ();
  ck_assert_int_eq (device_flush (rig.device), 0);
  expect_all ();
  stop (0);
}
END_TEST

/* The disk, which may refuse reads as well, has it in vain. */
START_TEST (a_slab_that_the_disk_has_moves_too_while_it_fails)
{
  struct message m = { .type = MESSAGE_EVICT, .id = EVICT };
  struct slab_home other;

  start (2);
  fake_disk_mend ();
  rig_write (&rig, MIB / PAGE, 'c');
  other = rig_wait_mapped (&rig, 1);
  rig_write (&rig, MIB / PAGE, 'c');
  ck_assert_int_eq (device_flush (rig.device), 0);
  fake_disk_fail (0, 2 * MIB, true);
  rig_write (&rig, 2, 'b');
  while (slab_table_remote_only (rig.device->slabs) == 0)
    usleep (500);
  lend (1, 1);
  m.grants.count = 1;
  m.grants.grants[0] = other.grant;
  fake_donor_say (rig.donors[0], &m);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_DONE, 1);
  rig_expect (&rig, MIB / PAGE, 'c');
  fake_disk_mend ();
  stop (0);
}
END_TEST

START_TEST (what_nobody_takes_is_lost_and_the_rest_is_served)
{
  start (1);
  lend (0, 0);
  evict ();
  ck_assert_int_eq (try_read (2), -EIO);
  fake_disk_mend ();
  rig_expect (&rig, 0, 'a');
  rig_expect (&rig, 1, 'a');
  ck_assert_int_eq (try_read (2), -EIO);
  rig_write (&rig, 2, 'c');
  rig_expect (&rig, 2, 'c');
  stop (-EIO);                  /* page 3 */
}
END_TEST

/* The slab finds a new home while its rescue from the old one still waits
 * for that of another slab.
 */
START_TEST (a_rescue_that_waits_outlives_its_slabs_home)
{
  struct message m = {
    .type = MESSAGE_EVICT, .id = EVICT, .grants = { .count = 2 },
  };
  const uint64_t second = MIB / PAGE;

  start (1);
  rig_write (&rig, second, 'c');
  while (slab_table_remote_only (rig.device->slabs) < 2)
    usleep (500);
  m.grants.grants[0] = rig_wait_mapped (&rig, 1).grant;
  m.grants.grants[1] = home.grant;
  fake_disk_fail (MIB, 2 * MIB, false);
  rig_write (&rig, second, 'c');
  while (slab_table_remote_only (rig.device->slabs) < 3)
    usleep (500);
  fake_disk_mend ();
  fake_disk_hold_writes (MIB, 2 * MIB);
  fake_donor_say (rig.donors[0], &m);
  fake_disk_wait_held (1);
  fake_donor_end_sessions (rig.donors[0]);
  rig_wait_unmapped (&rig, 0);
  rig_write (&rig, 2, 'd');
  rig_write (&rig, 3, 'd');
  rig_wait_mapped (&rig, 0);
  fake_disk_pass ();
  usleep (50000);
  rig_wait_mapped (&rig, 0);
  rig_expect (&rig, 2, 'd');
  rig_write (&rig, second, 'e');
  stop (0);
}
END_TEST

static struct fake_fate
hold (void *data, const struct fabric_op *op)
{
  (void) data;
  (void) op;
  return (struct fake_fate) { .delay_ns = FAKE_HELD };
}

START_TEST (a_next_home_that_is_evicted_too_is_left_again)
{
  struct message m = {
    .type = MESSAGE_EVICT, .id = EVICT, .grants = { .count = 1 },
  };

  start (3);
  m.grants.grants[0] = home.grant;
  fake_donor_decide (rig.donors[1], hold, NULL);
  lend (1, 1);
  fake_donor_say (rig.donors[0], &m);
  fake_donor_wait_held (rig.donors[1], 1);
  m.grants.grants[0] = fake_donor_newest_grant (rig.donors[1]);
  fake_donor_say (rig.donors[1], &m);
  usleep (50000);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[1], MESSAGE_DONE), 0);
  lend (0, 0);
  lend (2, 1);
  fake_donor_decide (rig.donors[1], NULL, NULL);
  fake_donor_release (rig.donors[1], false);
  fake_donor_wait_heard (rig.donors[1], MESSAGE_DONE, 1);
  expect_all ();
  ck_assert_uint_eq (fake_donor_lent (rig.donors[2]), 1);
  fake_disk_mend ();
  stop (0);
}
END_TEST

static struct fake_fate
refuse_writes (void *data, const struct fabric_op *op)
{
  (void) data;
  return (struct fake_fate) {
    .status = op->type == FABRIC_WRITE ? -EREMOTEIO : 0,
  };
}

START_TEST (after_a_donor_that_fails_another_is_tried)
{
  start (3);
  fake_donor_decide (rig.donors[1], refuse_writes, NULL);
  fake_donor_decide (rig.donors[2], refuse_writes, NULL);
  lend (1, 1);
  lend (2, 1);
  fake_donor_decide (rig.donors[2], NULL, NULL);
  evict ();
  expect_all ();
  ck_assert_uint_eq (fake_donor_lent (rig.donors[2]), 1);
  fake_disk_mend ();
  stop (0);
}
END_TEST

START_TEST (a_donor_lost_while_a_slab_moves_there)
{
  start (2);
  fake_donor_decide (rig.donors[1], refuse_writes, NULL);
  lend (0, 0);
  lend (1, 1);
  evict ();
  ck_assert_int_eq (try_read (2), -EIO);
  fake_disk_mend ();
  rig_expect (&rig, 0, 'a');
  fake_donor_decide (rig.donors[1], NULL, NULL);
  rig_write (&rig, 2, 'c');
  rig_write (&rig, 3, 'c');
  rig_wait_mapped (&rig, 0);
  stop (0);
}
END_TEST

static void
write_and_read (void *data)
{
  (void) data;
  rig_write (&rig, 2, 'c');
  rig_expect (&rig, 2, 'c');
}

/* Else the older content might land on the newer. */
START_TEST (a_write_waits_while_its_slab_moves)
{
  struct message m = {
    .type = MESSAGE_EVICT, .id = EVICT,
    .grants = { .count = 1, .grants = { home.grant } },
  };
  struct thread writer;

  start (2);
  m.grants.grants[0] = home.grant;
  fake_donor_decide (rig.donors[1], hold, NULL);
  lend (1, 1);
  fake_donor_say (rig.donors[0], &m);
  fake_donor_wait_held (rig.donors[1], 1);
  thread_start (&writer, write_and_read, NULL);
  thread_wait_asleep (&writer);
  rig_expect (&rig, 3, 'b');
  fake_donor_decide (rig.donors[1], NULL, NULL);
  fake_donor_release (rig.donors[1], false);
  thread_join (&writer);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_DONE, 1);
  rig_expect (&rig, 2, 'c');
  rig_expect (&rig, 3, 'b');
  fake_disk_mend ();
  stop (0);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("rescue");

  tcase_add_test (c, a_disk_that_works_again_gets_what_it_refused);
  tcase_add_test (c, a_flush_saves_what_was_refused);
  tcase_add_test (c, the_log_tells_what_is_wrong_and_when_it_is_over);
  tcase_add_test (c, a_bad_page_does_not_keep_others_from_being_saved);
  tcase_add_test (c, a_stop_saves_what_was_refused);
  tcase_add_test (c, an_evicted_slab_is_saved_to_a_disk_that_works_again);
  tcase_add_test (c, an_evicted_slab_moves_while_the_disk_fails);
  tcase_add_test (c, a_slab_that_the_disk_has_moves_too_while_it_fails);
  tcase_add_test (c, what_nobody_takes_is_lost_and_the_rest_is_served);
  tcase_add_test (c, a_rescue_that_waits_outlives_its_slabs_home);
  tcase_add_test (c, a_next_home_that_is_evicted_too_is_left_again);
  tcase_add_test (c, after_a_donor_that_fails_another_is_tried);
  tcase_add_test (c, a_donor_lost_while_a_slab_moves_there);
  tcase_add_test (c, a_write_waits_while_its_slab_moves);
  return suite_run ("rescue", c);
}
