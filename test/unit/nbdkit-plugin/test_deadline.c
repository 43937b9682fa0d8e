/* Donors that do not complete what they were given. */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fake_disk.h"
#include "rig.h"
#include "scratch.h"
#include "suite.h"
#include "thread.h"

/* The contract is the deadline and a second; three times that on a machine
 * that has much else to do.
 */
enum { SLAB = MIB / PAGE, DEADLINE_MS = 400, SLACK_MS = 3000 };

static struct rig rig;

/* Two donors; slab 0 is on the first, slab 1 on the second, pages 0 to 31
 * of both full of 'a', there and on disk.
 */
static unsigned stuck;          /* the number of the donor of slab 0 */

static void
setup_lanes (unsigned lanes)
{
  struct rig_params p = rig_defaults ();
  static char buf[32 * PAGE];
  char byte;

  scratch_setup ();
  p.donors = 2;
  p.deadline_ns = DEADLINE_MS * MS;
  p.lanes = lanes;
  p.write_behind_bytes = lanes * MIB;
  rig_prepare (&rig, &p);
  rig_start (&rig);
  memset (buf, 'a', sizeof buf);
  for (int slab = 0; slab < 2; slab++) {
    uint64_t key;

    rig_write (&rig, slab * SLAB, 'x');
    key = rig_wait_mapped (&rig, slab).key;
    ck_assert (fake_grant_copy (key, 0, &byte, 1));
    ck_assert_int_eq (device_write (rig.device, buf, sizeof buf,
                                    slab * MIB), 0);
    if (slab == 0)
      stuck = fake_donor_lent (rig.donors[0]) == 1 ? 0 : 1;
  }
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_uint_ge (rig_written_donors (&rig), 64);
}

static void
setup (void)
{
  setup_lanes (2);
}

static void
setup_many_lanes (void)
{
  setup_lanes (8);
}

static void
teardown (void)
{
  rig_lose_donors (&rig);
  ck_assert_int_eq (rig_stop (&rig), 0);
  scratch_teardown ();
}

static struct fake_fate
hold (void *data, const struct fabric_op *op)
{
  (void) data;
  (void) op;
  return (struct fake_fate) { .delay_ns = FAKE_HELD };
}

/* From now on the donor of slab 0 completes nothing, and lends nothing
 * new, so that what is tried is tried once.
 */
static void
get_stuck (void)
{
  struct fake_script s = fake_donor_script (rig.donors[stuck]);

  s.slabs = 0;
  fake_donor_follow (rig.donors[stuck], &s);
  fake_donor_decide (rig.donors[stuck], hold, NULL);
}

static int64_t began_ns;

static void
begin (void)
{
  began_ns = fabric_now_ns ();
}

static int64_t
took_ms (void)
{
  return (fabric_now_ns () - began_ns) / MS;
}

static void
assert_in_time (const char *what)
{
  int64_t ms = took_ms ();

  printf ("%s: %d ms with a deadline of %d ms\n", what, (int) ms,
          DEADLINE_MS);
  ck_assert_int_le (ms, DEADLINE_MS + SLACK_MS);
}

START_TEST (a_read_from_a_stuck_donor_ends_in_time)
{
  const unsigned posted = fake_donor_posted (rig.donors[stuck]);

  get_stuck ();
  begin ();
  rig_expect (&rig, 3, 'a');
  assert_in_time ("read");
  ck_assert_int_ge (took_ms (), DEADLINE_MS);
  ck_assert_uint_eq (fake_donor_posted (rig.donors[stuck]), posted + 1);
  rig_expect (&rig, SLAB, 'a');
}
END_TEST

/* The request is over when a slot has the page; the donor loses its session
 * when it is late.
 */
START_TEST (a_write_to_a_stuck_donor_waits_for_nobody)
{
  get_stuck ();
  begin ();
  rig_write (&rig, 3, 'b');
  ck_assert_int_lt (took_ms (), DEADLINE_MS);
  rig_expect (&rig, 3, 'b');
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 3 * PAGE), 'b');
  rig_expect (&rig, 3, 'b');
  ck_assert_int_lt (took_ms (), DEADLINE_MS);
  rig_settle (&rig);
  ck_assert_int_ge (took_ms (), DEADLINE_MS);
  assert_in_time ("write");
  ck_assert_uint_eq (atomic_load (&rig.device->counters.deadlines_missed),
                     1);
  rig_expect (&rig, 3, 'b');
}
END_TEST

/* Another write of the page does not wait for the first, but goes to the
 * local copy and to a donor when that has had its time.
 */
START_TEST (a_write_after_one_to_a_stuck_donor_ends_in_time)
{
  get_stuck ();
  rig_write (&rig, 3, 'b');
  fake_donor_wait_held (rig.donors[stuck], 1);
  begin ();
  rig_write (&rig, 3, 'c');
  ck_assert_int_lt (took_ms (), DEADLINE_MS);
  rig_expect (&rig, 3, 'c');
  ck_assert_int_eq (device_flush (rig.device), 0);
  assert_in_time ("second write");
  ck_assert_int_eq (rig_disk_byte (&rig, 3 * PAGE), 'c');
  rig_expect (&rig, 3, 'c');
}
END_TEST

/* What is left of the deadline after the first slab is too little to ask
 * the donor of the next one, which would lose its session for it.
 */
START_TEST (a_stuck_donor_costs_no_other_its_session)
{
  struct fake_donor *well = rig.donors[!stuck];
  const unsigned sessions = fake_donor_heard (well, MESSAGE_HELLO);
  const unsigned posted = fake_donor_posted (well);
  char got[2 * PAGE], want[2 * PAGE];

  memset (want, 'a', sizeof want);
  rig_write (&rig, SLAB - 1, 'a');
  ck_assert_int_eq (device_flush (rig.device), 0);
  rig_settle (&rig);
  get_stuck ();
  begin ();
  ck_assert_int_eq (device_read (rig.device, got, sizeof got,
                                 MIB - PAGE), 0);
  assert_in_time ("read over two donors");
  ck_assert_mem_eq (got, want, sizeof got);
  ck_assert_uint_eq (fake_donor_posted (well), posted);
  rig_expect (&rig, SLAB, 'a');
  ck_assert_uint_eq (fake_donor_posted (well), posted + 1);
  ck_assert_uint_eq (fake_donor_heard (well, MESSAGE_HELLO), sessions);
}
END_TEST

START_TEST (a_long_request_has_one_deadline)
{
  static char buf[MIB];

  memset (buf, 'c', sizeof buf);
  get_stuck ();
  begin ();
  ck_assert_int_eq (device_write (rig.device, buf, sizeof buf, 0), 0);
  assert_in_time ("write of 1 MiB");
  rig_expect (&rig, SLAB - 1, 'c');
}
END_TEST

START_TEST (a_merge_with_a_stuck_donor_ends_in_time)
{
  char page[PAGE];

  get_stuck ();
  begin ();
  ck_assert_int_eq (device_write (rig.device, "bb", 2, 5 * PAGE - 1), 0);
  assert_in_time ("write of parts of two pages");
  ck_assert_int_eq (device_read (rig.device, page, PAGE, 5 * PAGE - 100), 0);
  ck_assert_int_eq (page[98], 'a');
  ck_assert_int_eq (page[99], 'b');
  ck_assert_int_eq (page[100], 'b');
  ck_assert_int_eq (page[101], 'a');
}
END_TEST

static void
write_3 (void *data)
{
  rig_write (&rig, 3, *(char *) data);
}

static void
read_3 (void *data)
{
  (void) data;
  rig_expect (&rig, 3, 'a');
}

/* A read sleeps on the stuck donor; the other donor goes on. */
START_TEST (other_donors_go_on)
{
  struct thread reader;
  unsigned donor = !stuck;
  int rounds = 0;

  get_stuck ();
  thread_start (&reader, read_3, NULL);
  fake_donor_wait_held (rig.donors[stuck], 1);
  for (begin (); took_ms () < DEADLINE_MS / 2; rounds++) {
    rig_write (&rig, SLAB + 31, 'a' + rounds % 26);
    rig_expect (&rig, SLAB + 31, 'a' + rounds % 26);
    rig_expect (&rig, SLAB + 1 + rounds % 30, 'a');
  }
  ck_assert_uint_eq (fake_donor_held (rig.donors[stuck]), 1);
  ck_assert_uint_ge (fake_donor_posted (rig.donors[donor]), rounds);
  ck_assert_int_gt (rounds, 10);
  thread_join (&reader);
}
END_TEST

/* Writes, which nobody waits for, take no lane. */
START_TEST (other_donors_go_on_beside_writes)
{
  struct thread writer;
  char fill = 'c';

  get_stuck ();
  rig_write (&rig, 4, 'b');
  thread_start (&writer, write_3, &fill);
  for (begin (); took_ms () < DEADLINE_MS / 2; )
    rig_expect (&rig, SLAB + 1, 'a');
  ck_assert_int_lt (took_ms (), DEADLINE_MS * 3 / 4);
  ck_assert_uint_ge (fake_donor_held (rig.donors[stuck]), 1);
  thread_join (&writer);
  rig_expect (&rig, 3, 'c');
}
END_TEST

/* More for the stuck donor than its queue takes, or than is for one donor:
 * what is written to the other one is there soon, and the rest on the local
 * copy.
 */
START_TEST (writes_to_other_donors_go_on)
{
  unsigned posted;

  get_stuck ();
  for (int i = 0; i < SLAB; i += 2)
    rig_write (&rig, i, 'b');
  ck_assert_int_eq (device_flush (rig.device), 0);
  posted = fake_donor_posted (rig.donors[!stuck]);
  begin ();
  rig_write (&rig, SLAB + 40, 'c');
  ck_assert_int_eq (device_flush (rig.device), 0);
  while (fake_donor_posted (rig.donors[!stuck]) == posted &&
         fake_donor_held (rig.donors[stuck]) > 0)
    usleep (1000);
  ck_assert_uint_eq (fake_donor_posted (rig.donors[!stuck]), posted + 1);
  assert_in_time ("write beside a full queue");
  for (int i = 0; i < SLAB; i += 2)
    ck_assert_int_eq (rig_disk_byte (&rig, i * PAGE), 'b');
  ck_assert_int_eq (rig_disk_byte (&rig, (SLAB + 40) * PAGE), 'c');
}
END_TEST

/* What ends the session of the stuck donor takes longer than the deadline of
 * what is written to the other one meanwhile.
 */
START_TEST (a_donor_is_not_late_for_another_s_sake)
{
  const uint64_t before = rig_written_donors (&rig);
  const _Atomic uint64_t *missed = &rig.device->counters.deadlines_missed;

  get_stuck ();
  fake_fabric_slow_settle (DEADLINE_MS * MS * 2);
  rig_write (&rig, 3, 'b');
  usleep ((DEADLINE_MS + 100) * 1000);
  rig_write (&rig, SLAB + 40, 'c');
  while (atomic_load (missed) == 0)
    usleep (1000);
  ck_assert_uint_eq (rig_written_donors (&rig), before + 1);
  ck_assert_uint_eq (atomic_load (missed), 1);
  fake_fabric_slow_settle (0);
  rig_expect (&rig, SLAB + 40, 'c');
}
END_TEST

/* What has landed nowhere keeps its slots, but leaves most for others. */
START_TEST (a_stuck_donor_holds_a_part_of_the_slots)
{
  struct slot_pool_stats stats;

  get_stuck ();
  for (int i = 0; i < 250; i++)
    rig_write (&rig, i, 'b');
  begin ();
  ck_assert_int_eq (device_flush (rig.device), 0);
  slot_pool_stats (rig.device->slots, &stats);
  if (took_ms () < DEADLINE_MS / 2)
    ck_assert_uint_gt (stats.in_use, 0);
  ck_assert_uint_le (stats.in_use, stats.slots / 4);
  for (int i = 0; i < 250; i += 10)
    rig_expect (&rig, i, 'b');
}
END_TEST

static struct fake_fate
take_most_of_it (void *data, const struct fabric_op *op)
{
  (void) data;
  (void) op;
  return (struct fake_fate) { .delay_ns = DEADLINE_MS * MS * 3 / 4 };
}

/* When the donor has the page the writer is busy trying once more to write it
 * to a disk that is slow to fail.
 */
START_TEST (a_disk_that_is_slow_to_fail_holds_up_no_donor)
{
  const _Atomic uint64_t *written = &rig.device->counters.written_donors;
  const uint64_t before = rig_written_donors (&rig);

  fake_donor_decide (rig.donors[stuck], take_most_of_it, NULL);
  fake_disk_hold_writes (3 * PAGE, 4 * PAGE);
  begin ();
  rig_write (&rig, 3, 'b');
  fake_disk_wait_held (1);
  fake_disk_fail (3 * PAGE, 4 * PAGE, false);
  fake_disk_slow (DEADLINE_MS * MS * 5);
  fake_disk_pass ();
  while (atomic_load (written) == before &&
         rig.device->counters.deadlines_missed == 0)
    usleep (1000);
  ck_assert_int_lt (took_ms (), DEADLINE_MS * 4);
  fake_disk_mend ();
  fake_disk_slow (0);
  fake_donor_decide (rig.donors[stuck], NULL, NULL);
  ck_assert_uint_eq (rig.device->counters.deadlines_missed, 0);
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_uint_eq (rig_written_donors (&rig), before + 1);
  rig_expect (&rig, 3, 'b');
}
END_TEST

/* Both lanes wait for the stuck donor: those who want the other one wait
 * for a lane no longer than their deadline either.
 */
START_TEST (with_all_lanes_stuck_requests_end_in_time)
{
  struct thread readers[2];

  get_stuck ();
  for (int i = 0; i < 2; i++)
    thread_start (&readers[i], read_3, NULL);
  fake_donor_wait_held (rig.donors[stuck], 2);
  begin ();
  if (_i == 0)
    rig_expect (&rig, SLAB + 1, 'a');
  else
    rig_write (&rig, SLAB + 1, 'b');
  assert_in_time (_i == 0 ? "read without a lane" : "write without a lane");
  rig_expect (&rig, SLAB + 1, _i == 0 ? 'a' : 'b');
  for (int i = 0; i < 2; i++)
    thread_join (&readers[i]);
}
END_TEST

/* The end of a session, for whatever reason, wakes all its waiters. */
START_TEST (the_end_of_a_session_wakes_its_waiters)
{
  struct thread reader;

  get_stuck ();
  begin ();
  thread_start (&reader, read_3, NULL);
  fake_donor_wait_held (rig.donors[stuck], 1);
  fake_donor_end_sessions (rig.donors[stuck]);
  thread_join (&reader);
  ck_assert_int_lt (took_ms (), DEADLINE_MS);
}
END_TEST

static struct fake_fate
hold_reads_fail_writes (void *data, const struct fabric_op *op)
{
  (void) data;
  if (op->type == FABRIC_READ)
    return (struct fake_fate) { .delay_ns = FAKE_HELD };
  return (struct fake_fate) { .status = -EREMOTEIO };
}

/* The same when it is another request that notices. */
START_TEST (a_failure_wakes_all_who_wait_for_its_session)
{
  struct thread reader;

  get_stuck ();
  fake_donor_decide (rig.donors[stuck], hold_reads_fail_writes, NULL);
  begin ();
  thread_start (&reader, read_3, NULL);
  fake_donor_wait_held (rig.donors[stuck], 1);
  rig_write (&rig, 4, 'b');
  thread_join (&reader);
  ck_assert_int_lt (took_ms (), DEADLINE_MS);
}
END_TEST

/* ---- what completes late (acceptance 6) ---- */

static struct fake_fate
hold_and_land_late (void *data, const struct fabric_op *op)
{
  (void) op;
  return (struct fake_fate) {
    .delay_ns = FAKE_HELD, .lands_late = true,
    .late_status = *(const int *) data,
  };
}

static int late_status;

static void
get_stuck_and_land_late (void)
{
  get_stuck ();
  fake_donor_decide (rig.donors[stuck], hold_and_land_late, &late_status);
  fake_fabric_slow_settle (300 * MS);
}

/* Take and release every slot of the pool, and more. */
static void
use_all_slots (void)
{
  static char buf[MIB];

  for (int i = 0; i < 6; i++) {
    memset (buf, 'r' + i, sizeof buf);
    ck_assert_int_eq (device_write (rig.device, buf, sizeof buf,
                                    (1 + i % 3) * MIB), 0);
  }
}

/* Soft-RoCE delivered a WRITE seconds after it had timed out, with status
 * 0.  The fake fabric delivers from the local buffer when it settles, and
 * counts a buffer that is not what it was at the post.
 */
START_TEST (a_buffer_is_not_reused_before_its_completion)
{
  late_status = _i == 0 ? 0 : -ECANCELED;
  get_stuck_and_land_late ();
  begin ();
  rig_write (&rig, 3, 'b');
  fake_donor_wait_held (rig.donors[stuck], 1);
  while (took_ms () < DEADLINE_MS + 290)
    use_all_slots ();
  rig_settle (&rig);
  ck_assert_uint_eq (fake_donor_late (rig.donors[stuck]), 1);
  rig_expect (&rig, 3, 'b');
}
END_TEST

static void
get_well (void)
{
  struct fake_script s = fake_donor_script (rig.donors[stuck]);

  s.slabs = 10;
  fake_donor_follow (rig.donors[stuck], &s);
  fake_donor_decide (rig.donors[stuck], NULL, NULL);
}

/* A WRITE times out, its session ends, the page is written again to the
 * slab's new home: what lands late changes neither what is read nor any
 * copy.
 */
START_TEST (nothing_stale_lands)
{
  struct thread writer, writer2;
  char fill = 'b', fill2 = 'c', byte;
  uint64_t key = rig_wait_mapped (&rig, 0).key;
  struct slab_home home;

  late_status = _i == 0 ? 0 : -ECANCELED;
  get_stuck_and_land_late ();
  thread_start (&writer, write_3, &fill);
  fake_donor_wait_held (rig.donors[stuck], 1);
  if (_i == 2)
    fake_donor_end_sessions (rig.donors[stuck]);
  thread_start (&writer2, write_3, &fill2);
  thread_join (&writer);
  thread_join (&writer2);
  while (fake_donor_late (rig.donors[stuck]) == 0)
    usleep (500);
  rig_expect (&rig, 3, 'c');

  get_well ();
  while ((home = rig_wait_mapped (&rig, 0)).key == key)
    usleep (500);
  rig_write (&rig, 3, 'd');
  rig_expect (&rig, 3, 'd');
  rig_settle (&rig);
  ck_assert (fake_grant_copy (home.key, 3 * PAGE, &byte, 1));
  ck_assert_int_eq (byte, 'd');
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 3 * PAGE), 'd');
  rig_expect (&rig, 3, 'd');
}
END_TEST

/* A late READ scribbles over a landing buffer until it has ended. */
START_TEST (a_landing_buffer_is_not_reused_before_its_completion)
{
  struct thread readers[2];
  unsigned rounds = 0;

  get_stuck ();
  fake_fabric_slow_settle (300 * MS);
  for (int i = 0; i < 2; i++)
    thread_start (&readers[i], read_3, NULL);
  fake_donor_wait_held (rig.donors[stuck], 2);
  while (!readers[0].finished || !readers[1].finished) {
    rig_expect (&rig, SLAB + 1 + rounds % 30, 'a');
    rounds++;
  }
  for (int i = 0; i < 2; i++)
    thread_join (&readers[i]);
}
END_TEST

/* The session ends with the deadline that was missed, even where all went
 * well in the end.
 */
START_TEST (a_missed_deadline_ends_the_session)
{
  uint64_t key = rig_wait_mapped (&rig, 0).key;
  struct slab_home home;
  char fill = 'b';

  late_status = 0;
  get_stuck_and_land_late ();
  write_3 (&fill);
  rig_settle (&rig);
  if (slab_table_pin (rig.device->slabs, 0, &home)) {
    ck_assert_uint_ne (home.key, key); /* it has a new home already */
    slab_table_unpin (rig.device->slabs, 0, &home);
  }
  ck_assert_uint_eq (atomic_load (&rig.device->counters.deadlines_missed),
                     1);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("deadline"), *many = tcase_create ("many lanes");

  tcase_add_checked_fixture (c, setup, teardown);
  tcase_add_test (c, a_read_from_a_stuck_donor_ends_in_time);
  tcase_add_test (c, a_write_to_a_stuck_donor_waits_for_nobody);
  tcase_add_test (c, a_write_after_one_to_a_stuck_donor_ends_in_time);
  tcase_add_test (c, a_stuck_donor_costs_no_other_its_session);
  tcase_add_test (c, a_long_request_has_one_deadline);
  tcase_add_test (c, a_merge_with_a_stuck_donor_ends_in_time);
  tcase_add_test (c, other_donors_go_on);
  tcase_add_test (c, other_donors_go_on_beside_writes);
  tcase_add_test (c, writes_to_other_donors_go_on);
  tcase_add_test (c, a_donor_is_not_late_for_another_s_sake);
  tcase_add_test (c, a_stuck_donor_holds_a_part_of_the_slots);
  tcase_add_test (c, a_disk_that_is_slow_to_fail_holds_up_no_donor);
  tcase_add_loop_test (c, with_all_lanes_stuck_requests_end_in_time, 0, 2);
  tcase_add_test (c, the_end_of_a_session_wakes_its_waiters);
  tcase_add_test (c, a_failure_wakes_all_who_wait_for_its_session);
  tcase_add_loop_test (c, a_buffer_is_not_reused_before_its_completion, 0, 2);
  tcase_add_loop_test (c, nothing_stale_lands, 0, 3);
  tcase_add_test (c, a_landing_buffer_is_not_reused_before_its_completion);
  tcase_add_test (c, a_missed_deadline_ends_the_session);
  tcase_add_checked_fixture (many, setup_many_lanes, teardown);
  tcase_add_test (many, writes_to_other_donors_go_on);
  return suite_run_both ("deadline", c, many);
}
