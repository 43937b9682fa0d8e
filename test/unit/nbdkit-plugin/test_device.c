/* The data path with donors that behave, and a disk that does not. */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "fake_disk.h"
#include "rig.h"
#include "scratch.h"
#include "suite.h"
#include "thread.h"

static struct rig rig;

static void
start (void)
{
  struct rig_params p = rig_defaults ();

  rig_prepare (&rig, &p);
  rig_start (&rig);
}

/* A device with no donor that answers. */
static void
start_alone (void)
{
  struct rig_params p = rig_defaults ();

  p.donors = 0;
  rig_prepare (&rig, &p);
  rig_start (&rig);
}

static void
stop (void)
{
  ck_assert_int_eq (rig_stop (&rig), 0);
  ck_assert_uint_eq (fake_disk_overlaps (), 0);
}

START_TEST (a_written_slab_is_mapped_and_served_by_its_donor)
{
  uint64_t before;

  start ();
  rig_write (&rig, 3, 'a');     /* makes the slab hot */
  rig_wait_mapped (&rig, 0);
  before = rig_written_donors (&rig); /* it may have been that quick */
  rig_write (&rig, 3, 'b');
  ck_assert_uint_eq (rig_written_donors (&rig), before + 1);
  ck_assert_int_eq (device_flush (rig.device), 0);
  rig_expect (&rig, 3, 'b');
  ck_assert_uint_eq (rig_read_donors (&rig), 1);
  ck_assert_int_eq (rig_disk_byte (&rig, 3 * PAGE), 'b');
  stop ();
}
END_TEST

static void
flush_all (void *data)
{
  *(int *) data = device_flush (rig.device);
}

/* The zeros of page 0, which the flush has to wait for, are no longer zeros when
 * it comes to them.
 */
START_TEST (a_flush_waits_for_what_takes_the_place_of_zeros)
{
  struct thread flusher;
  int result = -1;

  start ();
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_int_eq (device_zero (rig.device, PAGE, 0), 0);
  fake_disk_hold_writes (0, 6 * PAGE);
  rig_write (&rig, 5, 'b');
  thread_start (&flusher, flush_all, &result);
  fake_disk_wait_held (1);
  rig_write (&rig, 0, 'z');
  fake_disk_wait_held (2);
  fake_disk_hold_writes (0, PAGE);
  usleep (200000);
  ck_assert (!flusher.finished);
  fake_disk_pass ();
  thread_join (&flusher);
  ck_assert_int_eq (result, 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 0), 'z');
  stop ();
}
END_TEST

/* As soon as the local copy has it, too, although nobody has waited for the
 * donor.
 */
START_TEST (a_written_page_is_read_from_its_donor)
{
  start ();
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  for (int i = 1; i <= 20; i++) {
    rig_write (&rig, i, 'b');
    ck_assert_int_eq (device_flush (rig.device), 0);
    rig_expect (&rig, i, 'b');
    ck_assert_uint_eq (rig_read_donors (&rig), i);
  }
  stop ();
}
END_TEST

START_TEST (without_donors_the_local_copy_serves)
{
  start_alone ();
  rig_write (&rig, 3, 'a');
  ck_assert_int_eq (rig_disk_byte (&rig, 3 * PAGE), 'a');
  rig_expect (&rig, 3, 'a');
  rig_expect (&rig, 4, 0);
  stop ();
}
END_TEST

START_TEST (a_request_over_slab_edges_is_joined)
{
  static char out[3 * MIB], in[3 * MIB];
  uint64_t offset = MIB / 2 + 77;

  start ();
  for (size_t i = 0; i < sizeof out; i++)
    out[i] = i % 251;
  rig_write (&rig, 1 * MIB / PAGE, 'x'); /* one slab of four is mapped */
  rig_wait_mapped (&rig, 1);
  ck_assert_int_eq (device_write (rig.device, out, sizeof out, offset), 0);
  ck_assert_int_eq (device_read (rig.device, in, sizeof in, offset), 0);
  ck_assert_mem_eq (in, out, sizeof out);
  ck_assert_int_eq (device_flush (rig.device), 0);
  for (size_t i = 0; i < sizeof out; i += 12345)
    ck_assert_int_eq (rig_disk_byte (&rig, offset + i),
                      (unsigned char) out[i]);
  stop ();
}
END_TEST

START_TEST (a_part_of_a_page_is_merged_into_it)
{
  char want[PAGE], got[PAGE];

  start ();
  rig_write (&rig, 9, 'a');
  rig_wait_mapped (&rig, 0);
  for (int i = 0; i < 600; i++) /* no slot is full of 'a' */
    rig_write (&rig, 20, 'z');
  ck_assert_int_eq (device_write (rig.device, "bcd", 3, 9 * PAGE + 100), 0);
  ck_assert_int_eq (device_flush (rig.device), 0);
  memset (want, 'a', PAGE);
  memcpy (want + 100, "bcd", 3);
  ck_assert_int_eq (device_read (rig.device, got, PAGE, 9 * PAGE), 0);
  ck_assert_mem_eq (got, want, PAGE);
  ck_assert_int_eq (device_write (rig.device, "e", 1, 9 * PAGE + 103), 0);
  want[103] = 'e';
  ck_assert_int_eq (device_read (rig.device, got, PAGE, 9 * PAGE), 0);
  ck_assert_mem_eq (got, want, PAGE);
  ck_assert_uint_ge (rig_read_donors (&rig), 1);
  stop ();
}
END_TEST

START_TEST (zeros_are_read_at_once_and_reach_the_disk_with_a_flush)
{
  start ();
  for (int i = 0; i < 6; i++)
    rig_write (&rig, i, 'a');
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_int_eq (device_zero (rig.device, 2 * PAGE + 2, PAGE - 1), 0);
  ck_assert_int_eq (device_trim (rig.device, PAGE + 2, 4 * PAGE - 1), 0);
  rig_expect (&rig, 1, 0);
  rig_expect (&rig, 2, 0);
  rig_expect (&rig, 4, 0);
  rig_expect (&rig, 5, 'a');
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 0), 'a');
  ck_assert_int_eq (rig_disk_byte (&rig, PAGE - 2), 'a');
  ck_assert_int_eq (rig_disk_byte (&rig, PAGE - 1), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 2 * PAGE), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 3 * PAGE), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 3 * PAGE + 1), 'a');
  ck_assert_int_eq (rig_disk_byte (&rig, 4 * PAGE - 1), 'a');
  ck_assert_int_eq (rig_disk_byte (&rig, 4 * PAGE), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 5 * PAGE), 'a');
  stop ();
}
END_TEST

/* A write that is on its way to the disk when its page is zeroed lands
 * first; the zeros follow it there.
 */
START_TEST (zeros_overtake_a_write_in_flight)
{
  start ();
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  fake_disk_hold_writes (0, PAGE);
  rig_write (&rig, 0, 'b');
  fake_disk_wait_held (1);
  ck_assert_int_eq (device_zero (rig.device, PAGE, 0), 0);
  rig_expect (&rig, 0, 0);
  fake_disk_pass ();
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 0), 0);
  rig_expect (&rig, 0, 0);
  stop ();
}
END_TEST

static void
flush_well (void *data)
{
  (void) data;
  ck_assert_int_eq (device_flush (rig.device), 0);
}

/* The page was written and zeroed after the flush began; its write is
 * still on its way when the flush comes to zeroing the disk.
 */
START_TEST (a_flush_does_not_zero_the_disk_under_a_write_in_flight)
{
  struct thread flusher;

  start ();
  rig_write (&rig, 0, 'a');
  rig_write (&rig, 1, 'a');
  rig_wait_mapped (&rig, 0);
  ck_assert_int_eq (device_flush (rig.device), 0);
  fake_disk_hold_writes (0, 2 * PAGE);
  rig_write (&rig, 1, 'b');
  fake_disk_wait_held (1);
  thread_start (&flusher, flush_well, NULL);
  thread_wait_asleep (&flusher);
  rig_write (&rig, 0, 'b');
  fake_disk_wait_held (2);
  ck_assert_int_eq (device_zero (rig.device, PAGE, 0), 0);
  fake_disk_hold_writes (0, PAGE);
  thread_join (&flusher);
  fake_disk_pass ();
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 0), 0);
  rig_expect (&rig, 0, 0);
  stop ();
}
END_TEST

START_TEST (a_stop_leaves_everything_in_the_local_copy)
{
  start ();
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  for (int i = 0; i < 100; i++)
    rig_write (&rig, i, 'b');
  ck_assert_int_eq (device_zero (rig.device, PAGE, 50 * PAGE), 0);
  stop ();
  for (int i = 0; i < 100; i++)
    ck_assert_int_eq (rig_disk_byte (&rig, i * PAGE + 7), i == 50 ? 0 : 'b');
}
END_TEST

/* ---- a disk that fails ---- */

static int
try_write (uint64_t page, int fill)
{
  char buf[PAGE];

  memset (buf, fill, PAGE);
  return device_write (rig.device, buf, PAGE, page * PAGE);
}

static int
try_read (uint64_t page)
{
  char buf[PAGE];

  return device_read (rig.device, buf, PAGE, page * PAGE);
}

/* Write the page to its donor, where the disk refuses it: wait until its
 * slot has been let go.
 */
static void
write_to_donor_alone (uint64_t page, int fill)
{
  uint64_t before = slab_table_remote_only (rig.device->slabs);

  rig_write (&rig, page, fill);
  while (slab_table_remote_only (rig.device->slabs) == before)
    usleep (500);
}

/* A donor that has no slab for anybody any more. */
static void
lend_nothing (void)
{
  struct fake_script s = fake_donor_script (rig.donors[0]);

  s.slabs = 0;
  fake_donor_follow (rig.donors[0], &s);
}

START_TEST (a_failing_disk_fails_writes_of_unmapped_pages)
{
  start_alone ();
  rig_write (&rig, 0, 'a');
  fake_disk_fail (0, PAGE, false);
  ck_assert_int_eq (try_write (0, 'b'), -EIO);
  rig_write (&rig, 1, 'c');
  fake_disk_mend ();
  rig_write (&rig, 0, 'd');
  rig_expect (&rig, 0, 'd');
  stop ();
}
END_TEST

START_TEST (a_page_the_disk_refuses_is_served_by_its_donor)
{
  start ();
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  fake_disk_fail (0, PAGE, false);
  write_to_donor_alone (0, 'b');
  rig_expect (&rig, 0, 'b');
  ck_assert_uint_eq (slab_table_remote_only (rig.device->slabs), 1);
  ck_assert_int_eq (device_flush (rig.device), -EIO);
  rig_write (&rig, 1, 'c');
  rig_expect (&rig, 1, 'c');

  fake_disk_mend ();
  rig_write (&rig, 0, 'd');
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 0), 'd');
  stop ();
}
END_TEST

/* The pages go to the disk in one write. */
START_TEST (a_bad_page_does_not_keep_its_neighbours_off_the_disk)
{
  char buf[4 * PAGE];

  start_alone ();
  memset (buf, 'a', sizeof buf);
  fake_disk_fail (PAGE, 2 * PAGE, false);
  ck_assert_int_eq (device_write (rig.device, buf, sizeof buf, 0), -EIO);
  ck_assert_int_eq (rig_disk_byte (&rig, 0), 'a');
  ck_assert_int_eq (rig_disk_byte (&rig, 2 * PAGE), 'a');
  ck_assert_int_eq (rig_disk_byte (&rig, 3 * PAGE), 'a');
  fake_disk_mend ();
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

/* Whether a page that the disk refuses has another copy is known when its
 * donor has answered; until then its slot has neither failed nor gone.
 */
START_TEST (a_page_that_the_disk_refuses_waits_for_its_donor)
{
  struct slot_pool_stats stats;

  start ();
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  ck_assert_int_eq (device_flush (rig.device), 0);
  rig_settle (&rig);
  fake_donor_decide (rig.donors[0], hold, NULL);
  fake_disk_fail (0, PAGE, false);
  rig_write (&rig, 0, 'b');
  while (write_behind_errors (rig.device->writers) == 0)
    usleep (500);
  rig_expect (&rig, 0, 'b');
  slot_pool_stats (rig.device->slots, &stats);
  ck_assert_uint_eq (stats.failed, 0);
  ck_assert_uint_eq (stats.in_use, 1);

  fake_donor_decide (rig.donors[0], NULL, NULL);
  fake_donor_release (rig.donors[0], false);
  while (stats.in_use > 0) {
    usleep (500);
    slot_pool_stats (rig.device->slots, &stats);
    ck_assert_uint_eq (stats.failed, 0);
  }
  ck_assert_uint_eq (slab_table_remote_only (rig.device->slabs), 1);
  rig_expect (&rig, 0, 'b');
  fake_disk_mend ();
  stop ();
}
END_TEST

START_TEST (a_page_lost_with_its_donor_is_an_error_until_rewritten)
{
  start ();
  rig_write (&rig, 0, 'a');
  rig_write (&rig, 1, 'a');
  rig_wait_mapped (&rig, 0);
  fake_disk_fail (0, PAGE, false);
  write_to_donor_alone (0, 'b');
  lend_nothing ();
  fake_donor_end_sessions (rig.donors[0]);
  rig_wait_unmapped (&rig, 0);
  ck_assert_int_eq (try_read (0), -EIO);
  rig_expect (&rig, 1, 'a');
  ck_assert_int_eq (device_flush (rig.device), -EIO);
  /* A write that fails does not bring back what was before. */
  ck_assert_int_eq (try_write (0, 'c'), -EIO);
  if (try_read (0) == 0)
    rig_expect (&rig, 0, 'c');

  fake_disk_mend ();
  rig_write (&rig, 0, 'd');
  rig_expect (&rig, 0, 'd');
  ck_assert_int_eq (device_flush (rig.device), 0);
  stop ();
}
END_TEST

/* The same for zeros that have not reached the disk. */
START_TEST (a_failed_write_does_not_bring_back_what_was_zeroed)
{
  start_alone ();
  rig_write (&rig, 0, 'a');
  ck_assert_int_eq (device_zero (rig.device, PAGE, 0), 0);
  fake_disk_fail (0, PAGE, false);
  ck_assert_int_eq (try_write (0, 'b'), -EIO);
  rig_expect (&rig, 0, 'b');
  ck_assert_int_eq (device_flush (rig.device), -EIO);
  fake_disk_mend ();
  rig_write (&rig, 0, 'c');
  rig_expect (&rig, 0, 'c');
  stop ();
}
END_TEST

/* A page that waits for the disk when its donor is lost. */
START_TEST (a_slot_the_disk_refuses_outlives_the_donor)
{
  start ();
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  fake_disk_hold_writes (0, PAGE);
  rig_write (&rig, 0, 'b');
  fake_disk_wait_held (1);
  lend_nothing ();
  fake_donor_end_sessions (rig.donors[0]);
  rig_wait_unmapped (&rig, 0);
  fake_disk_fail (0, PAGE, false);
  fake_disk_pass ();
  ck_assert_int_eq (device_flush (rig.device), -EIO);
  rig_expect (&rig, 0, 'b');
  fake_disk_mend ();
  /* Tried again at once, not only when a second has passed. */
  ck_assert_int_eq (device_flush (rig.device), 0);
  ck_assert_int_eq (rig_disk_byte (&rig, 0), 'b');
  stop ();
}
END_TEST

static void
read_page_0 (void *data)
{
  (void) data;
  rig_expect (&rig, 0, 'a');
}

START_TEST (a_read_error_that_passes_is_not_seen)
{
  struct thread reader;

  start_alone ();
  rig_write (&rig, 0, 'a');
  fake_disk_fail (0, PAGE, true);
  thread_start (&reader, read_page_0, NULL);
  thread_wait_asleep (&reader);
  fake_disk_mend ();
  thread_join (&reader);
  stop ();
}
END_TEST

START_TEST (a_read_error_of_the_disk_is_an_error)
{
  start ();
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  rig_write (&rig, 1, 'b');
  ck_assert_int_eq (device_flush (rig.device), 0);
  fake_disk_fail (0, 3 * PAGE, true);
  ck_assert_int_eq (try_read (2), -EIO);
  rig_expect (&rig, 1, 'b');    /* from the donor */
  fake_disk_mend ();
  rig_expect (&rig, 2, 0);
  stop ();
}
END_TEST

/* ---- operations in any order ---- */

struct many_reads {
  struct thread thread;
  char buf[8 * PAGE];
};

static void
read_8 (void *data)
{
  struct many_reads *r = data;

  ck_assert_int_eq (device_read (rig.device, r->buf, sizeof r->buf, 0), 0);
}

/* Every second page is with the donor: four operations in one request. */
START_TEST (operations_may_complete_in_any_order)
{
  struct many_reads r;

  start ();
  rig_write (&rig, 20, 'x');
  rig_wait_mapped (&rig, 0);
  for (int i = 0; i < 8; i++)
    rig_write (&rig, i, 'a' + i);
  ck_assert_int_eq (device_flush (rig.device), 0);
  rig_settle (&rig);
  for (int i = 1; i < 8; i += 2)
    ck_assert_int_eq (device_zero (rig.device, PAGE, i * PAGE), 0);
  fake_donor_decide (rig.donors[0], hold, NULL);
  thread_start (&r.thread, read_8, &r);
  fake_donor_wait_held (rig.donors[0], 4);
  fake_donor_release (rig.donors[0], _i == 1);
  thread_join (&r.thread);
  for (int i = 0; i < 8; i++) {
    ck_assert_int_eq (r.buf[i * PAGE], i % 2 ? 0 : 'a' + i);
    ck_assert_int_eq (r.buf[i * PAGE + PAGE - 1], i % 2 ? 0 : 'a' + i);
  }
  stop ();
}
END_TEST

/* ---- reads that run beside writes ---- */

struct reader {
  struct thread thread;
  uint64_t page;
  uint32_t pages;
  char buf[2 * PAGE];
};

static void
read_pages (void *data)
{
  struct reader *r = data;

  ck_assert_int_eq (device_read (rig.device, r->buf, r->pages * PAGE,
                                 r->page * PAGE), 0);
}

static void
write_b (void *data)
{
  rig_write (&rig, *(int *) data, 'b');
}

/* While the read waits for the disk with its first page, the second,
 * zeroed before, is written.  What the disk has of it is older than
 * both.
 */
START_TEST (a_read_never_sees_the_disk_before_an_earlier_zero)
{
  struct reader r = { .page = 0, .pages = 2 };
  struct thread writer;
  int page = 1;

  start_alone ();
  rig_write (&rig, 0, 'a');
  rig_write (&rig, 1, 'a');
  ck_assert_int_eq (device_zero (rig.device, PAGE, PAGE), 0);
  fake_disk_hold_reads (0, PAGE);
  thread_start (&r.thread, read_pages, &r);
  fake_disk_wait_held (1);
  fake_disk_hold_writes (PAGE, 2 * PAGE);
  thread_start (&writer, write_b, &page);
  fake_disk_wait_held (2);
  fake_disk_hold_reads (0, 0);
  thread_join (&r.thread);
  ck_assert_int_eq (r.buf[0], 'a');
  ck_assert_msg (r.buf[PAGE] == 0 || r.buf[PAGE] == 'b',
                 "read %d", r.buf[PAGE]);
  fake_disk_pass ();
  thread_join (&writer);
  stop ();
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("device");

  tcase_add_checked_fixture (c, scratch_setup, scratch_teardown);
  tcase_add_test (c, a_written_slab_is_mapped_and_served_by_its_donor);
  tcase_add_test (c, a_flush_waits_for_what_takes_the_place_of_zeros);
  tcase_add_test (c, a_written_page_is_read_from_its_donor);
  tcase_add_test (c, without_donors_the_local_copy_serves);
  tcase_add_test (c, a_request_over_slab_edges_is_joined);
  tcase_add_test (c, a_part_of_a_page_is_merged_into_it);
  tcase_add_test (c, zeros_are_read_at_once_and_reach_the_disk_with_a_flush);
  tcase_add_test (c, zeros_overtake_a_write_in_flight);
  tcase_add_test (c, a_flush_does_not_zero_the_disk_under_a_write_in_flight);
  tcase_add_test (c, a_stop_leaves_everything_in_the_local_copy);
  tcase_add_test (c, a_failing_disk_fails_writes_of_unmapped_pages);
  tcase_add_test (c, a_page_the_disk_refuses_is_served_by_its_donor);
  tcase_add_test (c, a_bad_page_does_not_keep_its_neighbours_off_the_disk);
  tcase_add_test (c,
                  a_page_that_the_disk_refuses_waits_for_its_donor);
  tcase_add_test (c, a_page_lost_with_its_donor_is_an_error_until_rewritten);
  tcase_add_test (c, a_failed_write_does_not_bring_back_what_was_zeroed);
  tcase_add_test (c, a_slot_the_disk_refuses_outlives_the_donor);
  tcase_add_test (c, a_read_error_that_passes_is_not_seen);
  tcase_add_test (c, a_read_error_of_the_disk_is_an_error);
  tcase_add_loop_test (c, operations_may_complete_in_any_order, 0, 2);
  tcase_add_test (c, a_read_never_sees_the_disk_before_an_earlier_zero);
  return suite_run ("device", c);
}
