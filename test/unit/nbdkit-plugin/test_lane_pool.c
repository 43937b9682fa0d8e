#include "nbdkit-plugin/lane_pool.h"
#include "suite.h"
#include "thread.h"

enum { LANES = 4 };
static char memory[LANES * FABRIC_TRANSFER_MAX];
static struct lane_pool pool;

static void
setup (void)
{
  ck_assert_int_eq (lane_pool_init (&pool, LANES, memory), 0);
}

static void
teardown (void)
{
  lane_pool_destroy (&pool);
}

START_TEST (each_lane_has_its_number_and_memory)
{
  struct lane *lanes[LANES];
  unsigned seen = 0;

  for (int i = 0; i < LANES; i++) {
    lanes[i] = lane_pool_take (&pool, 0);
    ck_assert_ptr_nonnull (lanes[i]);
    ck_assert_ptr_eq (lanes[i]->landing,
                      memory + lanes[i]->id * FABRIC_TRANSFER_MAX);
    seen |= 1 << lanes[i]->id;
  }
  ck_assert_uint_eq (seen, (1 << LANES) - 1);
  for (int i = 0; i < LANES; i++)
    lane_pool_put (&pool, lanes[i]);
}
END_TEST

START_TEST (without_a_free_lane_the_deadline_ends_the_wait)
{
  struct lane *lanes[LANES];
  int64_t until;

  for (int i = 0; i < LANES; i++)
    lanes[i] = lane_pool_take (&pool, 0);
  until = fabric_now_ns () + 20000000;
  ck_assert_ptr_null (lane_pool_take (&pool, until));
  ck_assert_int_ge (fabric_now_ns (), until);
  for (int i = 0; i < LANES; i++)
    lane_pool_put (&pool, lanes[i]);
}
END_TEST

static void
take_and_put (void *data)
{
  struct lane *lane = lane_pool_take (&pool, INT64_MAX);

  ck_assert_ptr_nonnull (lane);
  *(struct lane **) data = lane;
  lane_pool_put (&pool, lane);
}

START_TEST (a_lane_put_back_wakes_a_waiter)
{
  struct lane *lanes[LANES], *got = NULL;
  struct thread waiter;

  for (int i = 0; i < LANES; i++)
    lanes[i] = lane_pool_take (&pool, 0);
  thread_start (&waiter, take_and_put, &got);
  thread_wait_asleep (&waiter);
  lane_pool_put (&pool, lanes[2]);
  thread_join (&waiter);
  ck_assert_ptr_eq (got, lanes[2]);
}
END_TEST

enum { THREADS = 8, ROUNDS = 2000 };

/* The landing buffer is the holder's alone: TSan looks on. */
static void
use_lanes (void *data)
{
  (void) data;
  for (int i = 0; i < ROUNDS; i++) {
    struct lane *lane = lane_pool_take (&pool, INT64_MAX);

    ++*(unsigned *) lane->landing;
    lane_pool_put (&pool, lane);
  }
}

START_TEST (a_lane_has_one_owner_at_a_time)
{
  struct thread threads[THREADS];
  unsigned sum = 0;

  for (int i = 0; i < THREADS; i++)
    thread_start (&threads[i], use_lanes, NULL);
  for (int i = 0; i < THREADS; i++)
    thread_join (&threads[i]);
  for (int i = 0; i < LANES; i++)
    sum += *(unsigned *) pool.lanes[i].landing;
  ck_assert_uint_eq (sum, THREADS * ROUNDS);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("lane_pool");

  tcase_add_checked_fixture (c, setup, teardown);
  tcase_add_test (c, each_lane_has_its_number_and_memory);
  tcase_add_test (c, without_a_free_lane_the_deadline_ends_the_wait);
  tcase_add_test (c, a_lane_put_back_wakes_a_waiter);
  tcase_add_test (c, a_lane_has_one_owner_at_a_time);
  return suite_run ("lane_pool", c);
}
