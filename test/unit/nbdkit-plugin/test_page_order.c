#include <sched.h>
#include <string.h>

#include "nbdkit-plugin/page_order.h"
#include "seeded.h"
#include "suite.h"
#include "thread.h"

enum { PAGES = 16, THREADS = 8, ROUNDS = 2000 };

static struct page_order order;
static atomic_int turns;
static uint64_t counters[PAGES]; /* guarded by the claims alone */

static void
setup (void)
{
  page_order_init (&order);
  turns = 0;
  memset (counters, 0, sizeof counters);
}

static void
teardown (void)
{
  page_order_destroy (&order);
}

/* A thread that claims, notes its turn, and releases when told. */
struct claimant {
  struct thread thread;
  uint64_t first, count;
  atomic_int turn;              /* 0: not granted yet */
  atomic_bool release;
};

static void
claim_once (void *data)
{
  struct claimant *c = data;
  struct page_claim claim;

  page_order_claim (&order, &claim, c->first, c->count);
  c->turn = atomic_fetch_add (&turns, 1) + 1;
  while (!c->release)
    sched_yield ();
  page_order_release (&order, &claim);
}

static void
begin (struct claimant *c, uint64_t first, uint64_t count)
{
  *c = (struct claimant) { .first = first, .count = count };
  thread_start (&c->thread, claim_once, c);
}

static void
begin_and_sleep (struct claimant *c, uint64_t first, uint64_t count)
{
  begin (c, first, count);
  thread_wait_asleep (&c->thread);
  ck_assert_int_eq (c->turn, 0);
}

static void
finish (struct claimant *c)
{
  c->release = true;
  thread_join (&c->thread);
}

static void
wait_granted (struct claimant *c)
{
  while (c->turn == 0)
    sched_yield ();
}

START_TEST (claims_that_do_not_overlap_do_not_wait)
{
  struct page_claim a, b, c;

  page_order_claim (&order, &a, 10, 5);
  page_order_claim (&order, &b, 15, 1);
  page_order_claim (&order, &c, 9, 1);
  page_order_release (&order, &b);
  page_order_release (&order, &a);
  page_order_release (&order, &c);
}
END_TEST

START_TEST (overlapping_claims_are_granted_in_order)
{
  struct claimant c[5];

  begin (&c[0], 0, 10);
  wait_granted (&c[0]);
  for (int i = 1; i < 5; i++)
    begin_and_sleep (&c[i], 9 - i, 2);
  for (int i = 0; i < 5; i++) {
    wait_granted (&c[i]);
    ck_assert_int_eq (c[i].turn, i + 1);
    if (i + 1 < 5)
      ck_assert_int_eq (c[i + 1].turn, 0);
    finish (&c[i]);
  }
}
END_TEST

/* b waits for a; c overlaps b alone, came later, and may not pass it, or
 * a stream of small writes could starve a large one.
 */
START_TEST (a_later_claim_does_not_pass_a_waiting_one)
{
  struct claimant a, b, c, d;

  begin (&a, 0, 1);
  wait_granted (&a);
  begin_and_sleep (&b, 0, 10);
  begin_and_sleep (&c, 5, 1);
  begin (&d, 20, 1);
  wait_granted (&d);
  finish (&d);
  finish (&a);
  wait_granted (&b);
  ck_assert_int_eq (c.turn, 0);
  finish (&b);
  wait_granted (&c);
  finish (&c);
}
END_TEST

static void
count_pages (void *data)
{
  struct seeded *s = data;

  for (int i = 0; i < ROUNDS; i++) {
    uint64_t first = seeded_below (s, PAGES);
    uint64_t n = 1 + seeded_below (s, PAGES - first);
    struct page_claim claim;

    page_order_claim (&order, &claim, first, n);
    for (uint64_t p = first; p < first + n; p++)
      counters[p]++;
    page_order_release (&order, &claim);
  }
}

static uint64_t
expected_sum (struct seeded s)
{
  uint64_t sum = 0;

  for (int i = 0; i < ROUNDS; i++)
    sum += 1 + seeded_below (&s, PAGES - seeded_below (&s, PAGES));
  return sum;
}

START_TEST (a_page_has_one_writer_at_a_time)
{
  struct thread threads[THREADS];
  struct seeded seed, seeds[THREADS];
  uint64_t want = 0, sum = 0;

  seeded_init (&seed, "page order");
  for (int i = 0; i < THREADS; i++) {
    seeds[i] = seeded_split (&seed);
    want += expected_sum (seeds[i]);
    thread_start (&threads[i], count_pages, &seeds[i]);
  }
  for (int i = 0; i < THREADS; i++)
    thread_join (&threads[i]);
  for (int i = 0; i < PAGES; i++)
    sum += counters[i];
  ck_assert_uint_eq (sum, want);
}
END_TEST

/* Everybody wants everything: each thread gets its turns in the end. */
static void
claim_all (void *data)
{
  (void) data;
  for (int i = 0; i < ROUNDS; i++) {
    struct page_claim claim;

    page_order_claim (&order, &claim, 0, PAGES);
    counters[0]++;
    page_order_release (&order, &claim);
  }
}

START_TEST (nobody_starves)
{
  struct thread threads[THREADS];

  for (int i = 0; i < THREADS; i++)
    thread_start (&threads[i], claim_all, NULL);
  for (int i = 0; i < THREADS; i++)
    thread_join (&threads[i]);
  ck_assert_uint_eq (counters[0], THREADS * ROUNDS);
}
END_TEST

START_TEST (a_weak_claim_makes_nobody_wait_and_is_broken)
{
  struct page_claim weak, claim;

  ck_assert (page_order_claim_weakly (&order, &weak, 2, 4));
  page_order_claim (&order, &claim, 5, 3);
  ck_assert (!page_order_strengthen (&order, &weak));
  page_order_release (&order, &weak);
  page_order_release (&order, &claim);
  ck_assert_ptr_null (order.head);
}
END_TEST

START_TEST (a_weak_claim_needs_pages_that_nobody_has_claimed)
{
  struct page_claim weak, other, claim;

  page_order_claim (&order, &claim, 0, 3);
  ck_assert (!page_order_claim_weakly (&order, &weak, 2, 4));
  ck_assert (page_order_claim_weakly (&order, &weak, 3, 4));
  ck_assert (!page_order_claim_weakly (&order, &other, 6, 1));
  page_order_release (&order, &claim);
  ck_assert (page_order_strengthen (&order, &weak));
  page_order_release (&order, &weak);
  ck_assert_ptr_null (order.head);
}
END_TEST

START_TEST (a_strengthened_claim_is_waited_for)
{
  struct page_claim weak;
  struct claimant writer;

  ck_assert (page_order_claim_weakly (&order, &weak, 2, 4));
  ck_assert (page_order_strengthen (&order, &weak));
  begin_and_sleep (&writer, 5, 3);
  ck_assert_int_eq (writer.turn, 0);
  page_order_release (&order, &weak);
  writer.release = true;
  thread_join (&writer.thread);
  ck_assert_int_eq (writer.turn, 1);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("page_order");

  tcase_add_checked_fixture (c, setup, teardown);
  tcase_add_test (c, claims_that_do_not_overlap_do_not_wait);
  tcase_add_test (c, overlapping_claims_are_granted_in_order);
  tcase_add_test (c, a_later_claim_does_not_pass_a_waiting_one);
  tcase_add_test (c, a_page_has_one_writer_at_a_time);
  tcase_add_test (c, nobody_starves);
  tcase_add_test (c, a_weak_claim_makes_nobody_wait_and_is_broken);
  tcase_add_test (c, a_weak_claim_needs_pages_that_nobody_has_claimed);
  tcase_add_test (c, a_strengthened_claim_is_waited_for);
  return suite_run ("page_order", c);
}
