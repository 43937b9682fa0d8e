/* Sequential reads of the device: they find what was fetched ahead, unless it
 * was written or discarded since.
 */

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "rig.h"
#include "scratch.h"
#include "seeded.h"
#include "suite.h"
#include "thread.h"

static struct rig rig;

/* Pages 0 to 63 are full of 'a' with the donor. */
static void
setup (void)
{
  struct rig_params p = rig_defaults ();

  scratch_setup ();
  p.read_ahead_bytes = MIB;
  rig_prepare (&rig, &p);
  rig_start (&rig);
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);
  for (int i = 0; i < 64; i++)
    rig_write (&rig, i, 'a');
  rig_settle (&rig);
}

static void
teardown (void)
{
  ck_assert_int_eq (rig_stop (&rig), 0);
  scratch_teardown ();
}

static uint64_t
fetched (void)
{
  return atomic_load (&rig.device->counters.fetched_ahead);
}

static uint64_t
read_so (void)
{
  return atomic_load (&rig.device->counters.read_ahead);
}

/* Read pages 0 to 2, after which 3 to 5 are fetched. */
static void
read_three (void)
{
  for (int i = 0; i < 3; i++)
    rig_expect (&rig, i, 'a');
  while (fetched () < 3)
    usleep (100);
}

START_TEST (a_sequential_read_finds_what_was_fetched)
{
  unsigned posted;

  read_three ();
  posted = fake_donor_posted (rig.donors[0]);
  ck_assert_uint_eq (read_so (), 0);
  rig_expect (&rig, 4, 'a');
  ck_assert_uint_eq (read_so (), 1);
  ck_assert_uint_eq (rig_read_donors (&rig), 4);
  ck_assert_uint_eq (fake_donor_posted (rig.donors[0]), posted);
}
END_TEST

START_TEST (a_page_written_since_is_read_as_written)
{
  read_three ();
  rig_write (&rig, 4, 'b');
  rig_expect (&rig, 4, 'b');
  rig_settle (&rig);            /* it has left its slot */
  rig_expect (&rig, 4, 'b');
  ck_assert_uint_eq (read_so (), 0);
}
END_TEST

START_TEST (a_page_discarded_since_reads_as_zeros)
{
  read_three ();
  ck_assert_int_eq (device_trim (rig.device, PAGE, 4 * PAGE), 0);
  rig_expect (&rig, 4, 0);
  ck_assert_uint_eq (read_so (), 0);
}
END_TEST

START_TEST (what_was_fetched_outlives_its_donor)
{
  read_three ();
  rig_lose_donors (&rig);
  rig_expect (&rig, 4, 'a');
  ck_assert_uint_eq (read_so (), 1);
  rig_expect (&rig, 5, 'a');
  rig_expect (&rig, 6, 'a');
}
END_TEST

/* Its first bytes number a page's contents. */
static _Atomic uint32_t acknowledged[64];
static atomic_bool stop;

static void
write_numbers (void *data)
{
  static uint32_t content[PAGE / sizeof (uint32_t)];
  struct seeded *s = data;

  while (!stop) {
    uint32_t page = seeded_below (s, 64);

    content[0] = acknowledged[page] + 1;
    ck_assert_int_eq (device_write (rig.device, content, PAGE, page * PAGE),
                      0);
    acknowledged[page] = content[0];
    usleep (seeded_below (s, 200));
    if (seeded_once_in (s, 16))
      rig_settle (&rig);
  }
}

static struct fake_fate
delay_some (void *data, const struct fabric_op *op)
{
  (void) op;
  return (struct fake_fate) {
    .delay_ns = seeded_once_in (data, 2) ? 1 + seeded_below (data, MS) : 0 };
}

START_TEST (no_read_gives_what_an_acknowledged_write_replaced)
{
  static uint32_t content[PAGE / sizeof (uint32_t)];
  const int64_t until_ns = fabric_now_ns () + 1000 * MS;
  struct thread writer;
  struct seeded s, writer_seed, fabric_seed;

  seeded_init (&s, "sequential reads");
  writer_seed = seeded_split (&s);
  fabric_seed = seeded_split (&s);
  ck_assert_int_eq (device_zero (rig.device, 64 * PAGE, 0), 0);
  fake_donor_decide (rig.donors[0], delay_some, &fabric_seed);
  thread_start (&writer, write_numbers, &writer_seed);
  while (fabric_now_ns () < until_ns || read_so () == 0)
    for (uint32_t page = 0; page < 64; page++) {
      uint32_t before = acknowledged[page];

      ck_assert_int_eq (device_read (rig.device, content, PAGE, page * PAGE),
                        0);
      ck_assert_uint_ge (content[0], before);
    }
  stop = true;
  thread_join (&writer);
  printf ("%" PRIu64 " pages read of %" PRIu64 " fetched ahead\n", read_so (),
          fetched ());
  fake_donor_decide (rig.donors[0], NULL, NULL);
}
END_TEST

static struct fake_fate
hold_writes (void *data, const struct fabric_op *op)
{
  (void) data;
  return (struct fake_fate) {
    .delay_ns = op->type == FABRIC_WRITE ? FAKE_HELD : 0 };
}

static struct fake_fate
hold (void *data, const struct fabric_op *op)
{
  (void) data;
  (void) op;
  return (struct fake_fate) { .delay_ns = FAKE_HELD };
}

/* Page 4 has not landed: it and what comes after it is not waited for. */
START_TEST (a_page_the_donor_does_not_have_is_not_waited_for)
{
  fake_donor_decide (rig.donors[0], hold_writes, NULL);
  rig_write (&rig, 4, 'b');
  fake_donor_wait_held (rig.donors[0], 1);
  for (int i = 0; i < 3; i++)
    rig_expect (&rig, i, 'a');
  while (fetched () < 1)
    usleep (100);
  rig_expect (&rig, 4, 'b');
  rig_expect (&rig, 3, 'a');
  rig_expect (&rig, 5, 'a');
  ck_assert_uint_eq (fetched (), 1);
  ck_assert_uint_eq (read_so (), 1);
  fake_donor_decide (rig.donors[0], NULL, NULL);
  fake_donor_release (rig.donors[0], false);
}
END_TEST

/* The donor is stuck while it is asked for what comes next. */
START_TEST (a_stuck_donor_does_not_hold_a_sequence_up)
{
  int64_t begin_ns;

  rig.device->params.deadline_ns = 300 * MS;
  rig_expect (&rig, 0, 'a');
  rig_expect (&rig, 1, 'a');
  fake_donor_decide (rig.donors[0], hold, NULL);
  begin_ns = fabric_now_ns ();
  rig_expect (&rig, 2, 'a');
  rig_expect (&rig, 3, 'a');
  ck_assert_int_lt (fabric_now_ns () - begin_ns, 2 * 1300 * MS);
  ck_assert_uint_eq (read_so (), 0);
  fake_donor_decide (rig.donors[0], NULL, NULL);
}
END_TEST

static void
read_page (void *data)
{
  (void) data;
  rig_expect (&rig, 40, 'a');
}

START_TEST (nothing_is_fetched_while_reads_overlap)
{
  struct thread reader;

  fake_donor_decide (rig.donors[0], hold, NULL);
  thread_start (&reader, read_page, NULL);
  fake_donor_wait_held (rig.donors[0], 1);
  fake_donor_decide (rig.donors[0], NULL, NULL);
  for (int i = 0; i < 6; i++)
    rig_expect (&rig, i, 'a');
  fake_donor_release (rig.donors[0], false);
  thread_join (&reader);
  ck_assert_uint_eq (fetched (), 0);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("sequential_reads");

  tcase_add_checked_fixture (c, setup, teardown);
  tcase_add_test (c, a_sequential_read_finds_what_was_fetched);
  tcase_add_test (c, a_page_written_since_is_read_as_written);
  tcase_add_test (c, a_page_discarded_since_reads_as_zeros);
  tcase_add_test (c, what_was_fetched_outlives_its_donor);
  tcase_add_test (c, no_read_gives_what_an_acknowledged_write_replaced);
  tcase_add_test (c, a_page_the_donor_does_not_have_is_not_waited_for);
  tcase_add_test (c, a_stuck_donor_does_not_hold_a_sequence_up);
  tcase_add_test (c, nothing_is_fetched_while_reads_overlap);
  return suite_run ("sequential_reads", c);
}
