/* The slot pool, step by step; the test plays the workers and writers. */

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "nbdkit-plugin/slot_pool_parts.h"
#include "suite.h"
#include "thread.h"

enum { SLOTS = 16, OTHER = 999 };
static char memory[SLOTS * PAGE_SIZE_BYTES];
static struct slot_pool *pool;
static bool donor_has_it;       /* what has_other_copy says */

static bool local_is_old;       /* what committed says */

static bool
committed (void *data, uint64_t first, uint32_t n)
{
  (void) data;
  (void) first;
  (void) n;
  return local_is_old;
}

static bool
has_other_copy (void *data, uint64_t page)
{
  (void) data;
  (void) page;
  return donor_has_it;
}

static uint64_t landed_first;
static uint32_t landed_pages;   /* in all */
static const void *landed_on;

static void
landed (void *data, uint64_t first, uint32_t n, const void *donor)
{
  (void) data;
  landed_first = first;
  landed_pages += n;
  landed_on = donor;
}

static void
setup (void)
{
  donor_has_it = local_is_old = false;
  landed_pages = 0;
  landed_on = NULL;
  pool = slot_pool_new (memory, SLOTS, 0,
                        (struct slot_pool_owner) {
                          committed, has_other_copy, landed, NULL });
  ck_assert_ptr_nonnull (pool);
}

static void
teardown (void)
{
  slot_pool_free (pool);
}

static uint32_t
take (void)
{
  uint32_t slot;

  ck_assert_int_eq (slot_pool_take (pool, 1, &slot), 0);
  return slot;
}

/* Take a slot and commit it as the content of page. */
static uint32_t
commit (uint64_t page, struct slot_waiter *w)
{
  uint32_t slot = take ();

  slot_pool_commit (pool, page, &slot, 1, w);
  return slot;
}

/* The same with n slots, for as many pages. */
static void
commit_run (uint64_t first, uint32_t n, uint32_t *slots,
            struct slot_waiter *w)
{
  ck_assert_int_eq (slot_pool_take (pool, n, slots), 0);
  slot_pool_commit (pool, first, slots, n, w);
}

static uint32_t
find (uint64_t page)
{
  uint32_t slot;

  slot_pool_find (pool, page, 1, &slot);
  slot_pool_release (pool, &slot, 1);
  return slot;
}

/* Begin the next write, which must be of this slot and page. */
static void
begin (uint32_t slot, uint64_t page)
{
  uint32_t got;
  uint64_t first;

  ck_assert_uint_eq (slot_pool_next (pool, 1, &got, &first), 1);
  ck_assert_uint_eq (first, page);
  ck_assert_uint_eq (got, slot);
}

static void
end (uint32_t slot, int error)
{
  slot_pool_written (pool, &slot, 1, error);
}

static void
write_through (uint32_t slot, uint64_t page)
{
  begin (slot, page);
  end (slot, 0);
}

/* Nothing can be written now: another page's slot is next. */
static void
assert_nothing_to_write (void)
{
  write_through (commit (OTHER, NULL), OTHER);
}

static struct slot_pool_stats
stats (void)
{
  struct slot_pool_stats s;

  slot_pool_stats (pool, &s);
  return s;
}

static void
assert_empty (void)
{
  ck_assert_uint_eq (stats ().in_use, 0);
  ck_assert_uint_eq (stats ().failed, 0);
  slot_pool_stop (pool);
  ck_assert_uint_eq (slot_pool_next (pool, 1, &(uint32_t) { 0 },
                                     &(uint64_t) { 0 }), 0);
}

START_TEST (a_slot_lives_until_it_is_written)
{
  uint32_t slot = take ();

  ck_assert_uint_eq (stats ().in_use, 1);
  ck_assert_uint_eq (find (5), SLOT_NONE);
  ck_assert_uint_eq (slot_pool_clear_run (pool, 0, 10), 10);
  slot_pool_commit (pool, 5, &slot, 1, NULL);
  ck_assert_uint_eq (find (5), slot);
  ck_assert_uint_eq (slot_pool_clear_run (pool, 0, 10), 5);
  begin (slot, 5);
  ck_assert_uint_eq (find (5), slot);
  end (slot, 0);
  ck_assert_uint_eq (find (5), SLOT_NONE);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_empty ();
}
END_TEST

START_TEST (slots_put_back_are_free)
{
  uint32_t slots[SLOTS / 2];

  ck_assert_int_eq (slot_pool_take (pool, SLOTS / 2, slots), 0);
  for (int i = 0; i < SLOTS / 2; i++)
    for (int j = 0; j < i; j++)
      ck_assert_uint_ne (slots[i], slots[j]);
  slot_pool_put_back (pool, slots, SLOTS / 2);
  assert_empty ();
}
END_TEST

START_TEST (each_slot_has_a_page_of_the_memory)
{
  for (uint32_t i = 0; i < SLOTS; i++)
    ck_assert_ptr_eq (slot_pool_buffer (pool, i),
                      memory + i * PAGE_SIZE_BYTES);
}
END_TEST

START_TEST (adjacent_pages_are_written_together)
{
  uint32_t slots[4], got[8];
  uint64_t first;

  commit_run (10, 4, slots, NULL);
  commit (20, NULL);
  ck_assert_uint_eq (slot_pool_next (pool, 3, got, &first), 3);
  ck_assert_uint_eq (first, 10);
  ck_assert_mem_eq (got, slots, 3 * sizeof *got);
  slot_pool_written (pool, got, 3, 0);
  ck_assert_uint_eq (slot_pool_next (pool, 8, got, &first), 1);
  ck_assert_uint_eq (first, 13);
  slot_pool_written (pool, got, 1, 0);
  ck_assert_uint_eq (slot_pool_next (pool, 8, got, &first), 1);
  ck_assert_uint_eq (first, 20);
  slot_pool_written (pool, got, 1, 0);
  assert_empty ();
}
END_TEST

START_TEST (a_queued_slot_gives_its_place_to_its_successor)
{
  uint32_t a, b, c;

  commit (5, NULL);
  c = commit (9, NULL);
  a = commit (5, NULL);
  b = commit (5, NULL);
  ck_assert_uint_eq (stats ().in_use, 2);
  ck_assert_uint_eq (find (5), b);
  ck_assert_uint_ne (a, b);
  write_through (b, 5);         /* before c */
  write_through (c, 9);
  assert_empty ();
}
END_TEST

START_TEST (a_page_has_one_write_in_flight)
{
  uint32_t a = commit (5, NULL), b, c;

  begin (a, 5);
  b = commit (5, NULL);
  assert_nothing_to_write ();
  ck_assert_uint_eq (find (5), b);
  c = commit (5, NULL);         /* b is never written */
  ck_assert_uint_eq (stats ().in_use, 2);
  assert_nothing_to_write ();
  ck_assert_uint_eq (find (5), c);
  end (a, 0);
  ck_assert_uint_eq (find (5), c);
  write_through (c, 5);
  assert_empty ();
}
END_TEST

START_TEST (a_failed_write_leaves_its_successor)
{
  uint32_t a = commit (5, NULL), b;

  begin (a, 5);
  b = commit (5, NULL);
  end (a, -EIO);
  ck_assert_uint_eq (stats ().failed, 0);
  ck_assert_uint_eq (find (5), b);
  write_through (b, 5);
  assert_empty ();
}
END_TEST

START_TEST (a_slot_with_a_waiter_is_written_first_and_in_any_case)
{
  struct slot_waiter w, w2;
  uint32_t a = commit (1, NULL), b = commit (2, &w), c, d;

  c = commit (2, NULL);         /* behind b */
  d = commit (2, &w2);          /* in c's place */
  ck_assert_uint_eq (find (2), d);
  ck_assert_uint_ne (c, d);
  write_through (b, 2);
  ck_assert_int_eq (slot_pool_wait (pool, &w), 0);
  write_through (d, 2);
  ck_assert_int_eq (slot_pool_wait (pool, &w2), 0);
  write_through (a, 1);
  assert_empty ();
}
END_TEST

START_TEST (a_waiter_overtakes_the_queue_with_the_place_of_its_page)
{
  struct slot_waiter w;
  uint32_t a = commit (1, NULL), b;

  commit (2, NULL);
  b = commit (2, &w);
  write_through (b, 2);
  ck_assert_int_eq (slot_pool_wait (pool, &w), 0);
  write_through (a, 1);
  assert_empty ();
}
END_TEST

START_TEST (a_waiter_is_well_served_by_a_donor)
{
  struct slot_waiter w;
  uint32_t a = commit (2, &w);

  begin (a, 2);
  donor_has_it = true;
  end (a, -EIO);
  ck_assert_int_eq (slot_pool_wait (pool, &w), 0);
  assert_empty ();
}
END_TEST

START_TEST (a_waiter_waits_for_all_its_slots_and_gets_the_first_error)
{
  struct slot_waiter w;
  uint32_t slots[3];

  commit_run (7, 3, slots, &w);
  write_through (slots[0], 7);
  begin (slots[1], 8);
  begin (slots[2], 9);
  end (slots[2], -ENOSPC);
  end (slots[1], -EIO);
  ck_assert_int_eq (slot_pool_wait (pool, &w), -ENOSPC);
  assert_empty ();
}
END_TEST

START_TEST (a_slot_that_fails_stays_if_it_is_the_only_copy)
{
  uint32_t a = commit (5, NULL), b;

  begin (a, 5);
  end (a, -EIO);
  ck_assert_uint_eq (find (5), a);
  ck_assert_uint_eq (stats ().failed, 1);
  ck_assert_int_eq (slot_pool_flush (pool), -EIO);
  b = commit (5, NULL);
  write_through (b, 5);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_empty ();
}
END_TEST

START_TEST (a_slot_that_fails_goes_if_there_is_another_copy)
{
  uint32_t a = commit (5, NULL);

  donor_has_it = true;
  begin (a, 5);
  end (a, -EIO);
  ck_assert_uint_eq (find (5), SLOT_NONE);
  assert_empty ();
}
END_TEST

/* The writer tries it again after a second. */
START_TEST (a_failed_slot_is_retried)
{
  uint32_t a = commit (5, NULL);

  begin (a, 5);
  end (a, -EIO);
  begin (a, 5);
  end (a, -EIO);
  ck_assert_int_eq (slot_pool_flush (pool), -EIO);
  write_through (a, 5);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_empty ();
}
END_TEST

/* ... and that does not take a pause in the work. */
START_TEST (a_failed_slot_is_retried_among_other_work)
{
  uint32_t a = commit (5, NULL), got, other;
  uint64_t page;

  begin (a, 5);
  end (a, -EIO);
  for (int i = 0; i < 300; i++) {
    other = commit (OTHER, NULL);
    ck_assert_uint_eq (slot_pool_next (pool, 1, &got, &page), 1);
    end (got, 0);
    if (got != other)
      break;
    usleep (10000);
  }
  ck_assert_uint_eq (page, 5);
  write_through (other, OTHER);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_empty ();
}
END_TEST

START_TEST (dropping_forgets)
{
  uint32_t a = commit (5, NULL), b;

  commit (6, NULL);
  slot_pool_drop (pool, 0, 5000);
  ck_assert_uint_eq (find (5), SLOT_NONE);
  assert_nothing_to_write ();
  a = commit (5, NULL);
  begin (a, 5);
  end (a, -EIO);
  slot_pool_drop (pool, 5, 1);  /* a failed one */
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  b = commit (5, NULL);
  write_through (b, 5);
  assert_empty ();
}
END_TEST

START_TEST (a_write_in_flight_outlives_its_content)
{
  uint32_t a = commit (5, NULL), b;

  begin (a, 5);
  slot_pool_drop (pool, 5, 1);
  ck_assert_uint_eq (find (5), SLOT_NONE);
  ck_assert_uint_eq (slot_pool_clear_run (pool, 5, 1), 0);
  b = commit (5, NULL);         /* waits behind it */
  assert_nothing_to_write ();
  ck_assert_uint_eq (find (5), b);
  slot_pool_drop (pool, 5, 1);
  ck_assert_uint_eq (find (5), SLOT_NONE);
  ck_assert_uint_eq (slot_pool_clear_run (pool, 5, 1), 0);
  end (a, 0);
  ck_assert_uint_eq (slot_pool_clear_run (pool, 5, 1), 1);
  assert_empty ();
}
END_TEST

START_TEST (a_dropped_write_may_fail)
{
  uint32_t a = commit (5, NULL);

  begin (a, 5);
  slot_pool_drop (pool, 5, 1);
  end (a, -EIO);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_empty ();
}
END_TEST

/* What the first owes to the page nobody wants any more. */
START_TEST (a_dropped_write_owes_nothing_to_one_that_failed)
{
  struct slot_waiter w;
  uint32_t a = commit (5, NULL), b;

  begin (a, 5);
  b = commit (5, &w);
  slot_pool_drop (pool, 5, 1);
  end (a, -EIO);
  begin (b, 5);
  end (b, -EIO);
  ck_assert_int_eq (slot_pool_wait (pool, &w), -EIO);
  ck_assert_uint_eq (stats ().failed, 0);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_empty ();
}
END_TEST

START_TEST (a_waiter_is_told_of_a_dropped_write)
{
  struct slot_waiter w;
  uint32_t a = commit (5, &w), b;

  slot_pool_drop (pool, 5, 1);
  ck_assert_uint_eq (find (5), SLOT_NONE);
  b = commit (5, NULL);
  begin (a, 5);
  assert_nothing_to_write ();
  end (a, 0);
  ck_assert_int_eq (slot_pool_wait (pool, &w), 0);
  write_through (b, 5);
  assert_empty ();
}
END_TEST

START_TEST (a_reader_keeps_a_slot_from_reuse)
{
  uint32_t a = commit (5, NULL), read, slots[SLOTS / 2], more[SLOTS / 2 - 1];

  slot_pool_find (pool, 5, 1, &read);
  ck_assert_uint_eq (read, a);
  write_through (a, 5);
  ck_assert_uint_eq (find (5), SLOT_NONE);
  ck_assert_uint_eq (stats ().in_use, 1);
  ck_assert_int_eq (slot_pool_take (pool, SLOTS / 2, slots), 0);
  ck_assert_int_eq (slot_pool_take (pool, SLOTS / 2 - 1, more), 0);
  for (int i = 0; i < SLOTS / 2; i++)
    ck_assert_uint_ne (slots[i], a);
  for (int i = 0; i < SLOTS / 2 - 1; i++)
    ck_assert_uint_ne (more[i], a);
  slot_pool_release (pool, &read, 1);
  ck_assert_uint_eq (take (), a);
}
END_TEST

START_TEST (a_reader_keeps_a_superseded_slot)
{
  uint32_t a = commit (5, NULL), read[2], b;

  slot_pool_find (pool, 5, 1, &read[0]);
  slot_pool_find (pool, 5, 1, &read[1]);
  b = commit (5, NULL);
  write_through (b, 5);
  ck_assert_uint_eq (stats ().in_use, 1);
  slot_pool_release (pool, &read[0], 1);
  ck_assert_uint_eq (stats ().in_use, 1);
  slot_pool_release (pool, &read[1], 1);
  (void) a;
  assert_empty ();
}
END_TEST

/* ---- slots that are written to a donor as well ---- */

static const int donor;

/* Begin the next write, to a donor as well. */
static void
begin_both (uint32_t slot, uint64_t page)
{
  begin (slot, page);
  slot_pool_send (pool, &slot, 1);
}

static void
land (uint32_t slot)
{
  slot_pool_landed (pool, &slot, 1, &donor);
}

START_TEST (a_slot_lives_until_both_its_writes_have_ended)
{
  uint32_t a = commit (5, NULL);

  begin_both (a, 5);
  if (_i == 0) {
    end (a, 0);
    ck_assert_int_eq (slot_pool_flush (pool), 0);
    ck_assert_uint_eq (slot_pool_stored_run (pool, 0, 10, NULL, NULL), 10);
  }
  else {
    land (a);
    ck_assert_uint_eq (slot_pool_stored_run (pool, 0, 10, NULL, NULL), 5);
  }
  ck_assert_uint_eq (find (5), a);
  ck_assert_uint_eq (slot_pool_clear_run (pool, 0, 10), 5);
  ck_assert_uint_eq (stats ().in_use, 1);
  if (_i == 0)
    land (a);
  else
    end (a, 0);
  ck_assert_uint_eq (find (5), SLOT_NONE);
  ck_assert_uint_eq (landed_first, 5);
  ck_assert_uint_eq (landed_pages, 1);
  ck_assert_ptr_eq (landed_on, &donor);
  assert_empty ();
}
END_TEST

/* Nobody else gets at the pool meanwhile. */
static uint64_t
all_but_one (void *data, uint64_t first, uint64_t n)
{
  struct slot_pool **locked = data;

  ck_assert_int_ne (pthread_mutex_trylock (&(*locked)->lock), 0);
  ck_assert_uint_eq (first, 2);
  return n - 1;
}

START_TEST (what_is_stored_may_be_asked_about)
{
  uint32_t a = commit (5, NULL);

  ck_assert_uint_eq (slot_pool_stored_run (pool, 2, 10, all_but_one, &pool),
                     2);
  ck_assert_uint_eq (slot_pool_stored_run (pool, 5, 10, all_but_one, &pool),
                     0);
  write_through (a, 5);
  assert_empty ();
}
END_TEST

START_TEST (a_donor_that_fails_has_nothing)
{
  uint32_t a = commit (5, NULL);

  begin_both (a, 5);
  end (a, 0);
  slot_pool_landed (pool, &a, 1, NULL);
  ck_assert_uint_eq (landed_pages, 0);
  assert_empty ();
}
END_TEST

/* The donor never has two contents of a page on their way, and what it has
 * of an older one is not the page's.
 */
START_TEST (a_page_has_one_write_to_a_donor_in_flight)
{
  uint32_t a = commit (5, NULL), b;

  begin_both (a, 5);
  if (_i == 0)
    end (a, 0);
  b = commit (5, NULL);
  if (_i == 1)
    end (a, 0);
  ck_assert_uint_eq (find (5), b);
  assert_nothing_to_write ();
  land (a);
  ck_assert_uint_eq (landed_pages, 0);
  begin_both (b, 5);
  land (b);
  ck_assert_uint_eq (landed_pages, 1);
  end (b, 0);
  assert_empty ();
}
END_TEST

START_TEST (what_was_dropped_does_not_land)
{
  uint32_t a = commit (5, NULL);

  begin_both (a, 5);
  if (_i == 0)
    end (a, 0);
  slot_pool_drop (pool, 5, 1);
  if (_i == 1)
    end (a, 0);
  ck_assert_uint_eq (find (5), SLOT_NONE);
  ck_assert_uint_eq (slot_pool_clear_run (pool, 5, 1), 0);
  ck_assert_uint_eq (slot_pool_stored_run (pool, 5, 1, NULL, NULL), 1);
  land (a);
  ck_assert_uint_eq (landed_pages, 0);
  ck_assert_uint_eq (slot_pool_clear_run (pool, 5, 1), 1);
  assert_empty ();
}
END_TEST

START_TEST (the_newest_of_a_run_land)
{
  uint32_t slots[4], got[4];
  uint64_t first;

  commit_run (10, 4, slots, NULL);
  ck_assert_uint_eq (slot_pool_next (pool, 4, got, &first), 4);
  slot_pool_send (pool, got, 4);
  slot_pool_drop (pool, 10, 1);
  slot_pool_written (pool, got, 4, 0);
  slot_pool_drop (pool, 12, 1);
  slot_pool_landed (pool, got, 4, &donor);
  ck_assert_uint_eq (landed_pages, 2);
  ck_assert_uint_eq (landed_first, 13);
  assert_empty ();
}
END_TEST

/* A slab's pages are never in one run with another's. */
START_TEST (a_run_ends_with_its_block)
{
  uint32_t slots[4], got[4];
  uint64_t first;

  commit_run (254, 4, slots, NULL);
  ck_assert_uint_eq (slot_pool_next (pool, 4, got, &first), 2);
  ck_assert_uint_eq (first, 254);
  slot_pool_written (pool, got, 2, 0);
  ck_assert_uint_eq (slot_pool_next (pool, 4, got, &first), 2);
  ck_assert_uint_eq (first, 256);
  slot_pool_written (pool, got, 2, 0);
  assert_empty ();
}
END_TEST

/* ---- waiting ---- */

static int result;

static void
take_half (void *data)
{
  result = slot_pool_take (pool, SLOTS / 2, data);
}

START_TEST (take_waits_for_a_write)
{
  uint32_t first[SLOTS / 2], second[SLOTS / 2], third[SLOTS / 2];
  struct thread t;
  uint64_t page;

  ck_assert_int_eq (slot_pool_take (pool, SLOTS / 2, first), 0);
  ck_assert_int_eq (slot_pool_take (pool, SLOTS / 2, second), 0);
  slot_pool_commit (pool, 0, first, SLOTS / 2, NULL);
  ck_assert_uint_eq (slot_pool_next (pool, SLOTS / 2, first, &page),
                     SLOTS / 2);
  thread_start (&t, take_half, third);
  thread_wait_asleep (&t);
  slot_pool_written (pool, first, SLOTS / 2 - 1, 0);
  thread_wait_asleep (&t);
  ck_assert (!t.finished);
  ck_assert (!slot_pool_rest (pool));
  slot_pool_written (pool, first + SLOTS / 2 - 1, 1, 0);
  thread_join (&t);
  ck_assert_int_eq (result, 0);
  slot_pool_put_back (pool, second, SLOTS / 2);
  slot_pool_put_back (pool, third, SLOTS / 2);
  assert_empty ();
}
END_TEST

START_TEST (take_fails_when_failed_slots_fill_the_pool)
{
  uint32_t slots[SLOTS / 2], other[SLOTS / 2];
  struct thread t;
  uint64_t page;

  ck_assert_int_eq (slot_pool_take (pool, SLOTS / 2, slots), 0);
  ck_assert_int_eq (slot_pool_take (pool, SLOTS / 2, other), 0);
  thread_start (&t, take_half, other);
  thread_wait_asleep (&t);
  slot_pool_commit (pool, 0, slots, SLOTS / 2, NULL);
  ck_assert_uint_eq (slot_pool_next (pool, SLOTS, slots, &page), SLOTS / 2);
  slot_pool_written (pool, slots, SLOTS / 2, -EIO);
  thread_wait_asleep (&t);
  ck_assert (!t.finished);      /* the rest may still be written */
  slot_pool_commit (pool, 100, other, 1, NULL);
  begin (other[0], 100);
  end (other[0], -EIO);
  thread_join (&t);
  ck_assert_int_eq (result, -EIO);
}
END_TEST

static void
wait_for (void *data)
{
  result = slot_pool_wait (pool, data);
}

START_TEST (a_waiter_sleeps_until_its_write_ended)
{
  struct slot_waiter w;
  struct thread t;
  uint32_t a = commit (5, &w);

  thread_start (&t, wait_for, &w);
  thread_wait_asleep (&t);
  begin (a, 5);
  ck_assert (!t.finished);
  end (a, -ENOSPC);
  thread_join (&t);
  ck_assert_int_eq (result, -ENOSPC);
}
END_TEST

static void
flush (void *data)
{
  *(int *) data = slot_pool_flush (pool);
}

START_TEST (flush_waits_for_what_was_committed_and_no_more)
{
  uint32_t a = commit (5, NULL), b = commit (6, NULL), c;
  int flushed = 1;
  struct thread t;

  begin (a, 5);
  thread_start (&t, flush, &flushed);
  thread_wait_asleep (&t);
  c = commit (7, NULL);
  end (a, 0);
  begin (b, 6);
  thread_wait_asleep (&t);
  ck_assert (!t.finished);
  end (b, 0);
  thread_join (&t);
  ck_assert_int_eq (flushed, 0);
  ck_assert_uint_eq (find (7), c);
}
END_TEST

START_TEST (a_superseded_slot_is_flushed_with_its_successor)
{
  uint32_t b, c = commit (6, NULL);
  int flushed = 1;
  struct thread t;

  commit (5, NULL);
  thread_start (&t, flush, &flushed);
  thread_wait_asleep (&t);
  b = commit (5, NULL);
  write_through (c, 6);
  thread_wait_asleep (&t);
  ck_assert (!t.finished);
  write_through (b, 5);
  thread_join (&t);
  ck_assert_int_eq (flushed, 0);
  assert_empty ();
}
END_TEST

START_TEST (a_superseded_slot_behind_is_flushed_with_its_successor)
{
  uint32_t a = commit (5, NULL), c;
  int flushed = 1;
  struct thread t;

  begin (a, 5);
  commit (5, NULL);
  thread_start (&t, flush, &flushed);
  thread_wait_asleep (&t);
  c = commit (5, NULL);
  end (a, 0);
  begin (c, 5);
  thread_wait_asleep (&t);
  ck_assert (!t.finished);
  end (c, 0);
  thread_join (&t);
  ck_assert_int_eq (flushed, 0);
}
END_TEST

/* What the flush waits for is on the local copy only when the successor
 * is, since the write itself failed.
 */
START_TEST (a_failed_write_is_flushed_with_its_successor)
{
  uint32_t a = commit (5, NULL), b;
  int flushed = 1;
  struct thread t;

  begin (a, 5);
  thread_start (&t, flush, &flushed);
  thread_wait_asleep (&t);
  b = commit (5, NULL);
  end (a, -EIO);
  begin (b, 5);
  thread_wait_asleep (&t);
  ck_assert (!t.finished);
  end (b, 0);
  thread_join (&t);
  ck_assert_int_eq (flushed, 0);
  assert_empty ();
}
END_TEST

/* A flush that began while a failed slot waited for its next try must not
 * end well while that try is under way.
 */
START_TEST (a_retry_under_way_is_not_a_success)
{
  uint32_t a = commit (5, NULL), b;
  int flushed = 1;
  struct thread t;

  begin (a, 5);
  end (a, -EIO);
  b = commit (6, NULL);
  begin (b, 6);
  thread_start (&t, flush, &flushed);
  thread_wait_asleep (&t);
  begin (a, 5);                 /* again, after a second */
  end (b, 0);
  thread_wait_asleep (&t);
  if (t.finished)
    ck_assert_int_eq (flushed, -EIO);
  end (a, -EIO);
  thread_join (&t);
  ck_assert_int_eq (flushed, -EIO);
}
END_TEST

/* The same when the retry is of newer content. */
START_TEST (a_rewrite_of_a_failed_slot_is_not_yet_a_success)
{
  uint32_t a = commit (5, NULL), b;
  int flushed = 1;
  struct thread t;

  begin (a, 5);
  end (a, -EIO);
  b = commit (6, NULL);
  begin (b, 6);
  thread_start (&t, flush, &flushed);
  thread_wait_asleep (&t);
  a = commit (5, NULL);
  end (b, 0);
  thread_join (&t);
  ck_assert_int_eq (flushed, -EIO);
  write_through (a, 5);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_empty ();
}
END_TEST

START_TEST (a_dropped_write_in_flight_is_flushed)
{
  uint32_t a = commit (5, NULL);
  int flushed = 1;
  struct thread t;

  begin (a, 5);
  slot_pool_drop (pool, 5, 1);
  thread_start (&t, flush, &flushed);
  thread_wait_asleep (&t);
  ck_assert (!t.finished);
  end (a, 0);
  thread_join (&t);
  ck_assert_int_eq (flushed, 0);
}
END_TEST

START_TEST (many_flushes_at_once_end_in_order)
{
  enum { FLUSHES = 100 };       /* more than there are epochs */
  struct thread t[FLUSHES];
  uint32_t slots[SLOTS / 2];
  int flushed[FLUSHES];

  for (int i = 0; i < FLUSHES; i++) {
    if (i < SLOTS / 2)
      slots[i] = commit (10 * i, NULL);
    flushed[i] = 1;
    thread_start (&t[i], flush, &flushed[i]);
    thread_wait_asleep (&t[i]);
  }
  for (int i = 0; i < SLOTS / 2 - 1; i++) {
    write_through (slots[i], 10 * i);
    thread_join (&t[i]);
    ck_assert (!t[i + 1].finished);
  }
  write_through (slots[SLOTS / 2 - 1], 10 * (SLOTS / 2 - 1));
  for (int i = SLOTS / 2 - 1; i < FLUSHES; i++)
    thread_join (&t[i]);
  for (int i = 0; i < FLUSHES; i++)
    ck_assert_int_eq (flushed[i], 0);
  assert_empty ();
}
END_TEST

/* ---- slots that wait for others ---- */

#define MS INT64_C (1000000)

static void
start_with_delay (int64_t delay_ns)
{
  slot_pool_free (pool);
  pool = slot_pool_new (memory, SLOTS, delay_ns,
                        (struct slot_pool_owner) {
                          committed, has_other_copy, landed, NULL });
  ck_assert_ptr_nonnull (pool);
}

/* The run that is due, if one is. */
static uint32_t
next_now (uint64_t *first)
{
  uint32_t slots[SLOTS], n = slot_pool_next_now (pool, SLOTS, slots, first);

  if (n > 0)
    slot_pool_written (pool, slots, n, 0);
  return n;
}

START_TEST (a_run_is_of_neighbours_on_both_sides)
{
  uint64_t first;

  commit (11, NULL);
  commit (14, NULL);
  commit (10, NULL);
  commit (12, NULL);
  commit (1, NULL);
  commit (0, NULL);
  ck_assert_uint_eq (next_now (&first), 3);
  ck_assert_uint_eq (first, 10);
  ck_assert_uint_eq (next_now (&first), 1);
  ck_assert_uint_eq (first, 14);
  ck_assert_uint_eq (next_now (&first), 2);
  ck_assert_uint_eq (first, 0);
  assert_empty ();
}
END_TEST

START_TEST (a_slot_waits_until_no_more_come)
{
  uint64_t first;

  start_with_delay (60000 * MS);
  for (int i = 0; i < 20; i++) {
    commit (5 + i % 2, NULL);
    ck_assert_uint_eq (next_now (&first), 0);
    usleep (2000);
  }
  ck_assert (slot_pool_rest (pool));
  ck_assert_uint_eq (slot_pool_next (pool, 8, (uint32_t[8]) { 0 }, &first), 2);
  ck_assert_uint_eq (first, 5);
}
END_TEST

START_TEST (a_page_that_is_always_rewritten_is_written)
{
  const int64_t delay_ns = 200 * MS;
  uint64_t first;
  int i = 0;

  start_with_delay (delay_ns);
  for (commit (5, NULL); next_now (&first) == 0; commit (5, NULL), i++) {
    ck_assert_int_le (i, 1000);
    usleep (5000);
  }
  ck_assert_uint_eq (first, 5);
}
END_TEST

START_TEST (a_flush_waits_for_no_others)
{
  int flushed = 1;
  struct thread t;
  uint64_t first;

  start_with_delay (60000 * MS);
  commit (5, NULL);
  thread_start (&t, flush, &flushed);
  thread_wait_asleep (&t);
  commit (9, NULL);
  ck_assert_uint_eq (next_now (&first), 1);
  ck_assert_uint_eq (first, 5);
  thread_join (&t);
  ck_assert_int_eq (flushed, 0);
}
END_TEST

START_TEST (who_needs_a_slot_waits_for_no_others)
{
  uint32_t slots[SLOTS / 2], other[SLOTS / 2];
  struct thread t;
  uint64_t first;

  start_with_delay (60000 * MS);
  ck_assert_int_eq (slot_pool_take (pool, SLOTS / 2, slots), 0);
  ck_assert_int_eq (slot_pool_take (pool, SLOTS / 2, other), 0);
  thread_start (&t, take_half, other);
  thread_wait_asleep (&t);
  slot_pool_commit (pool, 0, slots, SLOTS / 2, NULL);
  ck_assert_uint_eq (next_now (&first), SLOTS / 2);
  thread_join (&t);
  ck_assert_int_eq (result, 0);
}
END_TEST

START_TEST (a_waiter_is_written_before_others_are_due)
{
  struct slot_waiter w;
  uint64_t first;

  start_with_delay (60000 * MS);
  commit (5, NULL);
  commit (9, &w);
  ck_assert_uint_eq (next_now (&first), 1);
  ck_assert_uint_eq (first, 9);
  ck_assert_int_eq (slot_pool_wait (pool, &w), 0);
  commit (20, NULL);
  ck_assert_uint_eq (next_now (&first), 0);
}
END_TEST

START_TEST (at_the_end_none_waits)
{
  uint64_t first;

  start_with_delay (60000 * MS);
  commit (5, NULL);
  slot_pool_stop (pool);
  ck_assert_uint_eq (next_now (&first), 1);
  assert_empty ();
}
END_TEST

/* ---- writers with writes in flight ---- */

START_TEST (a_busy_writer_takes_what_there_is)
{
  uint32_t a, got;
  uint64_t page;

  ck_assert_uint_eq (slot_pool_next_now (pool, 1, &got, &page), 0);
  a = commit (5, NULL);
  ck_assert_uint_eq (slot_pool_next_now (pool, 1, &got, &page), 1);
  ck_assert_uint_eq (got, a);
  ck_assert_uint_eq (page, 5);
  ck_assert_uint_eq (slot_pool_next_now (pool, 1, &got, &page), 0);
  end (a, 0);
  assert_empty ();
}
END_TEST

START_TEST (a_writer_rests_when_there_is_no_work)
{
  uint32_t a = commit (5, NULL);

  ck_assert (!slot_pool_rest (pool));
  begin (a, 5);
  ck_assert (slot_pool_rest (pool));
  end (a, 0);
  assert_empty ();
}
END_TEST

START_TEST (no_writer_rests_while_someone_waits)
{
  struct slot_waiter w;
  struct thread waiting, flushing;
  uint32_t a = commit (5, &w), b = commit (7, NULL);
  int r = 1;

  begin (a, 5);
  begin (b, 7);
  thread_start (&waiting, wait_for, &w);
  thread_wait_asleep (&waiting);
  ck_assert (!slot_pool_rest (pool));
  end (a, 0);
  thread_join (&waiting);
  ck_assert (slot_pool_rest (pool));
  thread_start (&flushing, flush, &r);
  thread_wait_asleep (&flushing);
  ck_assert (!slot_pool_rest (pool));
  end (b, 0);
  thread_join (&flushing);
  ck_assert (slot_pool_rest (pool));
  assert_empty ();
}
END_TEST

/* ---- pages that are written all the time ---- */

static atomic_bool stop;

static void
rewrite (void *data)
{
  (void) data;
  while (!stop) {
    commit (5, NULL);
    sched_yield ();
  }
}

static void
write_one (void)
{
  uint32_t slot;
  uint64_t page;

  ck_assert_uint_eq (slot_pool_next (pool, 1, &slot, &page), 1);
  slot_pool_written (pool, &slot, 1, 0);
}

START_TEST (a_page_rewritten_all_the_time_does_not_hold_up_a_flush)
{
  struct thread writer, flusher;
  int flushed = 1, writes = 0;

  commit (4, NULL);
  commit (5, NULL);
  thread_start (&writer, rewrite, NULL);
  for (int i = 0; i < 50; i++) {
    thread_start (&flusher, flush, &flushed);
    thread_wait_asleep (&flusher);
    for (; !flusher.finished; sched_yield ()) {
      write_one ();
      ck_assert_int_lt (++writes, 100000);
    }
    thread_join (&flusher);
    ck_assert_int_eq (flushed, 0);
  }
  stop = true;
  thread_join (&writer);
}
END_TEST

/* ---- obligations that outlive their slot ---- */

/* The content of a page was acknowledged and is nowhere else; a later
 * write of the page fails to its waiter.  Either content may be read
 * from now on, but not what the local copy had before both.
 */
START_TEST (a_failed_successor_of_a_failed_slot_stays)
{
  struct slot_waiter w;
  uint32_t a = commit (5, NULL), b;

  begin (a, 5);
  end (a, -EIO);
  b = commit (5, &w);
  begin (b, 5);
  end (b, -EIO);
  ck_assert_int_eq (slot_pool_wait (pool, &w), -EIO);
  ck_assert_uint_eq (find (5), b);
  ck_assert_int_eq (slot_pool_flush (pool), -EIO);
}
END_TEST

START_TEST (a_failed_successor_of_a_queued_slot_stays)
{
  struct slot_waiter w;
  uint32_t b;

  commit (5, NULL);
  b = commit (5, &w);
  begin (b, 5);
  end (b, -EIO);
  ck_assert_int_eq (slot_pool_wait (pool, &w), -EIO);
  ck_assert_uint_eq (find (5), b);
  ck_assert_int_eq (slot_pool_flush (pool), -EIO);
}
END_TEST

START_TEST (a_failed_successor_of_a_failed_write_stays)
{
  struct slot_waiter w;
  uint32_t a = commit (5, NULL), b;

  begin (a, 5);
  b = commit (5, &w);
  end (a, -EIO);
  begin (b, 5);
  end (b, -EIO);
  ck_assert_int_eq (slot_pool_wait (pool, &w), -EIO);
  ck_assert_uint_eq (find (5), b);
  ck_assert_int_eq (slot_pool_flush (pool), -EIO);
}
END_TEST

START_TEST (a_failed_write_over_an_old_local_copy_stays)
{
  struct slot_waiter w;
  uint32_t a;

  local_is_old = true;
  a = commit (5, &w);
  begin (a, 5);
  end (a, -EIO);
  ck_assert_int_eq (slot_pool_wait (pool, &w), -EIO);
  ck_assert_uint_eq (find (5), a);
  ck_assert_int_eq (slot_pool_flush (pool), -EIO);
}
END_TEST

START_TEST (a_failed_write_that_owes_nothing_goes)
{
  struct slot_waiter w;
  uint32_t a = commit (5, NULL), b;

  begin (a, 5);
  b = commit (5, &w);
  end (a, 0);
  begin (b, 5);
  end (b, -EIO);
  ck_assert_int_eq (slot_pool_wait (pool, &w), -EIO);
  ck_assert_uint_eq (find (5), SLOT_NONE);
  ck_assert_int_eq (slot_pool_flush (pool), 0);
  assert_empty ();
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("slot_pool");

  tcase_add_checked_fixture (c, setup, teardown);
  tcase_add_test (c, a_slot_lives_until_it_is_written);
  tcase_add_test (c, slots_put_back_are_free);
  tcase_add_test (c, each_slot_has_a_page_of_the_memory);
  tcase_add_test (c, adjacent_pages_are_written_together);
  tcase_add_test (c, a_queued_slot_gives_its_place_to_its_successor);
  tcase_add_test (c, a_page_has_one_write_in_flight);
  tcase_add_test (c, a_failed_write_leaves_its_successor);
  tcase_add_test (c, a_slot_with_a_waiter_is_written_first_and_in_any_case);
  tcase_add_test (c, a_waiter_overtakes_the_queue_with_the_place_of_its_page);
  tcase_add_test (c,
                  a_waiter_waits_for_all_its_slots_and_gets_the_first_error);
  tcase_add_test (c, a_slot_that_fails_stays_if_it_is_the_only_copy);
  tcase_add_test (c, a_slot_that_fails_goes_if_there_is_another_copy);
  tcase_add_test (c, a_waiter_is_well_served_by_a_donor);
  tcase_add_test (c, a_failed_slot_is_retried);
  tcase_add_test (c, a_failed_slot_is_retried_among_other_work);
  tcase_add_test (c, dropping_forgets);
  tcase_add_test (c, a_write_in_flight_outlives_its_content);
  tcase_add_test (c, a_dropped_write_may_fail);
  tcase_add_test (c, a_dropped_write_owes_nothing_to_one_that_failed);
  tcase_add_test (c, a_waiter_is_told_of_a_dropped_write);
  tcase_add_test (c, a_reader_keeps_a_slot_from_reuse);
  tcase_add_test (c, a_reader_keeps_a_superseded_slot);
  tcase_add_test (c, take_waits_for_a_write);
  tcase_add_test (c, take_fails_when_failed_slots_fill_the_pool);
  tcase_add_test (c, a_waiter_sleeps_until_its_write_ended);
  tcase_add_test (c, flush_waits_for_what_was_committed_and_no_more);
  tcase_add_test (c, a_superseded_slot_is_flushed_with_its_successor);
  tcase_add_test (c, a_superseded_slot_behind_is_flushed_with_its_successor);
  tcase_add_test (c, a_failed_write_is_flushed_with_its_successor);
  tcase_add_test (c, a_retry_under_way_is_not_a_success);
  tcase_add_test (c, a_rewrite_of_a_failed_slot_is_not_yet_a_success);
  tcase_add_test (c, a_dropped_write_in_flight_is_flushed);
  tcase_add_test (c, many_flushes_at_once_end_in_order);
  tcase_add_test (c, a_run_is_of_neighbours_on_both_sides);
  tcase_add_test (c, a_slot_waits_until_no_more_come);
  tcase_add_test (c, a_page_that_is_always_rewritten_is_written);
  tcase_add_test (c, a_flush_waits_for_no_others);
  tcase_add_test (c, who_needs_a_slot_waits_for_no_others);
  tcase_add_test (c, a_waiter_is_written_before_others_are_due);
  tcase_add_test (c, at_the_end_none_waits);
  tcase_add_loop_test (c, a_slot_lives_until_both_its_writes_have_ended, 0, 2);
  tcase_add_test (c, what_is_stored_may_be_asked_about);
  tcase_add_test (c, a_donor_that_fails_has_nothing);
  tcase_add_loop_test (c, a_page_has_one_write_to_a_donor_in_flight, 0, 2);
  tcase_add_loop_test (c, what_was_dropped_does_not_land, 0, 2);
  tcase_add_test (c, the_newest_of_a_run_land);
  tcase_add_test (c, a_run_ends_with_its_block);
  tcase_add_test (c, a_busy_writer_takes_what_there_is);
  tcase_add_test (c, a_writer_rests_when_there_is_no_work);
  tcase_add_test (c, no_writer_rests_while_someone_waits);
  tcase_add_test (c, a_page_rewritten_all_the_time_does_not_hold_up_a_flush);
  tcase_add_test (c, a_failed_successor_of_a_failed_slot_stays);
  tcase_add_test (c, a_failed_successor_of_a_queued_slot_stays);
  tcase_add_test (c, a_failed_successor_of_a_failed_write_stays);
  tcase_add_test (c, a_failed_write_over_an_old_local_copy_stays);
  tcase_add_test (c, a_failed_write_that_owes_nothing_goes);
  return suite_run ("slot_pool", c);
}
