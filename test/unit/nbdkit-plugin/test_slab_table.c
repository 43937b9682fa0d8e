#include <errno.h>
#include <sched.h>

#include "nbdkit-plugin/slab_table.h"
#include "seeded.h"
#include "suite.h"
#include "thread.h"

/* Three slabs, the last one odd. */
enum { SLAB = 256, PAGES = 2 * SLAB + 37 };
#define ALPHA 0.2
#define HOT 20.0
#define COLD 5.0

static struct slab_table *table;
static atomic_bool ended;
static atomic_int drained;
static const struct slab_home home = {
  .session = (struct session *) &drained, .session_ended = &ended,
  .grant = 7, .address = 0x1000, .key = 99,
};

static void
on_drained (void *data)
{
  ck_assert_ptr_eq (data, &drained);
  drained++;
}

static struct slab_table *
new_table (double hot, double cold)
{
  return slab_table_new (&(struct slab_table_params) {
      .pages = PAGES, .slab_pages = SLAB, .smoothing = ALPHA,
      .hot_pages_per_second = hot, .cold_pages_per_second = cold,
      .drained = on_drained, .data = &drained,
    });
}

static void
setup (void)
{
  ended = false;
  drained = 0;
  table = new_table (HOT, COLD);
  ck_assert_ptr_nonnull (table);
}

static void
teardown (void)
{
  slab_table_free (table);
}

static void
map (uint64_t slab)
{
  slab_table_begin_mapping (table, slab);
  slab_table_map (table, slab, &home);
}

static enum slab_state
state_of (uint64_t slab)
{
  struct slab_info info;

  slab_table_info (table, slab, &info);
  return info.state;
}

/* Where `page` is read, with nothing left pinned. */
static enum page_source
source_of (uint64_t page)
{
  struct slab_home h;
  uint32_t n;
  enum page_source source = slab_table_route (table, page, 1, true, &n, &h);

  if (source == SOURCE_DONOR)
    slab_table_unpin (table, slab_table_slab_of (table, page), &h);
  return source;
}

static void
assert_route (uint64_t page, uint32_t n, enum page_source source,
              uint32_t count)
{
  struct slab_home h;
  uint32_t got;

  ck_assert_int_eq (slab_table_route (table, page, n, true, &got, &h),
                    source);
  ck_assert_uint_eq (got, count);
  if (source == SOURCE_DONOR) {
    ck_assert_uint_eq (h.grant, home.grant);
    slab_table_unpin (table, slab_table_slab_of (table, page), &h);
  }
}

START_TEST (slabs_cover_the_device)
{
  ck_assert_uint_eq (slab_table_slabs (table), 3);
  ck_assert_uint_eq (slab_table_slab_of (table, SLAB - 1), 0);
  ck_assert_uint_eq (slab_table_slab_of (table, SLAB), 1);
  ck_assert_uint_eq (slab_table_first_page (table, 2), 2 * SLAB);
  ck_assert_uint_eq (slab_table_slab_pages (table, 1), SLAB);
  ck_assert_uint_eq (slab_table_slab_pages (table, 2), 37);
}
END_TEST

START_TEST (a_slab_goes_through_its_states)
{
  struct slab_home h;

  ck_assert_int_eq (state_of (1), SLAB_UNMAPPED);
  ck_assert (!slab_table_pin (table, 1, &h));
  slab_table_begin_mapping (table, 1);
  ck_assert_int_eq (state_of (1), SLAB_MAPPING);
  ck_assert (!slab_table_pin (table, 1, &h));
  slab_table_abandon_mapping (table, 1);
  ck_assert_int_eq (state_of (1), SLAB_UNMAPPED);
  map (1);
  ck_assert_int_eq (state_of (1), SLAB_MAPPED);
  ck_assert (slab_table_pin (table, 1, &h));
  ck_assert_uint_eq (h.key, home.key);
  slab_table_unpin (table, 1, &home);
  ck_assert_int_eq (drained, 0);
  slab_table_drain (table, 1, false);
  ck_assert_int_eq (state_of (1), SLAB_DRAINING);
  ck_assert (!slab_table_pin (table, 1, &h));
  ck_assert (slab_table_unmap (table, 1));
  ck_assert_int_eq (state_of (1), SLAB_UNMAPPED);
  ck_assert_int_eq (state_of (0), SLAB_UNMAPPED);
}
END_TEST

START_TEST (the_last_unpin_of_a_draining_slab_tells)
{
  struct slab_home h;

  map (0);
  ck_assert (slab_table_pin (table, 0, &h));
  ck_assert (slab_table_pin (table, 0, &h));
  slab_table_drain (table, 0, false);
  ck_assert (!slab_table_unmap (table, 0));
  slab_table_unpin (table, 0, &home);
  ck_assert_int_eq (drained, 0);
  ck_assert (!slab_table_unmap (table, 0));
  slab_table_unpin (table, 0, &home);
  ck_assert_int_eq (drained, 1);
  ck_assert (slab_table_unmap (table, 0));
}
END_TEST

START_TEST (a_route_pins_what_it_gives)
{
  struct slab_home h;
  uint32_t n;

  map (0);
  slab_table_set_pages (table, 3, 4, PAGE_REMOTE);
  ck_assert_int_eq (slab_table_route (table, 3, 8, true, &n, &h),
                    SOURCE_DONOR);
  ck_assert_uint_eq (n, 4);
  slab_table_drain (table, 0, false);
  ck_assert (!slab_table_unmap (table, 0));
  slab_table_unpin (table, 0, &home);
  ck_assert (slab_table_unmap (table, 0));
}
END_TEST

START_TEST (a_route_ends_at_the_edge_of_its_slab_and_source)
{
  assert_route (SLAB - 3, 32, SOURCE_DISK, 3);
  assert_route (0, 32, SOURCE_DISK, 32);
  map (0);
  map (1);
  slab_table_set_pages (table, SLAB - 4, 4, PAGE_REMOTE);
  slab_table_set_pages (table, SLAB, 8, PAGE_REMOTE);
  assert_route (SLAB - 10, 32, SOURCE_DISK, 6);
  assert_route (SLAB - 4, 32, SOURCE_DONOR, 4);
  assert_route (SLAB, 32, SOURCE_DONOR, 8);
  assert_route (SLAB, 5, SOURCE_DONOR, 5);
  slab_table_set_pages (table, SLAB + 2, 3, PAGE_ZERO);
  assert_route (SLAB, 32, SOURCE_DONOR, 2);
  assert_route (SLAB + 2, 32, SOURCE_ZERO, 3);
}
END_TEST

START_TEST (without_the_donor_a_remote_page_is_on_disk)
{
  struct slab_home h;
  uint32_t n;

  map (0);
  slab_table_set_pages (table, 5, 3, PAGE_REMOTE);
  ck_assert_int_eq (slab_table_route (table, 0, 32, false, &n, &h),
                    SOURCE_DISK);
  ck_assert_uint_eq (n, 32);
}
END_TEST

START_TEST (an_ended_session_is_not_used)
{
  struct slab_home h;
  struct slab_info info;

  map (0);
  slab_table_set_pages (table, 0, 2, PAGE_REMOTE);
  ck_assert (slab_table_keep_remote (table, 1));
  ended = true;
  ck_assert (!slab_table_pin (table, 0, &h));
  ck_assert_int_eq (source_of (0), SOURCE_DISK);
  ck_assert_int_eq (source_of (1), SOURCE_LOST);
  slab_table_set_pages (table, 2, 1, PAGE_REMOTE);
  ck_assert (!slab_table_keep_remote (table, 2));
  slab_table_info (table, 0, &info);
  ck_assert (info.ended);
}
END_TEST

START_TEST (a_page_set_remote_while_its_slab_drains_is_local)
{
  struct slab_home h;

  map (0);
  ck_assert (slab_table_pin (table, 0, &h));
  slab_table_set_pages (table, 0, 1, PAGE_REMOTE);
  slab_table_drain (table, 0, false);
  slab_table_set_pages (table, 1, 1, PAGE_REMOTE);
  slab_table_unpin (table, 0, &home);
  ck_assert (slab_table_unmap (table, 0));
  map (0);                      /* a new grant knows nothing of them */
  ck_assert_int_eq (source_of (0), SOURCE_DISK);
  ck_assert_int_eq (source_of (1), SOURCE_DISK);
}
END_TEST

START_TEST (draining_forgets_remote_pages_and_no_others)
{
  struct seeded s;
  enum page_state want[PAGES] = { PAGE_LOCAL };

  seeded_init (&s, "drain");
  for (uint64_t i = 0; i < 3; i++)
    map (i);
  for (uint64_t i = 0; i < PAGES; i++) {
    want[i] = seeded_below (&s, 4);
    slab_table_set_pages (table, i, 1, want[i] == PAGE_REMOTE_ONLY ?
                          PAGE_REMOTE : want[i]);
    if (want[i] == PAGE_REMOTE_ONLY)
      ck_assert (slab_table_keep_remote (table, i));
  }
  slab_table_drain (table, 2, false);
  slab_table_drain (table, 0, false);
  for (uint64_t i = 0; i < PAGES; i++) {
    bool here = slab_table_slab_of (table, i) == 1;
    const enum page_source source[] = {
      [PAGE_LOCAL] = SOURCE_DISK,
      [PAGE_REMOTE] = here ? SOURCE_DONOR : SOURCE_DISK,
      [PAGE_REMOTE_ONLY] = here ? SOURCE_DONOR : SOURCE_LOST,
      [PAGE_ZERO] = SOURCE_ZERO,
    };
    ck_assert_int_eq (source_of (i), source[want[i]]);
  }
}
END_TEST

START_TEST (pages_with_the_donor_alone_are_counted_and_lost_with_it)
{
  struct slab_info info;

  map (0);
  slab_table_set_pages (table, 4, 4, PAGE_REMOTE);
  ck_assert (!slab_table_keep_remote (table, 3));
  ck_assert (slab_table_keep_remote (table, 4));
  ck_assert (slab_table_keep_remote (table, 5));
  ck_assert (!slab_table_keep_remote (table, 5));
  ck_assert_uint_eq (slab_table_remote_only (table), 2);
  assert_route (4, 4, SOURCE_DONOR, 4);

  slab_table_drain (table, 0, false);
  ck_assert (slab_table_unmap (table, 0));
  ck_assert_int_eq (source_of (4), SOURCE_LOST);
  ck_assert_int_eq (source_of (6), SOURCE_DISK);
  slab_table_info (table, 0, &info);
  ck_assert_uint_eq (info.remote_only, 2);

  ck_assert (slab_table_set_pages (table, 4, 2, PAGE_LOCAL));
  ck_assert (!slab_table_set_pages (table, 4, 2, PAGE_ZERO));
  ck_assert (slab_table_set_pages (table, 3, 2, PAGE_LOCAL));
  ck_assert (!slab_table_set_pages (table, 3, 2, PAGE_LOCAL));
  slab_table_set_pages (table, 5, 1, PAGE_LOCAL);
  ck_assert_uint_eq (slab_table_remote_only (table), 0);
  ck_assert_int_eq (source_of (4), SOURCE_DISK);
  slab_table_info (table, 0, &info);
  ck_assert_uint_eq (info.remote_only, 0);
}
END_TEST

START_TEST (a_slab_that_moves_is_used_at_both_homes_for_a_while)
{
  struct slab_home next = home, h, old;
  uint64_t page = 0, copied[SLAB / 64] = { 0 };

  next.grant = 8;
  map (0);
  slab_table_set_pages (table, 4, 8, PAGE_REMOTE);
  ck_assert (slab_table_keep_remote (table, 10));
  ck_assert (slab_table_pin (table, 0, &old));
  slab_table_begin_move (table, 0, copied);
  slab_table_note_copied (table, 0, 4, 4);
  /* Those written since, or never copied, are to be copied still. */
  slab_table_set_pages (table, 6, 2, PAGE_REMOTE);
  ck_assert_uint_eq (slab_table_next_to_copy (table, 0, PAGE_REMOTE, &page,
                                              SLAB), 4);
  ck_assert_uint_eq (page, 6);
  ck_assert_int_eq (slab_table_move (table, 0, &next), -EAGAIN);
  slab_table_note_copied (table, 0, 10, 1);
  ck_assert_int_eq (slab_table_move (table, 0, &next), 0);
  page = 0;
  ck_assert (!slab_table_has_moved (table, 0));
  /* What was not copied is on the local copy. */
  ck_assert_uint_eq (slab_table_next (table, 0, PAGE_REMOTE, &page, SLAB),
                     2);
  ck_assert_uint_eq (page, 4);
  ck_assert_int_eq (source_of (6), SOURCE_DISK);
  ck_assert (slab_table_pin (table, 0, &h));
  ck_assert_uint_eq (h.grant, 8);
  slab_table_unpin (table, 0, &old);
  ck_assert (slab_table_has_moved (table, 0));
  page = 0;
  ck_assert_uint_eq (slab_table_next (table, 0, PAGE_REMOTE_ONLY, &page,
                                      SLAB), 1);
  ck_assert_uint_eq (page, 10);
  ck_assert_uint_eq (slab_table_drain (table, 0, true), 1);
  ck_assert_int_eq (state_of (0), SLAB_MAPPED);
  ck_assert_uint_eq (slab_table_drain (table, 0, false), 1);
  ck_assert (!slab_table_unmap (table, 0));
  slab_table_unpin (table, 0, &h);
  ck_assert (slab_table_unmap (table, 0));
  ck_assert_int_eq (slab_table_move (table, 0, &next), -ECONNRESET);
}
END_TEST

START_TEST (a_slab_with_lost_pages_is_not_placed)
{
  map (0);
  slab_table_set_pages (table, 4, 1, PAGE_REMOTE);
  ck_assert (slab_table_keep_remote (table, 4));
  slab_table_drain (table, 0, false);
  ck_assert (slab_table_unmap (table, 0));
  slab_table_touch (table, 0, 1000, false);
  ck_assert (!slab_table_is_hot (table, 0));
  slab_table_set_pages (table, 4, 1, PAGE_ZERO);
  ck_assert (slab_table_is_hot (table, 0));
}
END_TEST

static uint64_t
next_zero (uint64_t slab, uint64_t *page, uint64_t n)
{
  return slab_table_next (table, slab, PAGE_ZERO, page, n);
}

START_TEST (zeros_are_found_run_by_run)
{
  uint64_t page = SLAB;

  ck_assert_uint_eq (next_zero (1, &page, SLAB), 0);
  slab_table_set_pages (table, SLAB + 10, 5, PAGE_ZERO);
  slab_table_set_pages (table, SLAB + 100, 50, PAGE_ZERO);
  slab_table_set_pages (table, 2 * SLAB - 1, 1, PAGE_ZERO);
  slab_table_set_pages (table, 2 * SLAB, 37, PAGE_ZERO);

  page = SLAB;
  ck_assert_uint_eq (next_zero (1, &page, 100), 5);
  ck_assert_uint_eq (page, SLAB + 10);
  page += 5;
  ck_assert_uint_eq (next_zero (1, &page, 20), 20);
  ck_assert_uint_eq (page, SLAB + 100);
  page += 20;
  ck_assert_uint_eq (next_zero (1, &page, 100), 30);
  page += 30;
  ck_assert_uint_eq (next_zero (1, &page, 100), 1);
  ck_assert_uint_eq (page, 2 * SLAB - 1);
  page += 1;
  ck_assert_uint_eq (next_zero (1, &page, 100), 0);
  page = 2 * SLAB;
  ck_assert_uint_eq (next_zero (2, &page, 100), 37);
}
END_TEST

START_TEST (zeros_that_were_settled_are_found_no_more)
{
  uint64_t page = 0;

  slab_table_set_pages (table, 0, SLAB, PAGE_ZERO);
  slab_table_set_pages (table, 0, SLAB, PAGE_LOCAL);
  ck_assert_uint_eq (next_zero (0, &page, SLAB), 0);
  page = 0;
  ck_assert_uint_eq (next_zero (0, &page, SLAB), 0);
  slab_table_set_pages (table, 7, 1, PAGE_ZERO);
  page = 0;
  ck_assert_uint_eq (next_zero (0, &page, SLAB), 1);
  ck_assert_uint_eq (page, 7);
}
END_TEST

/* A discard changes the states before it takes the slots out of the way. */
START_TEST (what_lands_late_is_not_put_over_a_discard)
{
  struct slab_home pinned;

  map (0);
  ck_assert (slab_table_pin (table, 0, &pinned));
  slab_table_set_pages (table, 3, 2, PAGE_ZERO);
  slab_table_land (table, 0, 8, &pinned);
  slab_table_unpin (table, 0, &pinned);
  assert_route (0, 8, SOURCE_DONOR, 3);
  assert_route (3, 5, SOURCE_ZERO, 2);
  assert_route (5, 4, SOURCE_DONOR, 3);
}
END_TEST

/* alpha * n reaches 20 with n = 100. */
START_TEST (a_slab_gets_hot_once_a_second)
{
  int told = 0;

  for (int i = 0; i < 150; i++)
    told += slab_table_touch (table, 0, 1, i % 2);
  ck_assert_int_eq (told, 1);
  ck_assert (slab_table_is_hot (table, 0));
  ck_assert (!slab_table_is_hot (table, 1));

  slab_table_tick (table);      /* A is 30 now, more than enough */
  ck_assert (slab_table_is_hot (table, 0));
  slab_table_tick (table);
  slab_table_tick (table);      /* 30, 24, 19.2 */
  ck_assert (!slab_table_is_hot (table, 0));
  /* 0.8 * 19.2 + 0.2 * n >= 20 from n = 24 on */
  for (told = 0; told < 23; told++)
    ck_assert (!slab_table_touch (table, 0, 1, false));
  ck_assert (slab_table_touch (table, 0, 1, false));
  ck_assert (!slab_table_touch (table, 0, 1, false));
}
END_TEST

START_TEST (an_access_of_many_pages_may_cross_the_threshold)
{
  ck_assert (!slab_table_touch (table, 0, 99, false));
  ck_assert (slab_table_touch (table, 0, 32, false));
  ck_assert (!slab_table_touch (table, 0, 32, false));
  ck_assert (slab_table_touch (table, 1, 100, true));
}
END_TEST

enum { TOUCHERS = 8, TOUCHES = 1000 };
static atomic_int told_hot;

static void
touch_often (void *data)
{
  (void) data;
  for (int i = 0; i < TOUCHES; i++)
    told_hot += slab_table_touch (table, 2, 1, true);
}

START_TEST (of_many_threads_one_is_told)
{
  struct thread threads[TOUCHERS];
  struct slab_info info;

  for (int i = 0; i < TOUCHERS; i++)
    thread_start (&threads[i], touch_often, NULL);
  for (int i = 0; i < TOUCHERS; i++)
    thread_join (&threads[i]);
  ck_assert_int_eq (told_hot, 1);
  slab_table_info (table, 2, &info);
  ck_assert_uint_eq (info.pages_written, TOUCHERS * TOUCHES);
}
END_TEST

START_TEST (hot_0_places_at_the_first_write)
{
  struct slab_table *t = new_table (0, 0);

  ck_assert (!slab_table_touch (t, 0, 32, false));
  ck_assert (!slab_table_is_hot (t, 0));
  ck_assert (slab_table_touch (t, 0, 1, true));
  ck_assert (!slab_table_touch (t, 0, 1, true));
  ck_assert (slab_table_is_hot (t, 0));
  slab_table_tick (t);
  ck_assert (slab_table_is_hot (t, 0));
  ck_assert (!slab_table_is_hot (t, 1));
  slab_table_free (t);
}
END_TEST

START_TEST (hot_0_lets_a_slab_rest_until_its_next_write)
{
  struct slab_table *t = new_table (0, 0);

  slab_table_touch (t, 0, 1, true);
  slab_table_rest (t, 0);
  ck_assert (!slab_table_is_hot (t, 0));
  ck_assert (!slab_table_touch (t, 0, 1, false));
  ck_assert (slab_table_touch (t, 0, 1, true));
  ck_assert (slab_table_is_hot (t, 0));
  slab_table_free (t);
}
END_TEST

START_TEST (a_slab_is_still_hot_at_the_beginning_of_a_second)
{
  slab_table_touch (table, 0, HOT / ALPHA, false);
  slab_table_tick (table);
  ck_assert (slab_table_is_hot (table, 0));
  slab_table_tick (table);
  ck_assert (!slab_table_is_hot (table, 0));
}
END_TEST

START_TEST (activity_is_the_average_or_what_is_going_on)
{
  ck_assert_double_eq_tol (slab_table_activity (table, 0), 0, 1e-9);
  slab_table_touch (table, 0, 100, false);
  ck_assert_double_eq_tol (slab_table_activity (table, 0), 20, 1e-9);
  slab_table_tick (table);
  ck_assert_double_eq_tol (slab_table_activity (table, 0), 20, 1e-9);
  slab_table_touch (table, 0, 100, true);
  ck_assert_double_eq_tol (slab_table_activity (table, 0), 36, 1e-9);
}
END_TEST

/* Seconds of this many pages each, until the slab is idle. */
static unsigned
seconds_to_idle (uint32_t pages)
{
  unsigned n = 0;

  while (!slab_table_is_idle (table, 0) && n < 60) {
    slab_table_touch (table, 0, pages, false);
    slab_table_tick (table);
    n++;
  }
  return n;
}

START_TEST (a_cold_slab_is_idle_after_a_while)
{
  map (0);
  slab_table_touch (table, 0, (COLD + 1) / ALPHA, false);
  slab_table_tick (table);
  ck_assert_uint_eq (seconds_to_idle (COLD + 1), 60);
  ck_assert_uint_eq (seconds_to_idle (0), SLAB_COLD_SECONDS + 1);
  slab_table_drain (table, 0, false);
  ck_assert (!slab_table_is_idle (table, 0));
  slab_table_unmap (table, 0);
  map (0);
  ck_assert (!slab_table_is_idle (table, 0));
}
END_TEST

START_TEST (a_slab_with_the_only_copy_of_a_page_is_not_idle)
{
  map (0);
  slab_table_set_pages (table, 3, 1, PAGE_REMOTE);
  slab_table_keep_remote (table, 3);
  ck_assert_uint_eq (seconds_to_idle (0), 60);
}
END_TEST

START_TEST (a_slab_whose_pages_are_all_discarded_is_idle)
{
  map (0);
  slab_table_set_pages (table, 0, SLAB, PAGE_ZERO);
  ck_assert (!slab_table_is_idle (table, 0)); /* it had none */
  slab_table_set_pages (table, 2, 4, PAGE_REMOTE);
  slab_table_set_pages (table, 3, SLAB - 3, PAGE_ZERO);
  ck_assert (!slab_table_is_idle (table, 0));
  slab_table_set_pages (table, 0, 3, PAGE_ZERO);
  ck_assert (slab_table_is_idle (table, 0));
  slab_table_set_pages (table, 0, 1, PAGE_REMOTE);
  ck_assert (!slab_table_is_idle (table, 0));
}
END_TEST

START_TEST (a_discarded_slab_that_is_hot_is_not_idle)
{
  map (0);
  slab_table_set_pages (table, 0, 1, PAGE_REMOTE);
  slab_table_touch (table, 0, HOT / ALPHA, true);
  slab_table_tick (table);
  slab_table_set_pages (table, 0, 1, PAGE_ZERO);
  ck_assert (!slab_table_is_idle (table, 0));
  slab_table_tick (table);
  ck_assert (slab_table_is_idle (table, 0));
}
END_TEST

START_TEST (a_slab_that_is_placed_is_not_hot)
{
  slab_table_touch (table, 0, 100, false);
  ck_assert (slab_table_is_hot (table, 0));
  slab_table_begin_mapping (table, 0);
  ck_assert (!slab_table_is_hot (table, 0));
  slab_table_map (table, 0, &home);
  ck_assert (!slab_table_is_hot (table, 0));
  slab_table_drain (table, 0, false);
  ck_assert (!slab_table_is_hot (table, 0));
  ck_assert (slab_table_unmap (table, 0));
  ck_assert (slab_table_is_hot (table, 0));
}
END_TEST

/* Workers pin and set; the mapper takes the slab away and gives it back.
 * A page is remote only in the mapping in which it was written.
 */
static atomic_bool stop;
static _Atomic uint64_t mapping; /* the number of the present one */

static void
work (void *data)
{
  struct seeded *s = data;
  struct slab_home h;

  while (!stop) {
    uint64_t page = seeded_below (s, SLAB);
    uint32_t n;

    if (slab_table_route (table, page, 1, true, &n, &h) == SOURCE_DONOR) {
      ck_assert_uint_eq (h.grant, mapping);
      slab_table_unpin (table, 0, &h);
    }
    if (slab_table_pin (table, 0, &h)) {
      ck_assert_uint_eq (h.grant, mapping);
      slab_table_set_pages (table, page, 1, PAGE_REMOTE);
      slab_table_unpin (table, 0, &h);
    }
  }
}

START_TEST (pins_hold_a_home_while_the_mapper_takes_it_away)
{
  enum { WORKERS = 2, MAPPINGS = 100 };
  struct thread threads[WORKERS];
  struct seeded seed, seeds[WORKERS];

  seeded_init (&seed, "pins");
  for (int i = 0; i < WORKERS; i++) {
    seeds[i] = seeded_split (&seed);
    thread_start (&threads[i], work, &seeds[i]);
  }
  for (int i = 1; i <= MAPPINGS; i++) {
    struct slab_home h = home;

    mapping = i;
    h.grant = i;
    slab_table_begin_mapping (table, 0);
    assert_route (0, SLAB, SOURCE_DISK, SLAB);
    slab_table_map (table, 0, &h);
    sched_yield ();
    slab_table_drain (table, 0, false);
    while (!slab_table_unmap (table, 0))
      sched_yield ();
  }
  stop = true;
  for (int i = 0; i < WORKERS; i++)
    thread_join (&threads[i]);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("slab_table");

  tcase_add_checked_fixture (c, setup, teardown);
  tcase_add_test (c, slabs_cover_the_device);
  tcase_add_test (c, a_slab_goes_through_its_states);
  tcase_add_test (c, the_last_unpin_of_a_draining_slab_tells);
  tcase_add_test (c, a_route_pins_what_it_gives);
  tcase_add_test (c, a_route_ends_at_the_edge_of_its_slab_and_source);
  tcase_add_test (c, without_the_donor_a_remote_page_is_on_disk);
  tcase_add_test (c, an_ended_session_is_not_used);
  tcase_add_test (c, a_page_set_remote_while_its_slab_drains_is_local);
  tcase_add_test (c, draining_forgets_remote_pages_and_no_others);
  tcase_add_test (c, pages_with_the_donor_alone_are_counted_and_lost_with_it);
  tcase_add_test (c, a_slab_that_moves_is_used_at_both_homes_for_a_while);
  tcase_add_test (c, a_slab_with_lost_pages_is_not_placed);
  tcase_add_test (c, zeros_are_found_run_by_run);
  tcase_add_test (c, zeros_that_were_settled_are_found_no_more);
  tcase_add_test (c, what_lands_late_is_not_put_over_a_discard);
  tcase_add_test (c, a_slab_gets_hot_once_a_second);
  tcase_add_test (c, an_access_of_many_pages_may_cross_the_threshold);
  tcase_add_test (c, of_many_threads_one_is_told);
  tcase_add_test (c, hot_0_places_at_the_first_write);
  tcase_add_test (c, hot_0_lets_a_slab_rest_until_its_next_write);
  tcase_add_test (c, a_slab_is_still_hot_at_the_beginning_of_a_second);
  tcase_add_test (c, activity_is_the_average_or_what_is_going_on);
  tcase_add_test (c, a_cold_slab_is_idle_after_a_while);
  tcase_add_test (c, a_slab_with_the_only_copy_of_a_page_is_not_idle);
  tcase_add_test (c, a_slab_whose_pages_are_all_discarded_is_idle);
  tcase_add_test (c, a_discarded_slab_that_is_hot_is_not_idle);
  tcase_add_test (c, a_slab_that_is_placed_is_not_hot);
  tcase_add_test (c, pins_hold_a_home_while_the_mapper_takes_it_away);
  return suite_run ("slab_table", c);
}
