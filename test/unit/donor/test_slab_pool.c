/* Slabs prepared ahead, lent, taken back. */

#include <check.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "donor/slab_pool.h"

enum { SLAB_BYTES = 4 << 20 };

static struct slab_pool *
new_pool (uint64_t ready, uint64_t limit_slabs)
{
  struct slab_pool *pool;

  ck_assert_int_eq (slab_pool_new (SLAB_BYTES, ready, MEMORY_LOCK_NO, &pool),
                    0);
  slab_pool_set_limit (pool, limit_slabs * SLAB_BYTES);
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
  slab_pool_set_limit (pool, 4 * SLAB_BYTES - 1);
  ck_assert_uint_eq (settle (pool).ready, 0);
  slab_pool_set_limit (pool, 4 * SLAB_BYTES);
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

/* No machine has so much, so mapping fails; the pool goes on. */
START_TEST (failure_to_prepare_is_told)
{
  struct slab_pool *pool;
  struct slab_pool_state st;

  ck_assert_int_eq (slab_pool_new (UINT64_C (1) << 60, 1, MEMORY_LOCK_NO,
                                   &pool), 0);
  slab_pool_set_limit (pool, UINT64_MAX);
  st = settle (pool);
  ck_assert_int_lt (st.error, 0);
  ck_assert_uint_eq (st.ready, 0);
  ck_assert_uint_eq (st.resident_bytes, 0);

  /* It is not tried again at once. */
  slab_pool_set_limit (pool, UINT64_MAX);
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
  slab_pool_set_limit (pool, UINT64_C (1) << 30);
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
  tcase_add_test (tc, stays_within_the_limit);
  tcase_add_test (tc, is_zero_before_anyone_gets_it);
  tcase_add_test (tc, untouched_slabs_are_ready_at_once);
  tcase_add_test (tc, prepares_on_demand);
  tcase_add_test (tc, failure_to_prepare_is_told);
  tcase_add_test (tc, stops_while_preparing);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
