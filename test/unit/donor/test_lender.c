/* How much is lent, and taken back, as the node's memory changes.  This
 * program's own slab_map and pressure_new take the place of the real
 * ones.
 */

#include <check.h>
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "donor/lender.h"
#include "donor/pressure.h"
#include "donor/wake.h"
#include "fabric/fabric.h"

enum { SLAB_BYTES = 1 << 20, TAKEN_MAX = 16 };

static const int64_t second_ns = 1000000000;

static GMainContext *context;
static struct donor_config config;
static char *meminfo_path;
static struct lender *lender;
static struct slab *taken[TAKEN_MAX];
static unsigned nr_taken;
static bool settled;
static unsigned shortages;
static uint64_t excess_told;    /* in the last shortage */

/* While set, no slab is finished. */
static atomic_bool slow;

int
slab_map (size_t bytes, bool lock, const atomic_bool *cancel,
          _Atomic uint64_t *resident_bytes, struct slab **ret)
{
  (void) lock;
  while (atomic_load (&slow)) {
    if (atomic_load (cancel))
      return -ECANCELED;
    g_usleep (1000);
  }
  *resident_bytes += bytes;
  *ret = g_new0 (struct slab, 1);
  (*ret)->bytes = bytes;
  return 0;
}

void
slab_unmap (struct slab *slab, _Atomic uint64_t *resident_bytes)
{
  *resident_bytes -= slab->bytes;
  g_free (slab);
}

static void (*stall) (void *data);
static void *stall_data;

int
pressure_new (const char *path, GMainContext *unused,
              void (*stalled) (void *data), void *data,
              struct pressure **ret)
{
  (void) unused;
  ck_assert_str_eq (path, "pressure");
  stall = stalled;
  stall_data = data;
  *ret = NULL;
  return 0;
}

void
pressure_free (struct pressure *p)
{
  ck_assert_ptr_null (p);
}

static void
note_settled (void *unused)
{
  (void) unused;
  ck_assert (!settled);
  settled = true;
}

static void
note_shortage (void *unused)
{
  (void) unused;
  shortages++;
  excess_told = lender_excess_slabs (lender);
  ck_assert_uint_gt (excess_told, 0);
}

/* MiB that are neither used by others nor held by the donor. */
static void
set_available (unsigned available_mib)
{
  g_autofree char *text =
    g_strdup_printf ("MemTotal: %u kB\nMemAvailable: %u kB\n",
                     1 << 20, available_mib << 10);

  ck_assert (g_file_set_contents (meminfo_path, text, -1, NULL));
}

static void
set_up (void)
{
  close (g_file_open_tmp ("meminfo-XXXXXX", &meminfo_path, NULL));
  context = g_main_context_new ();
  config = (struct donor_config) {
    .memory_bytes = UINT64_MAX,
    .headroom_bytes = 100 << 20,
    .slab_size_bytes = SLAB_BYTES,
    .smoothing = 1,
    .lock = MEMORY_LOCK_NO,
    .meminfo_path = meminfo_path,
    .cgroup_path = "/nonexistent",
    .mountinfo_path = "/nonexistent",
    .pressure_path = "pressure",
  };
  nr_taken = shortages = 0;
  settled = false;
  atomic_store (&slow, false);
  set_available (112);
}

static void
start (uint64_t ready)
{
  const struct lender_events events = { note_settled, note_shortage, NULL };
  g_autofree char *error = NULL;

  config.ready = ready;
  lender = lender_new (&config, context, &events, &error);
  ck_assert_msg (lender, "%s", error);
}

static void
give_back (bool untouched)
{
  lender_give_back (lender, taken[--nr_taken], untouched);
}

static void
tear_down (void)
{
  while (nr_taken > 0)
    give_back (false);
  lender_free (lender);
  g_main_context_unref (context);
  g_unlink (meminfo_path);
  g_free (meminfo_path);
}

static gboolean
time_is_over (gpointer over)
{
  *(bool *) over = true;
  return G_SOURCE_CONTINUE;
}

static bool
always_false (void)
{
  return false;
}

/* Run until done () or some time is over; says whether it is done. */
static bool
run_until (bool (*done) (void), int64_t patience_ns)
{
  bool over = false;
  GSource *alarm = wake_new (context, -1, time_is_over, &over);

  wake_at (alarm, fabric_now_ns () + patience_ns);
  while (!over && !done ())
    g_main_context_iteration (context, TRUE);
  wake_free (alarm);
  return done ();
}

static void
run_for (int64_t ns)
{
  run_until (always_false, ns);
}

static struct lender_memory
get_memory (void)
{
  struct lender_memory memory;

  lender_get_memory (lender, &memory);
  return memory;
}

/* Ready or not, like MAP. */
static void
deliver (struct lender_wait *w, struct slab *slab, const char *reason)
{
  (void) w;
  ck_assert_msg (slab, "%s", reason);
  taken[nr_taken++] = slab;
}

static struct lender_reserve nothing;

static void
take (unsigned slabs)
{
  struct lender_wait w[TAKEN_MAX];
  const unsigned want = nr_taken + slabs;
  char reason[256];
  unsigned i;

  for (i = 0; i < slabs; i++) {
    w[i].deliver = deliver;
    switch (lender_take (lender, &w[i], &nothing, &taken[nr_taken], reason,
                         sizeof reason)) {
    case LENDER_READY:
      nr_taken++;
      break;
    case LENDER_REFUSED:
      ck_abort_msg ("%s", reason);
    default:
      break;
    }
  }
  while (nr_taken < want)
    g_main_context_iteration (context, TRUE);
}

static bool
is_settled (void)
{
  return settled;
}

static bool
has_shortage (void)
{
  return shortages > 0;
}

static bool
lends_five (void)
{
  return get_memory ().would_lend_bytes == 5 * SLAB_BYTES;
}

static bool
lends_nothing (void)
{
  return get_memory ().would_lend_bytes == 0;
}

static bool
lends_more (void)
{
  return get_memory ().would_lend_bytes > 12 * SLAB_BYTES;
}

static bool
lends_something (void)
{
  return get_memory ().would_lend_bytes > 0;
}

START_TEST (lent_slabs_are_in_excess)
{
  start (0);
  ck_assert (run_until (is_settled, 10 * second_ns));
  ck_assert_uint_eq (get_memory ().would_lend_bytes, 12 * SLAB_BYTES);
  take (6);
  run_for (second_ns);
  ck_assert_uint_eq (shortages, 0);
  ck_assert_uint_eq (lender_excess_slabs (lender), 0);

  /* Six are held; where 98 are left, two of them should be. */
  set_available (98);
  ck_assert (run_until (has_shortage, 10 * second_ns));
  ck_assert_uint_eq (excess_told, 2);
  ck_assert_uint_eq (get_memory ().would_lend_bytes, 0);

  /* What is given back counts at once. */
  give_back (false);
  ck_assert_uint_eq (lender_excess_slabs (lender), 1);
  give_back (true);
  ck_assert_uint_eq (lender_excess_slabs (lender), 0);
}
END_TEST

/* It is told again and again, until there is none. */
START_TEST (shortage_is_told_while_it_lasts)
{
  unsigned told;

  start (0);
  take (3);
  set_available (90);
  ck_assert (run_until (has_shortage, 10 * second_ns));
  ck_assert_uint_eq (excess_told, 3);
  told = shortages;
  run_for (second_ns);
  ck_assert_uint_ge (shortages, told + 2);
  while (nr_taken > 0)
    give_back (false);
  told = shortages;
  run_for (second_ns);
  ck_assert_uint_eq (shortages, told);
}
END_TEST

/* Ready slabs are what a node gets back first, before any that is lent
 * is in excess.
 */
START_TEST (ready_slabs_go_first)
{
  start (3);
  ck_assert (run_until (is_settled, 10 * second_ns));
  take (2);
  run_for (second_ns / 2);
  ck_assert_uint_eq (get_memory ().slabs_ready, 3);

  set_available (97);
  ck_assert (run_until (lends_nothing, 10 * second_ns));
  /* They make room. */
  set_available (100);
  run_for (second_ns / 2);
  ck_assert_uint_eq (get_memory ().slabs_ready, 0);
  ck_assert_uint_eq (get_memory ().held_bytes, 2 * SLAB_BYTES);
  ck_assert_uint_eq (shortages, 0);
}
END_TEST

/* A rise of use counts at once, whatever the average. */
START_TEST (taking_back_follows_the_last_sample)
{
  config.smoothing = 0.01;
  start (0);
  take (6);
  run_for (second_ns / 2);
  set_available (98);
  ck_assert (run_until (has_shortage, second_ns));
  ck_assert_uint_eq (excess_told, 2);
}
END_TEST

/* A fall of use counts as far as the average has fallen. */
START_TEST (lending_follows_the_average)
{
  config.smoothing = 0.01;
  start (0);
  set_available (900);
  ck_assert (run_until (lends_more, 20 * second_ns));
  ck_assert_uint_eq (get_memory ().available_bytes, 900 << 20);
  ck_assert_uint_lt (get_memory ().would_lend_bytes, 100 * SLAB_BYTES);
}
END_TEST

/* Use that swings around the edge of a slab does not have it prepared
 * and released again and again.
 */
START_TEST (the_edge_is_left_alone)
{
  start (0);
  set_available (100);
  ck_assert (run_until (lends_nothing, 10 * second_ns));
  set_available (105);
  run_for (4 * second_ns);
  ck_assert (lends_nothing ());
  ck_assert_uint_eq (get_memory ().limit_bytes, 5 * SLAB_BYTES);
  ck_assert (run_until (lends_five, 4 * second_ns));
}
END_TEST

static char *refusal;

static void
be_refused (struct lender_wait *w, struct slab *slab, const char *reason)
{
  (void) w;
  ck_assert_ptr_null (slab);
  refusal = g_strdup (reason);
}

static bool
is_refused (void)
{
  return refusal != NULL;
}

/* Who waits for what can no longer be had is told so at once. */
START_TEST (who_waits_is_refused_when_memory_goes)
{
  struct lender_wait w = { .deliver = be_refused };
  struct slab *slab;
  char reason[256];

  start (0);
  atomic_store (&slow, true);
  ck_assert_int_eq (lender_take (lender, &w, &nothing, &slab, reason,
                                 sizeof reason), LENDER_WAIT);
  set_available (100);
  ck_assert (run_until (is_refused, 10 * second_ns));
  ck_assert_str_eq (refusal,
                    "no memory is free above the headroom of 100M");
  g_free (refusal);
}
END_TEST

/* Each stall takes one more, what nobody has first. */
START_TEST (stalls_take_slabs_back)
{
  start (1);
  take (3);
  run_for (second_ns / 2);
  ck_assert_uint_eq (get_memory ().slabs_ready, 1);
  ck_assert_uint_gt (get_memory ().would_lend_bytes, 0);

  stall (stall_data);
  ck_assert_uint_eq (get_memory ().slabs_ready, 0);
  ck_assert_uint_eq (get_memory ().would_lend_bytes, 0);
  ck_assert_uint_eq (shortages, 0);
  stall (stall_data);
  ck_assert_uint_eq (shortages, 1);
  ck_assert_uint_eq (excess_told, 1);
  stall (stall_data);
  ck_assert_uint_eq (shortages, 2);
  ck_assert_uint_eq (excess_told, 2);
  ck_assert_uint_eq (get_memory ().pressure_events, 3);

  /* The samples, which see nothing, do not undo it. */
  run_for (second_ns);
  ck_assert_uint_eq (lender_excess_slabs (lender), 2);
  while (nr_taken > 0)
    give_back (false);
  for (unsigned i = 0; i < 5; i++)
    stall (stall_data);
  ck_assert_uint_eq (get_memory ().limit_bytes, 0);
}
END_TEST

/* Nothing is lent for some seconds, not even what is ready. */
START_TEST (stalls_keep_from_lending)
{
  struct lender_wait w = { .deliver = deliver };
  struct slab *slab;
  char reason[256];

  start (3);
  ck_assert (run_until (is_settled, 10 * second_ns));
  stall (stall_data);
  ck_assert_uint_eq (get_memory ().slabs_ready, 2);
  ck_assert_int_eq (lender_take (lender, &w, &nothing, &slab, reason,
                                 sizeof reason), LENDER_REFUSED);
  ck_assert_str_eq (reason, "tasks of this node wait for memory");
  run_for (4 * second_ns);
  ck_assert (lends_nothing ());
  ck_assert (run_until (lends_something, 12 * second_ns));
  run_for (second_ns / 2);
  ck_assert_uint_eq (get_memory ().slabs_ready, 3);
}
END_TEST

static struct lender_reserve kept;
static unsigned recalls;

static void
recall (struct lender_reserve *r)
{
  ck_assert_ptr_eq (r, &kept);
  recalls++;
  lender_unreserve (lender, r, false);
}

/* Of `ready` slabs, one is kept. */
static void
start_with_a_reserve (uint64_t ready)
{
  kept = (struct lender_reserve) { .recall = recall };
  recalls = 0;
  start (ready);
  ck_assert (run_until (is_settled, 10 * second_ns));
  ck_assert (lender_reserve (lender, &kept));
  ck_assert_uint_eq (get_memory ().slabs_reserved, 1);
  ck_assert_uint_eq (get_memory ().slabs_ready, ready);
}

START_TEST (a_reserved_slab_is_for_whom_it_is_kept)
{
  struct lender_wait w = { .deliver = deliver };
  char reason[256];
  struct slab *slab;

  start_with_a_reserve (2);
  slab = kept.slab;
  take (1);
  ck_assert_ptr_ne (taken[0], slab);
  ck_assert_int_eq (lender_take (lender, &w, &kept, &taken[nr_taken++],
                                 reason, sizeof reason), LENDER_READY);
  ck_assert_ptr_eq (taken[1], slab);
  ck_assert_ptr_null (kept.slab);
  ck_assert_uint_eq (get_memory ().slabs_reserved, 0);
  ck_assert_uint_eq (get_memory ().slabs_lent, 2);
  ck_assert_uint_eq (recalls, 0);
}
END_TEST

/* Whoever asks next must find one. */
START_TEST (the_last_slab_is_not_reserved)
{
  start (1);
  ck_assert (run_until (is_settled, 10 * second_ns));
  ck_assert (!lender_reserve (lender, &kept));
}
END_TEST

/* The second of two slabs that there can be. */
START_TEST (others_do_not_go_without)
{
  set_available (102);
  start_with_a_reserve (2);
  ck_assert_uint_eq (get_memory ().would_lend_bytes, 2 * SLAB_BYTES);
  take (1);
  ck_assert_uint_eq (recalls, 0);
  take (1);
  ck_assert_uint_eq (recalls, 1);
  ck_assert_uint_eq (get_memory ().slabs_lent, 2);
}
END_TEST

static bool
holds_three (void)
{
  return get_memory ().held_bytes == 3 * SLAB_BYTES;
}

static bool
is_recalled (void)
{
  return recalls > 0;
}

/* One may be held: what goes is available to others then. */
START_TEST (a_reserve_goes_before_any_slab_is_taken_back)
{
  start_with_a_reserve (2);
  take (1);
  ck_assert (run_until (holds_three, 10 * second_ns));
  set_available (98);
  ck_assert (run_until (is_recalled, 10 * second_ns));
  set_available (100);
  run_for (second_ns);
  ck_assert_uint_eq (recalls, 1);
  ck_assert_uint_eq (shortages, 0);
  ck_assert_uint_eq (get_memory ().held_bytes, SLAB_BYTES);
}
END_TEST

START_TEST (nothing_is_reserved_while_tasks_stall)
{
  start_with_a_reserve (2);
  stall (stall_data);
  stall (stall_data);
  ck_assert_uint_eq (recalls, 1);
  ck_assert_uint_eq (get_memory ().slabs_ready, 0);
  ck_assert (!lender_reserve (lender, &kept));
}
END_TEST

/* They are at the limit of their own cgroup where the node has plenty. */
START_TEST (stalls_elsewhere_do_not_count)
{
  set_available (200);
  start (0);
  take (2);
  stall (stall_data);
  ck_assert_uint_eq (get_memory ().pressure_events, 0);
  ck_assert_uint_eq (shortages, 0);
  ck_assert_uint_gt (get_memory ().would_lend_bytes, 0);

  set_available (199);
  stall (stall_data);
  ck_assert_uint_eq (get_memory ().pressure_events, 1);
  ck_assert_uint_eq (shortages, 1);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("lender");
  TCase *tc = tcase_create ("lender");
  SRunner *sr;
  int failed;

  tcase_set_timeout (tc, 60);
  tcase_add_checked_fixture (tc, set_up, tear_down);
  tcase_add_test (tc, lent_slabs_are_in_excess);
  tcase_add_test (tc, shortage_is_told_while_it_lasts);
  tcase_add_test (tc, ready_slabs_go_first);
  tcase_add_test (tc, taking_back_follows_the_last_sample);
  tcase_add_test (tc, lending_follows_the_average);
  tcase_add_test (tc, the_edge_is_left_alone);
  tcase_add_test (tc, who_waits_is_refused_when_memory_goes);
  tcase_add_test (tc, stalls_take_slabs_back);
  tcase_add_test (tc, stalls_keep_from_lending);
  tcase_add_test (tc, stalls_elsewhere_do_not_count);
  tcase_add_test (tc, a_reserved_slab_is_for_whom_it_is_kept);
  tcase_add_test (tc, the_last_slab_is_not_reserved);
  tcase_add_test (tc, others_do_not_go_without);
  tcase_add_test (tc, a_reserve_goes_before_any_slab_is_taken_back);
  tcase_add_test (tc, nothing_is_reserved_while_tasks_stall);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
