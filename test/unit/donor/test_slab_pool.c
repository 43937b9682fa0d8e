/* Slabs prepared ahead, lent, taken back. */

#include <check.h>
#include <glib.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "donor/slab_pool.h"

enum { SLAB_BYTES = 4 << 20 };

static void
set_limit (struct slab_pool *pool, uint64_t bytes)
{
  slab_pool_set_limits (pool, bytes, bytes);
}

static struct slab_pool *
new_pool (uint64_t ready, uint64_t limit_slabs)
{
  struct slab_pool *pool;

  ck_assert_int_eq (slab_pool_new (SLAB_BYTES, ready, MEMORY_LOCK_NO, &pool),
                    0);
  set_limit (pool, limit_slabs * SLAB_BYTES);
  return pool;
}

/* Until the thread has nothing more to do. */
static struct slab_pool_state
settle (struct slab_pool *pool)
{
  struct pollfd pfd = { .fd = slab_pool_fd (pool), .events = POLLIN };
  struct slab_pool_state st;

  for (;;) {
    slab_pool_acknowledge (pool);
    slab_pool_get_state (pool, &st);
    if (!st.busy)
      return st;
    ck_assert_int_eq (poll (&pfd, 1, 10000), 1);
  }
}

static bool
is_zero (const struct slab *slab)
{
  const char *p = slab->memory;

  return p[0] == 0 && memcmp (p, p + 1, slab->bytes - 1) == 0;
}

START_TEST (keeps_slabs_ready)
{
  struct slab_pool *pool = new_pool (2, 10);
  struct slab_pool_state st = settle (pool);
  struct slab *slab;

  ck_assert_uint_eq (st.ready, 2);
  ck_assert_uint_eq (st.resident_bytes, 2 * SLAB_BYTES);
  ck_assert_int_eq (st.error, 0);

  slab = slab_pool_take (pool);
  ck_assert_ptr_nonnull (slab);
  ck_assert_uint_eq (slab->bytes, SLAB_BYTES);
  ck_assert_uint_eq ((uintptr_t) slab->memory % (2 << 20), 0);
  st = settle (pool);
  ck_assert_uint_eq (st.ready, 2);
  ck_assert_uint_eq (st.lent, 1);
  ck_assert_uint_eq (st.resident_bytes, 3 * SLAB_BYTES);

  slab_pool_give_back (pool, slab, false);
  st = settle (pool);
  ck_assert_uint_eq (st.lent, 0);
  ck_assert_uint_eq (st.ready, 2);
  ck_assert_uint_eq (st.resident_bytes, 2 * SLAB_BYTES);
  slab_pool_free (pool);
}
END_TEST

START_TEST (stays_within_the_limit)
{
  struct slab_pool *pool = new_pool (4, 3);
  struct slab *slabs[3];

  ck_assert_uint_eq (settle (pool).ready, 3);
  for (unsigned i = 0; i < 3; i++)
    ck_assert_ptr_nonnull (slabs[i] = slab_pool_take (pool));
  ck_assert_ptr_null (slab_pool_take (pool));
  ck_assert_uint_eq (settle (pool).ready, 0);
  ck_assert_uint_eq (settle (pool).resident_bytes, 3 * SLAB_BYTES);

  /* A byte less than one more slab does not do. */
  set_limit (pool, 4 * SLAB_BYTES - 1);
  ck_assert_uint_eq (settle (pool).ready, 0);
  set_limit (pool, 4 * SLAB_BYTES);
  ck_assert_uint_eq (settle (pool).ready, 1);
  for (unsigned i = 0; i < 3; i++)
    slab_pool_give_back (pool, slabs[i], false);
  slab_pool_free (pool);
}
END_TEST

START_TEST (is_zero_before_anyone_gets_it)
{
  struct slab_pool *pool = new_pool (1, 1);
  struct slab *slab;

  for (unsigned i = 0; i < 3; i++) {
    settle (pool);
    slab = slab_pool_take (pool);
    ck_assert_ptr_nonnull (slab);
    ck_assert (is_zero (slab));
    memset (slab->memory, 0x5a, slab->bytes);
    slab_pool_give_back (pool, slab, false);
  }
  slab_pool_free (pool);
}
END_TEST

START_TEST (untouched_slabs_are_ready_at_once)
{
  struct slab_pool *pool = new_pool (1, 1);
  struct slab_pool_state st;
  struct slab *slab;

  settle (pool);
  slab = slab_pool_take (pool);
  slab_pool_give_back (pool, slab, true);
  slab_pool_get_state (pool, &st);
  ck_assert_uint_eq (st.ready, 1);
  ck_assert_uint_eq (st.lent, 0);
  ck_assert (!st.busy);
  slab_pool_free (pool);
}
END_TEST

START_TEST (prepares_on_demand)
{
  struct slab_pool *pool = new_pool (0, 10);

  ck_assert_uint_eq (settle (pool).ready, 0);
  slab_pool_set_demand (pool, 3);
  ck_assert_uint_eq (settle (pool).ready, 3);
  slab_pool_free (pool);
}
END_TEST

/* Ready slabs go at once, lent ones stay. */
START_TEST (ready_slabs_go_when_the_limit_falls)
{
  struct slab_pool *pool = new_pool (3, 5);
  struct slab_pool_state st;
  struct slab *slabs[2];

  for (unsigned i = 0; i < 2; i++) {
    settle (pool);
    ck_assert_ptr_nonnull (slabs[i] = slab_pool_take (pool));
  }
  ck_assert_uint_eq (settle (pool).ready, 3);
  set_limit (pool, 4 * SLAB_BYTES);
  slab_pool_get_state (pool, &st);
  ck_assert_uint_eq (st.ready, 2);
  set_limit (pool, SLAB_BYTES);
  slab_pool_get_state (pool, &st);
  ck_assert_uint_eq (st.ready, 0);
  ck_assert_uint_eq (st.lent, 2);
  ck_assert_ptr_null (slab_pool_take (pool));
  ck_assert_uint_eq (settle (pool).resident_bytes, 2 * SLAB_BYTES);

  /* Nor does one stay that comes back untouched. */
  slab_pool_give_back (pool, slabs[0], true);
  ck_assert_uint_eq (settle (pool).ready, 0);
  set_limit (pool, 0);
  slab_pool_give_back (pool, slabs[1], true);
  st = settle (pool);
  ck_assert_uint_eq (st.ready, 0);
  ck_assert_uint_eq (st.resident_bytes, 0);
  slab_pool_free (pool);
}
END_TEST

START_TEST (reserves_all_but_one)
{
  struct slab_pool *pool = new_pool (2, 3);
  struct slab_pool_state st;
  struct slab *slab;

  settle (pool);
  slab = slab_pool_reserve (pool);
  ck_assert_ptr_nonnull (slab);
  ck_assert_ptr_null (slab_pool_reserve (pool));
  st = settle (pool);
  ck_assert_uint_eq (st.ready, 1);
  ck_assert_uint_eq (st.reserved, 1);
  ck_assert_uint_eq (st.lent, 0);

  /* The ready one goes first. */
  set_limit (pool, SLAB_BYTES);
  st = settle (pool);
  ck_assert_uint_eq (st.ready, 0);
  ck_assert_uint_eq (st.reserved, 1);
  slab_pool_take_reserved (pool);
  set_limit (pool, 3 * SLAB_BYTES);
  st = settle (pool);
  ck_assert_uint_eq (st.ready, 2);
  ck_assert_uint_eq (st.reserved, 0);
  ck_assert_uint_eq (st.lent, 1);
  slab_pool_give_back (pool, slab, false);
  slab_pool_free (pool);
}
END_TEST

/* What may be held is more than what may be prepared. */
START_TEST (prepares_less_than_it_keeps)
{
  struct slab_pool *pool = new_pool (3, 3);

  ck_assert_uint_eq (settle (pool).ready, 3);
  slab_pool_set_limits (pool, 3 * SLAB_BYTES, 2 * SLAB_BYTES);
  ck_assert_uint_eq (settle (pool).ready, 3);
  set_limit (pool, 0);
  ck_assert_uint_eq (settle (pool).ready, 0);
  slab_pool_set_limits (pool, 3 * SLAB_BYTES, 2 * SLAB_BYTES);
  ck_assert_uint_eq (settle (pool).ready, 2);
  slab_pool_set_limits (pool, SLAB_BYTES, 2 * SLAB_BYTES);
  ck_assert_uint_eq (settle (pool).ready, 1);
  slab_pool_free (pool);
}
END_TEST

/* A slab that takes long is not finished first, and that it was not is
 * no failure.
 */
START_TEST (preparing_stops_when_the_limit_falls)
{
  const uint64_t bytes = UINT64_C (1) << 30;
  struct slab_pool *pool;
  struct slab_pool_state st;
  uint64_t most = 0;

  ck_assert_int_eq (slab_pool_new (bytes, 1, MEMORY_LOCK_NO, &pool), 0);
  set_limit (pool, bytes);
  do
    slab_pool_get_state (pool, &st);
  while (st.resident_bytes == 0);
  set_limit (pool, bytes - 1);
  do {
    slab_pool_get_state (pool, &st);
    most = st.resident_bytes > most ? st.resident_bytes : most;
  } while (st.busy);
  ck_assert_uint_lt (most, bytes);
  ck_assert_uint_eq (st.resident_bytes, 0);
  ck_assert_uint_eq (st.ready, 0);
  ck_assert_int_eq (st.error, 0);
  slab_pool_free (pool);
}
END_TEST

static unsigned
count_nice_threads (void)
{
  const int nice = MIN (getpriority (PRIO_PROCESS, 0) + 10, 19);
  g_autoptr (GDir) tasks = g_dir_open ("/proc/self/task", 0, NULL);
  const char *name;
  unsigned n = 0;

  while ((name = g_dir_read_name (tasks)))
    n += getpriority (PRIO_PROCESS, atoi (name)) == nice;
  return n;
}

/* Preparing ahead is nice; whoever waits for a slab finds the thread at
 * the process's own priority, where that can be had again.
 */
START_TEST (prepares_ahead_at_a_low_priority)
{
  struct slab_pool *pool = new_pool (1, 2);

  settle (pool);
  ck_assert_uint_eq (count_nice_threads (), 1);
  slab_pool_set_demand (pool, 1);
  if (geteuid () == 0)
    ck_assert_uint_eq (count_nice_threads (), 0);
  ck_assert_uint_eq (settle (pool).ready, 2);
  slab_pool_set_demand (pool, 0);
  ck_assert_uint_eq (count_nice_threads (), 1);
  slab_pool_free (pool);
}
END_TEST

/* No machine has so much, so mapping fails; the pool goes on. */
START_TEST (failure_to_prepare_is_told)
{
  struct slab_pool *pool;
  struct slab_pool_state st;

  ck_assert_int_eq (slab_pool_new (UINT64_C (1) << 60, 1, MEMORY_LOCK_NO,
                                   &pool), 0);
  set_limit (pool, UINT64_MAX);
  st = settle (pool);
  ck_assert_int_lt (st.error, 0);
  ck_assert_uint_eq (st.ready, 0);
  ck_assert_uint_eq (st.resident_bytes, 0);

  /* It is not tried again at once. */
  set_limit (pool, UINT64_MAX);
  ck_assert_int_lt (settle (pool).error, 0);
  slab_pool_free (pool);
}
END_TEST

/* Far more than can be prepared before the test's time is over. */
START_TEST (stops_while_preparing)
{
  struct slab_pool *pool;
  struct slab_pool_state st;

  ck_assert_int_eq (slab_pool_new (UINT64_C (1) << 30, 1000, MEMORY_LOCK_NO,
                                   &pool), 0);
  set_limit (pool, UINT64_C (1) << 30);
  do
    slab_pool_get_state (pool, &st);
  while (st.resident_bytes == 0);
  slab_pool_free (pool);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("slab_pool");
  TCase *tc = tcase_create ("slab_pool");
  SRunner *sr;
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_test (tc, keeps_slabs_ready);
  tcase_add_test (tc, reserves_all_but_one);
  tcase_add_test (tc, stays_within_the_limit);
  tcase_add_test (tc, is_zero_before_anyone_gets_it);
  tcase_add_test (tc, untouched_slabs_are_ready_at_once);
  tcase_add_test (tc, prepares_on_demand);
  tcase_add_test (tc, ready_slabs_go_when_the_limit_falls);
  tcase_add_test (tc, prepares_less_than_it_keeps);
  tcase_add_test (tc, preparing_stops_when_the_limit_falls);
  tcase_add_test (tc, prepares_ahead_at_a_low_priority);
  tcase_add_test (tc, failure_to_prepare_is_told);
  tcase_add_test (tc, stops_while_preparing);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
