/* When slots are due, and how many there may be. */

#include "nbdkit-plugin/drain.h"
#include "suite.h"

#define MS INT64_C (1000000)

enum { SLOTS = 16384, LEAST = 1024, BATCH = 64 };

static struct drain d;
static int64_t now_ns;

static void
setup (void)
{
  now_ns = 1000 * MS;
  drain_init (&d, SLOTS, 5000 * MS);
}

static bool
is_due (uint32_t queued, int64_t oldest_age_ns, int64_t newest_age_ns)
{
  return drain_is_due (&d, queued, now_ns - oldest_age_ns,
                       now_ns - newest_age_ns, now_ns);
}

/* n slots are written, and take so long. */
static bool
write_slots (uint32_t n, int64_t took_ns, bool failed)
{
  drain_begin (&d, n, now_ns);
  now_ns += took_ns;
  return drain_end (&d, n, failed, now_ns);
}

START_TEST (without_a_delay_all_are_due)
{
  drain_init (&d, SLOTS, 0);
  ck_assert (is_due (1, 0, 0));
  ck_assert (drain_is_full (&d, BATCH));
  ck_assert (!drain_is_full (&d, BATCH - 1));
  write_slots (SLOTS, 1000 * MS, false);
  ck_assert (is_due (1, 0, 0));
  ck_assert (drain_is_full (&d, BATCH));
}
END_TEST

START_TEST (slots_wait_while_more_come)
{
  ck_assert (!is_due (100, 4999 * MS, 49 * MS));
  ck_assert (is_due (100, 4999 * MS, 50 * MS));
  ck_assert_int_eq (drain_quiet_ns (&d), 50 * MS);
}
END_TEST

START_TEST (none_waits_longer_than_the_delay)
{
  ck_assert (is_due (1, 5000 * MS, 0));
  drain_init (&d, SLOTS, 20 * MS);
  ck_assert (!is_due (1, 19 * MS, 19 * MS));
  ck_assert (is_due (1, 20 * MS, 0));
  ck_assert_int_eq (drain_quiet_ns (&d), 20 * MS);
}
END_TEST

/* First of the least that there may be, then of what there may be. */
START_TEST (no_more_than_half_wait)
{
  uint32_t keep = LEAST / 2;

  for (int i = 0; i < 2; i++, keep = SLOTS / 2) {
    ck_assert (!is_due (keep + BATCH - 1, 0, 0));
    ck_assert (is_due (keep + BATCH, 0, 0));
    ck_assert (drain_is_full (&d, keep + BATCH));
    ck_assert (is_due (keep + 1, 0, 0));
    ck_assert (!is_due (keep, 0, 0));
    ck_assert (!is_due (keep + 1, 0, 0));
    ck_assert (write_slots (SLOTS, 1000 * MS, false));
  }
}
END_TEST

START_TEST (a_small_pool_has_half_too)
{
  drain_init (&d, 256, 5000 * MS);
  ck_assert (!is_due (128 + BATCH - 1, 0, 0));
  ck_assert (is_due (128 + BATCH, 0, 0));
  ck_assert (write_slots (1, 1000 * MS, false));
  ck_assert_uint_eq (d.limit, 256);
}
END_TEST

/* Only the time counts in which something is being written. */
START_TEST (the_limit_is_what_is_written_in_10_s)
{
  ck_assert_uint_eq (d.limit, SLOTS);
  for (int i = 0; i < 9; i++) {
    ck_assert (!write_slots (50, 100 * MS, false));
    now_ns += 10000 * MS;
  }
  drain_begin (&d, 25, now_ns);
  now_ns += 50 * MS;
  drain_begin (&d, 125, now_ns);
  now_ns += 50 * MS;
  ck_assert (drain_end (&d, 25, false, now_ns));
  ck_assert_uint_eq (d.limit, 4750);
  now_ns += 1000 * MS;
  ck_assert (drain_end (&d, 125, false, now_ns));
  ck_assert_uint_eq (d.limit, 1250);
}
END_TEST

START_TEST (the_limit_has_bounds)
{
  ck_assert (write_slots (1, 1000 * MS, false));
  ck_assert_uint_eq (d.limit, LEAST);
  ck_assert (write_slots (SLOTS, 1000 * MS, false));
  ck_assert_uint_eq (d.limit, SLOTS);
}
END_TEST

START_TEST (what_fails_is_not_measured)
{
  ck_assert (!write_slots (1, 900 * MS, false));
  ck_assert (!write_slots (1, 5000 * MS, true));
  ck_assert (!write_slots (200, 500 * MS, false));
  ck_assert (write_slots (200, 500 * MS, false));
  ck_assert_uint_eq (d.limit, 4000);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("drain");

  tcase_add_checked_fixture (c, setup, NULL);
  tcase_add_test (c, without_a_delay_all_are_due);
  tcase_add_test (c, slots_wait_while_more_come);
  tcase_add_test (c, none_waits_longer_than_the_delay);
  tcase_add_test (c, no_more_than_half_wait);
  tcase_add_test (c, a_small_pool_has_half_too);
  tcase_add_test (c, the_limit_is_what_is_written_in_10_s);
  tcase_add_test (c, the_limit_has_bounds);
  tcase_add_test (c, what_fails_is_not_measured);
  return suite_run ("drain", c);
}
