/* What is fetched ahead of sequential reads, when, and until when it counts,
 * with a source of the test's.
 */

#include <string.h>
#include <unistd.h>

#include "nbdkit-plugin/read_ahead.h"
#include "nbdkit-plugin/sequences.h"
#include "suite.h"
#include "thread.h"

enum { PAGE = PAGE_SIZE_BYTES };
#define MS INT64_C (1000000)

START_TEST (reads_in_a_row_are_one_sequence)
{
  struct sequences s = { 0 };
  struct sequence *q;

  q = sequences_note (&s, 5, 3);
  ck_assert_uint_eq (q->reads, 1);
  ck_assert_ptr_eq (sequences_note (&s, 8, 1), q);
  ck_assert_ptr_eq (sequences_note (&s, 9, 4), q);
  ck_assert_uint_eq (q->reads, 3);
  ck_assert_uint_eq (q->pages, 8);
  ck_assert_uint_eq (q->next, 13);
  ck_assert_uint_eq (sequences_note (&s, 14, 1)->reads, 1);
  ck_assert_uint_eq (sequences_note (&s, 0, 1)->reads, 1);
}
END_TEST

START_TEST (sequences_outlast_single_reads_between_them)
{
  struct sequences s = { 0 };

  for (unsigned i = 0; i < 100; i++) {
    for (unsigned q = 0; q < SEQUENCES - 1; q++)
      ck_assert_uint_eq (sequences_note (&s, 1000 * q + i, 1)->reads, i + 1);
    sequences_note (&s, 100000 + 2 * i, 1);
  }
}
END_TEST

enum { PAGES = 1000, SLAB_PAGES = 256, WINDOWS = 3, FETCHES = 16 };

static char memory[WINDOWS * WINDOW_BYTES];
static struct read_ahead *ahead;

static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  _Atomic unsigned begun;       /* fetches */
  unsigned passed;
  uint64_t first[FETCHES];
  uint32_t n[FETCHES], fetchable;
  _Atomic uint32_t most;
  int64_t pass_until_ns;        /* count_fetchable lets one pass, and lasts */
} source = { .lock = PTHREAD_MUTEX_INITIALIZER,
             .changed = PTHREAD_COND_INITIALIZER };

static void
let_pass (unsigned fetches)
{
  pthread_mutex_lock (&source.lock);
  source.passed += fetches;
  pthread_cond_broadcast (&source.changed);
  pthread_mutex_unlock (&source.lock);
}

static uint32_t
count_fetchable (void *data, uint64_t first, uint32_t n)
{
  (void) data;
  (void) first;
  if (source.pass_until_ns > 0) {
    let_pass (1);
    while (fabric_now_ns () < source.pass_until_ns)
      usleep (1000);
    return 0;
  }
  return n < source.fetchable ? n : source.fetchable;
}

/* Each page is full of its number. */
static uint32_t
fetch (void *data, uint64_t first, uint32_t n, char *buf)
{
  unsigned mine;

  (void) data;
  pthread_mutex_lock (&source.lock);
  mine = source.begun++;
  ck_assert_uint_lt (mine, FETCHES);
  source.first[mine] = first;
  source.n[mine] = n;
  pthread_cond_broadcast (&source.changed);
  while (source.passed <= mine)
    pthread_cond_wait (&source.changed, &source.lock);
  pthread_mutex_unlock (&source.lock);
  if (n > source.most)
    n = source.most;
  for (uint32_t i = 0; i < n; i++)
    memset (buf + i * PAGE, (int) (first + i), PAGE);
  return n;
}

static void
wait_begun (unsigned fetches)
{
  pthread_mutex_lock (&source.lock);
  while (source.begun < fetches)
    pthread_cond_wait (&source.changed, &source.lock);
  pthread_mutex_unlock (&source.lock);
}

static void
setup (void)
{
  source.begun = source.passed = 0;
  source.fetchable = source.most = SPAN_PAGES_MAX;
  ahead = read_ahead_start (&(struct read_ahead_params) {
      .memory = memory, .windows = WINDOWS, .pages = PAGES,
      .slab_pages = SLAB_PAGES, .fetchable = count_fetchable,
      .fetch = fetch });
  ck_assert_ptr_nonnull (ahead);
}

static void
teardown (void)
{
  let_pass (FETCHES);
  read_ahead_free (ahead);
}

static void
note (uint64_t first, uint32_t n, unsigned times)
{
  for (unsigned i = 0; i < times; i++)
    read_ahead_note (ahead, first + i * n, n);
}

static uint32_t
find (uint64_t page, uint32_t n, int64_t until_ns, const char **content,
      struct window **window)
{
  uint64_t from = page;

  n = read_ahead_find (ahead, &from, n, until_ns, content, window);
  ck_assert_uint_eq (from, page);
  return n;
}

/* How many of n pages are there within that time, with the right content. */
static uint32_t
read_pages (uint64_t page, uint32_t n, int64_t ns)
{
  struct window *window;
  const char *content;

  n = find (page, n, fabric_now_ns () + ns, &content, &window);
  if (n == 0)
    return 0;
  for (uint32_t i = 0; i < n; i++) {
    ck_assert_int_eq (content[i * PAGE], (char) (page + i));
    ck_assert_int_eq (content[i * PAGE + PAGE - 1], (char) (page + i));
  }
  read_ahead_release (ahead, window, page, n);
  return n;
}

START_TEST (from_the_third_read_on_as_much_is_fetched_as_was_read)
{
  note (10, 1, 2);
  note (500, 1, 1);
  ck_assert_uint_eq (source.begun, 0);
  let_pass (FETCHES);
  note (12, 1, 1);
  wait_begun (1);
  ck_assert_uint_eq (source.first[0], 13);
  ck_assert_uint_eq (source.n[0], 3);
  ck_assert_uint_eq (read_pages (13, 1, 1000 * MS), 1);
  note (13, 1, 1);
  wait_begun (2);
  ck_assert_uint_eq (source.first[1], 16);
  ck_assert_uint_eq (source.n[1], 4);
  ck_assert_uint_eq (read_pages (14, 8, 1000 * MS), 2);
  ck_assert_uint_eq (read_pages (12, 1, 0), 0);
}
END_TEST

START_TEST (pages_before_a_window_are_passed_over)
{
  struct window *window;
  const char *content;
  uint64_t page = 90;

  let_pass (FETCHES);
  note (0, 32, 3);
  wait_begun (1);
  ck_assert_uint_eq (read_ahead_find (ahead, &page, 10, INT64_MAX, &content,
                                      &window), 4);
  ck_assert_uint_eq (page, 96);
  ck_assert_int_eq (content[0], 96);
  read_ahead_release (ahead, window, page, 4);
  page = 90;
  ck_assert_uint_eq (read_ahead_find (ahead, &page, 6, INT64_MAX, &content,
                                      &window), 0);
}
END_TEST

START_TEST (a_read_waits_for_its_pages_until_its_deadline)
{
  const int64_t begin_ns = fabric_now_ns ();

  note (0, 32, 3);
  wait_begun (1);
  ck_assert_uint_eq (read_pages (96, 32, 20 * MS), 0);
  ck_assert_int_ge (fabric_now_ns () - begin_ns, 20 * MS);
  let_pass (1);
  ck_assert_uint_eq (read_pages (96, 32, 10000 * MS), 32);
}
END_TEST

/* Each page that is asked for before its fetch began is its reader's. */
START_TEST (a_read_does_not_wait_for_what_is_not_being_fetched)
{
  note (0, 1, 3);
  wait_begun (1);
  note (512, 32, 3);
  ck_assert_uint_eq (read_pages (608, 32, 10000 * MS), 0);
  let_pass (FETCHES);
  ck_assert_uint_eq (read_pages (3, 1, 10000 * MS), 1);
  read_ahead_stop (ahead);
  ck_assert_uint_eq (source.begun, 1);
}
END_TEST

START_TEST (what_was_changed_is_forgotten)
{
  let_pass (FETCHES);
  note (0, 32, 3);
  wait_begun (1);
  read_ahead_forget (ahead, 95, 1);
  read_ahead_forget (ahead, 128, 1);
  ck_assert_uint_eq (read_pages (96, 1, 10000 * MS), 1);
  read_ahead_forget (ahead, 127, 5);
  ck_assert_uint_eq (read_pages (97, 1, 10000 * MS), 0);
}
END_TEST

START_TEST (what_changes_while_it_is_fetched_is_forgotten)
{
  note (0, 32, 3);
  wait_begun (1);
  read_ahead_forget (ahead, 0, PAGES);
  ck_assert_uint_eq (read_pages (96, 1, 10000 * MS), 0);
  let_pass (1);
  /* The window is free again. */
  note (256, 32, 3);
  wait_begun (2);
  ck_assert_uint_eq (read_pages (96, 1, 0), 0);
}
END_TEST

START_TEST (only_what_was_there_counts)
{
  source.most = 5;
  let_pass (FETCHES);
  note (0, 32, 3);
  wait_begun (1);
  ck_assert_uint_eq (read_pages (98, 32, 10000 * MS), 3);
  ck_assert_uint_eq (read_pages (101, 1, 10000 * MS), 0);
  source.most = 0;
  note (256, 32, 3);
  wait_begun (2);
  ck_assert_uint_eq (read_pages (352, 1, 10000 * MS), 0);
}
END_TEST

START_TEST (only_what_can_be_fetched_is_asked_for)
{
  let_pass (FETCHES);
  source.fetchable = 20;
  note (0, 32, 3);
  wait_begun (2);
  ck_assert_uint_eq (source.n[0], 20);
  ck_assert_uint_eq (source.first[1], 96 + 20);
  source.fetchable = 0;
  note (256, 32, 3);
  read_ahead_stop (ahead);
  ck_assert_uint_eq (source.begun, 2);
}
END_TEST

/* Page 110 is being fetched, and will not be there. */
static void
give_up (void *data)
{
  const int64_t *until_ns = data;
  struct window *window;
  const char *content;
  uint64_t page = 110;

  ck_assert_uint_eq (read_ahead_find (ahead, &page, 1, *until_ns, &content,
                                      &window), 0);
}

/* While all is locked, which it is when it is asked what can be fetched, the
 * fetch ends, with less than was asked for, and then the reader's time.
 */
START_TEST (who_gives_up_gets_only_what_is_there)
{
  struct thread reader;
  int64_t until_ns;

  source.most = 5;
  for (unsigned i = 0; i < 10; i++) {
    note (0, 32, 3);
    wait_begun (i + 1);
    until_ns = fabric_now_ns () + 100 * MS;
    thread_start (&reader, give_up, &until_ns);
    thread_wait_asleep (&reader);
    source.pass_until_ns = until_ns + 20 * MS;
    note (512, 32, 3);
    source.pass_until_ns = 0;
    thread_join (&reader);
    read_ahead_forget (ahead, 0, PAGES);
  }
}
END_TEST

/* As many other reads as there are sequences, and then one more. */
START_TEST (windows_of_a_sequence_that_ended_are_dropped)
{
  let_pass (FETCHES);
  note (0, 32, 3);
  wait_begun (1);
  ck_assert_uint_eq (read_pages (96, 1, 10000 * MS), 1);
  for (int i = 0; i < SEQUENCES - 1; i++)
    note (500 + 10 * i, 1, 1);
  ck_assert_uint_eq (read_pages (96, 1, 0), 1);
  note (600, 1, 1);
  ck_assert_uint_eq (read_pages (96, 1, 0), 0);
}
END_TEST

START_TEST (windows_end_with_slab_and_device)
{
  let_pass (FETCHES);
  note (150, 32, 3);
  wait_begun (2);
  ck_assert_uint_eq (source.first[0], 246);
  ck_assert_uint_eq (source.n[0], SLAB_PAGES - 246);
  ck_assert_uint_eq (source.first[1], SLAB_PAGES);
  ck_assert_uint_eq (read_pages (246, 32, 10000 * MS), SLAB_PAGES - 246);
  note (PAGES - 100, 32, 3);
  wait_begun (3);
  ck_assert_uint_eq (source.first[2], PAGES - 4);
  ck_assert_uint_eq (source.n[2], 4);
  note (PAGES - 4, 4, 1);
  read_ahead_stop (ahead);
  ck_assert_uint_eq (source.begun, 3);
}
END_TEST

/* All windows but one are held: the last one serves all. */
START_TEST (what_is_being_read_stays)
{
  struct window *held[WINDOWS - 1];
  const char *content[WINDOWS - 1];

  let_pass (FETCHES);
  for (int i = 0; i < WINDOWS - 1; i++) {
    note (256 * i, 32, 3);
    wait_begun (i + 1);
    ck_assert_uint_eq (find (256 * i + 96, 32, INT64_MAX, &content[i],
                             &held[i]), 32);
  }
  read_ahead_forget (ahead, 0, PAGES);
  for (int i = 0; i < 3; i++) {
    note (512 + 100 * i, 8, 3);
    wait_begun (WINDOWS + i);
    ck_assert_uint_eq (read_pages (512 + 100 * i + 24, 8, 10000 * MS), 8);
  }
  for (int i = 0; i < WINDOWS - 1; i++) {
    for (uint32_t j = 0; j < 32; j++)
      ck_assert_int_eq (content[i][j * PAGE], (char) (256 * i + 96 + j));
    read_ahead_release (ahead, held[i], 256 * i + 96, 32);
  }
}
END_TEST

START_TEST (without_windows_nothing_is_fetched)
{
  struct read_ahead *none = read_ahead_start (&(struct read_ahead_params) {
      .pages = PAGES, .slab_pages = SLAB_PAGES,
      .fetchable = count_fetchable, .fetch = fetch });
  struct window *window;
  const char *content;
  uint64_t page = 10;

  for (int i = 0; i < 10; i++)
    read_ahead_note (none, i, 1);
  ck_assert_uint_eq (read_ahead_find (none, &page, 1, INT64_MAX, &content,
                                      &window), 0);
  read_ahead_forget (none, 0, PAGES);
  read_ahead_free (none);
  ck_assert_uint_eq (source.begun, 0);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("read_ahead");

  tcase_add_checked_fixture (c, setup, teardown);
  tcase_add_test (c, reads_in_a_row_are_one_sequence);
  tcase_add_test (c, sequences_outlast_single_reads_between_them);
  tcase_add_test (c, from_the_third_read_on_as_much_is_fetched_as_was_read);
  tcase_add_test (c, pages_before_a_window_are_passed_over);
  tcase_add_test (c, a_read_waits_for_its_pages_until_its_deadline);
  tcase_add_test (c, a_read_does_not_wait_for_what_is_not_being_fetched);
  tcase_add_test (c, what_was_changed_is_forgotten);
  tcase_add_test (c, what_changes_while_it_is_fetched_is_forgotten);
  tcase_add_test (c, only_what_was_there_counts);
  tcase_add_test (c, only_what_can_be_fetched_is_asked_for);
  tcase_add_test (c, who_gives_up_gets_only_what_is_there);
  tcase_add_test (c, windows_of_a_sequence_that_ended_are_dropped);
  tcase_add_test (c, windows_end_with_slab_and_device);
  tcase_add_test (c, what_is_being_read_stays);
  tcase_add_test (c, without_windows_nothing_is_fetched);
  return suite_run ("read_ahead", c);
}
