#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fabric/fabric.h"
#include "fake_aio.h"
#include "fake_disk.h"
#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/slot_pool.h"
#include "nbdkit-plugin/write_behind.h"
#include "scratch.h"
#include "suite.h"

enum { PAGE = PAGE_SIZE_BYTES, SLOTS = 64, PAGES = 4 * SLOTS };
#define MS INT64_C (1000000)

static struct slot_pool *pool;
static struct backing *backing;
static struct write_behind *writer;
static char *memory;

static atomic_bool has_donor, is_full, other_copy;

static bool
committed (void *data, uint64_t first, uint32_t n)
{
  (void) data, (void) first, (void) n;
  return false;
}

static bool
has_other_copy (void *data, uint64_t page)
{
  (void) data, (void) page;
  return other_copy;
}

static void
landed (void *data, uint64_t first, uint32_t n, const void *donor)
{
  (void) data, (void) first, (void) n, (void) donor;
}

/* ---- the way to the donor: one run at a time, which the test lands ---- */

static uint32_t sent_slots[SLOTS];
static _Atomic uint32_t sent;   /* slots */

static bool
send_run (void *data, uint64_t first, const uint32_t *slots, uint32_t n,
          int64_t until_ns)
{
  (void) data, (void) first;
  if (!has_donor || sent > 0)
    return true;
  if (is_full && until_ns == 0)
    return false;
  while (is_full)
    usleep (500);
  slot_pool_send (pool, slots, n);
  memcpy (sent_slots, slots, n * sizeof *slots);
  sent = n;
  return true;
}

static void
end_sending (bool well)
{
  if (sent > 0)
    slot_pool_landed (pool, sent_slots, sent, well ? &pool : NULL);
  sent = 0;
}

static void
setup (void)
{
  char *error;

  scratch_setup ();
  fake_disk_reset ();
  sent = 0;
  has_donor = is_full = other_copy = false;
  memory = aligned_alloc (PAGE, SLOTS * PAGE);
  pool = slot_pool_new (memory, SLOTS, 0, (struct slot_pool_owner) {
      committed, has_other_copy, landed, NULL });
  backing = backing_open (scratch_path ("copy"), PAGES * PAGE, false, &error);
  ck_assert_ptr_nonnull (backing);
}

/* With the queue as in the kernel, by threads, or refused. */
static void
start (enum fake_aio aio)
{
  fake_aio_be (aio);
  writer = write_behind_start (&(struct write_behind_params) {
      .pool = pool, .backing = backing,
      .send = send_run,
    });
  ck_assert_ptr_nonnull (writer);
}

static void
teardown (void)
{
  fake_disk_mend ();
  write_behind_free (writer);
  backing_close (backing);
  slot_pool_free (pool);
  free (memory);
  scratch_teardown ();
}

static void
commit (uint64_t page)
{
  uint32_t slot;

  ck_assert_int_eq (slot_pool_take (pool, 1, &slot), 0);
  memset (slot_pool_buffer (pool, slot), page, PAGE);
  slot_pool_commit (pool, page, &slot, 1, NULL);
}

static bool
is_written (uint64_t page)
{
  static char buf[PAGE] __attribute__ ((aligned (PAGE))), want[PAGE];

  memset (want, page, PAGE);
  ck_assert_int_eq (backing_read (backing, buf, PAGE, page * PAGE), 0);
  return memcmp (buf, want, PAGE) == 0;
}

static void
assert_page (uint64_t page)
{
  ck_assert_msg (is_written (page), "page %d", (int) page);
}

/* Several runs and single pages, more than there are slots. */
START_TEST (what_is_committed_is_written)
{
  start (_i);
  for (uint64_t page = 0; page < PAGES; page++)
    if (page % 7 != 0)
      commit (page);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  for (uint64_t page = 0; page < PAGES; page++)
    if (page % 7 != 0)
      assert_page (page);
  ck_assert_uint_eq (write_behind_errors (writer), 0);
}
END_TEST

START_TEST (a_write_that_is_held_up_does_not_hold_up_others)
{
  start (FAKE_AIO_THREADS);
  fake_disk_hold_writes (10 * PAGE, 11 * PAGE);
  commit (10);
  fake_disk_wait_held (1);
  commit (20);
  while (slot_pool_clear_run (pool, 20, 1) == 0)
    sched_yield ();
  fake_disk_pass ();
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_page (10);
  assert_page (20);
}
END_TEST

/* Pages 10 to 19, which the disk holds. */
static void
start_a_run (void)
{
  fake_disk_hold_writes (0, PAGES * PAGE);
  start (FAKE_AIO_THREADS);
  commit (0);                   /* so that the others are one run */
  fake_disk_wait_held (1);
  for (uint64_t page = 10; page < 20; page++)
    commit (page);
}

START_TEST (a_bad_page_is_not_its_neighbours)
{
  start_a_run ();
  fake_disk_fail (15 * PAGE, 16 * PAGE, false);
  fake_disk_pass ();
  ck_assert_int_eq (slot_pool_flush (pool), -EIO);
  for (uint64_t page = 10; page < 20; page++)
    if (page != 15)
      assert_page (page);
  ck_assert_uint_ge (write_behind_errors (writer), 1);
  fake_disk_mend ();
  slot_pool_retry (pool);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_page (15);
}
END_TEST

/* Each of 16 writes would be tried twice more, for 19 s in all. */
START_TEST (a_disk_that_is_slow_to_fail_is_not_asked_for_each)
{
  int64_t begin_ns;

  start (FAKE_AIO_THREADS);
  fake_disk_fail (0, PAGES * PAGE, false);
  fake_disk_slow (600 * MS);
  begin_ns = fabric_now_ns ();
  for (uint64_t page = 0; page < 32; page += 2)
    commit (page);
  ck_assert_int_eq (slot_pool_flush (pool), -EIO);
  ck_assert_int_le (fabric_now_ns () - begin_ns, 12000 * MS);
  fake_disk_slow (0);
  fake_disk_mend ();
  slot_pool_retry (pool);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  for (uint64_t page = 0; page < 32; page += 2)
    assert_page (page);
}
END_TEST

/* It fails at once, and is then tried again for 2 s. */
START_TEST (others_go_on_while_a_write_is_tried_again)
{
  fake_disk_hold_writes (10 * PAGE, 11 * PAGE);
  start (FAKE_AIO_THREADS);
  commit (10);
  fake_disk_wait_held (1);
  fake_disk_fail (10 * PAGE, 11 * PAGE, false);
  fake_disk_slow (2000 * MS);
  fake_disk_pass ();
  usleep (200000);
  fake_disk_slow (0);
  commit (20);
  while (slot_pool_clear_run (pool, 20, 1) == 0)
    usleep (1000);
  ck_assert_uint_eq (slot_pool_clear_run (pool, 10, 1), 0);
  ck_assert_uint_eq (write_behind_errors (writer), 0);
  fake_disk_mend ();
  ck_assert_int_eq (slot_pool_flush (pool), -EIO);
  slot_pool_retry (pool);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_page (10);
}
END_TEST

/* The first pages alone are written, late; there is no time for the others. */
START_TEST (pages_for_which_no_time_is_left_are_not_taken_for_written)
{
  struct slot_pool_stats stats;

  start_a_run ();
  fake_disk_fail (19 * PAGE, 20 * PAGE, false);
  fake_disk_slow (300 * MS);
  fake_disk_pass ();
  ck_assert_int_eq (slot_pool_flush (pool), -EIO);
  slot_pool_stats (pool, &stats);
  ck_assert_uint_gt (stats.failed, 1);
  fake_disk_slow (0);
  fake_disk_mend ();
  slot_pool_retry (pool);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  for (uint64_t page = 10; page < 20; page++)
    assert_page (page);
}
END_TEST

static uint32_t
in_use (void)
{
  struct slot_pool_stats stats;

  slot_pool_stats (pool, &stats);
  return stats.in_use;
}

/* A flush does not wait for the donor, but the slot does. */
START_TEST (a_donor_may_take_longer_than_the_disk)
{
  has_donor = true;
  start (_i);
  commit (10);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_page (10);
  ck_assert_uint_eq (in_use (), 1);
  commit (20);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_page (20);
  commit (10);                  /* waits for the donor */
  usleep (20000);
  ck_assert_uint_eq (in_use (), 2);
  has_donor = false;
  end_sending (true);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  ck_assert_uint_eq (in_use (), 0);
}
END_TEST

/* Whether a page has another copy must be known when its write failed. */
START_TEST (the_donor_is_waited_for_where_the_disk_fails)
{
  struct slot_pool_stats stats;

  has_donor = true;
  fake_disk_fail (10 * PAGE, 11 * PAGE, false);
  start (FAKE_AIO_THREADS);
  commit (10);
  while (write_behind_errors (writer) == 0)
    usleep (500);
  commit (20);                  /* goes on meanwhile */
  while (slot_pool_clear_run (pool, 20, 1) == 0)
    usleep (500);
  slot_pool_stats (pool, &stats);
  ck_assert_uint_eq (stats.in_use, 1);
  ck_assert_uint_eq (stats.failed, 0);
  ck_assert_uint_eq (slot_pool_stored_run (pool, 10, 1, NULL, NULL), 0);
  other_copy = _i == 1;
  end_sending (_i == 1);
  has_donor = false;
  ck_assert_int_eq (slot_pool_flush (pool), _i == 1 ? 0 : -EIO);
  ck_assert_uint_eq (in_use (), _i == 1 ? 0 : 1);
  fake_disk_mend ();
  slot_pool_retry (pool);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
}
END_TEST

/* A donor that has to be waited for has its run after the disk. */
START_TEST (the_disk_does_not_wait_for_room)
{
  has_donor = is_full = true;
  start (FAKE_AIO_THREADS);
  commit (10);
  while (!is_written (10))
    usleep (500);
  ck_assert_uint_eq (sent, 0);
  is_full = false;
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  ck_assert_uint_eq (sent, 1);
  end_sending (true);
  assert_page (10);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("write_behind");

  tcase_add_checked_fixture (c, setup, teardown);
  tcase_set_timeout (c, 60);
  tcase_add_loop_test (c, what_is_committed_is_written, FAKE_AIO_THREADS,
                       FAKE_AIO_REFUSED + 1);
  tcase_add_test (c, a_write_that_is_held_up_does_not_hold_up_others);
  tcase_add_test (c, a_bad_page_is_not_its_neighbours);
  tcase_add_test (c, a_disk_that_is_slow_to_fail_is_not_asked_for_each);
  tcase_add_test (c, others_go_on_while_a_write_is_tried_again);
  tcase_add_test (c, pages_for_which_no_time_is_left_are_not_taken_for_written);
  tcase_add_loop_test (c, a_donor_may_take_longer_than_the_disk,
                       FAKE_AIO_THREADS, FAKE_AIO_REFUSED + 1);
  tcase_add_loop_test (c, the_donor_is_waited_for_where_the_disk_fails, 0, 2);
  tcase_add_test (c, the_disk_does_not_wait_for_room);
  return suite_run ("write_behind", c);
}
