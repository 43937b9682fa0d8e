/* Pages that are read from the disk although their slab has a donor. */

#include <errno.h>
#include <unistd.h>

#include "fake_disk.h"
#include "rig.h"
#include "scratch.h"
#include "suite.h"
#include "thread.h"

static struct rig rig;

/* Pages 0 to 3 are full of 'a' on the local copy alone, and their slab is
 * mapped.
 */
static void
start (void)
{
  struct rig_params p = rig_defaults ();
  struct fake_script s;

  scratch_setup ();
  rig_prepare (&rig, &p);
  s = fake_donor_script (rig.donors[0]);
  s.down = true;
  fake_donor_follow (rig.donors[0], &s);
  rig_start (&rig);
  for (int i = 0; i < 4; i++)
    rig_write (&rig, i, 'a');
  s.down = false;
  fake_donor_follow (rig.donors[0], &s);
  rig_wait_mapped (&rig, 0);
}

static void
stop (void)
{
  ck_assert_int_eq (rig_stop (&rig), 0);
  ck_assert_uint_eq (fake_disk_overlaps (), 0);
  scratch_teardown ();
}

static uint64_t
promoted (void)
{
  return atomic_load (&rig.device->counters.promoted);
}

START_TEST (a_page_read_from_disk_is_with_the_donor_then)
{
  start ();
  rig_expect (&rig, 1, 'a');
  ck_assert_uint_eq (promoted (), 1);
  ck_assert_uint_eq (rig_read_donors (&rig), 0);
  rig_expect (&rig, 1, 'a');
  ck_assert_uint_eq (rig_read_donors (&rig), 1);
  rig_expect (&rig, 2, 'a');
  ck_assert_uint_eq (promoted (), 2);
  stop ();
}
END_TEST

static void
read_page (void *data)
{
  char buf[PAGE];

  ck_assert_int_eq (device_read (rig.device, buf, PAGE, PAGE), 0);
  *(char *) data = buf[0];
}

START_TEST (a_write_does_not_wait_for_a_promotion_and_ends_it)
{
  struct thread reader;
  char got = 0;

  start ();
  fake_disk_hold_reads (PAGE, 2 * PAGE);
  thread_start (&reader, read_page, &got);
  fake_disk_wait_held (1);
  rig_write (&rig, 1, 'b');
  fake_disk_pass ();
  thread_join (&reader);
  ck_assert (got == 'a' || got == 'b');
  ck_assert_uint_eq (promoted (), 0);
  ck_assert_int_eq (device_flush (rig.device), 0);
  rig_expect (&rig, 1, 'b');
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

static void
write_page (void *data)
{
  (void) data;
  rig_write (&rig, 1, 'b');
}

static struct fake_fate
hold_reads (void *data, const struct fabric_op *op)
{
  (void) data;
  return (struct fake_fate) {
    .delay_ns = op->type == FABRIC_READ ? FAKE_HELD : 0 };
}

static void
read_three_pages (void *data)
{
  ck_assert_int_eq (device_read (rig.device, data, 3 * PAGE, 0), 0);
}

/* Page 0 comes from its slot, page 2 from the donor, and meanwhile page 1 is
 * promoted, so that it takes a second round, which finds the slot again.
 */
START_TEST (a_read_in_two_rounds_lets_go_of_its_slots)
{
  static char buf[3 * PAGE];
  struct thread reader;

  start ();
  rig_write (&rig, 2, 'c');
  rig_settle (&rig);
  fake_disk_hold_writes (0, PAGE);
  rig_write (&rig, 0, 'b');
  fake_disk_wait_held (1);
  fake_donor_decide (rig.donors[0], hold_reads, NULL);
  thread_start (&reader, read_three_pages, buf);
  fake_donor_wait_held (rig.donors[0], 1);
  rig_expect (&rig, 1, 'a');
  ck_assert_uint_eq (promoted (), 1);
  fake_donor_decide (rig.donors[0], NULL, NULL);
  fake_donor_release (rig.donors[0], false);
  thread_join (&reader);
  for (int i = 0; i < 3; i++)
    ck_assert_int_eq (buf[i * PAGE], "bac"[i]);
  fake_disk_pass ();
  rig_settle (&rig);
  stop ();
}
END_TEST

/* Else the older content might land on the newer. */
START_TEST (a_write_waits_while_the_promoted_page_is_on_its_way)
{
  struct thread reader, writer;
  char got = 0;

  start ();
  fake_donor_decide (rig.donors[0], hold, NULL);
  thread_start (&reader, read_page, &got);
  fake_donor_wait_held (rig.donors[0], 1);
  thread_start (&writer, write_page, NULL);
  thread_wait_asleep (&writer);
  ck_assert_uint_eq (fake_donor_posted (rig.donors[0]), 1);
  fake_donor_decide (rig.donors[0], NULL, NULL);
  fake_donor_release (rig.donors[0], false);
  thread_join (&reader);
  thread_join (&writer);
  ck_assert_int_eq (got, 'a');
  ck_assert_int_eq (device_flush (rig.device), 0);
  rig_expect (&rig, 1, 'b');
  stop ();
}
END_TEST

static struct fake_fate
refuse (void *data, const struct fabric_op *op)
{
  (void) data;
  (void) op;
  return (struct fake_fate) { .status = -EIO };
}

START_TEST (a_promotion_that_fails_does_not_fail_the_read)
{
  start ();
  fake_donor_decide (rig.donors[0], refuse, NULL);
  rig_expect (&rig, 1, 'a');
  ck_assert_uint_eq (promoted (), 0);
  rig_expect (&rig, 1, 'a');
  fake_donor_decide (rig.donors[0], NULL, NULL);
  stop ();
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("promotion");

  tcase_add_test (c, a_page_read_from_disk_is_with_the_donor_then);
  tcase_add_test (c, a_read_in_two_rounds_lets_go_of_its_slots);
  tcase_add_test (c, a_write_does_not_wait_for_a_promotion_and_ends_it);
  tcase_add_test (c, a_write_waits_while_the_promoted_page_is_on_its_way);
  tcase_add_test (c, a_promotion_that_fails_does_not_fail_the_read);
  return suite_run ("promotion", c);
}
