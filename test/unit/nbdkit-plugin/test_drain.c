/* Donors that are no longer listed: their slabs leave in order, and nobody
 * notices.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "conf/state_socket.h"
#include "fake_disk.h"
#include "fake_resolver.h"
#include "rig.h"
#include "scratch.h"
#include "suite.h"
#include "thread.h"

enum { SLAB = MIB / PAGE, EVICT = 815 };

static struct rig rig;
static struct rig_params params;

/* List the donors whose bits are set. */
static void
list (unsigned bits)
{
  char text[200] = "";

  for (unsigned i = 0; i < params.donors; i++)
    if (bits >> i & 1)
      sprintf (text + strlen (text), "%s127.0.0.1:%u", text[0] ? " " : "",
               FAKE_PORT + i);
  fake_resolver_answer (text);
}

static void
setup (void)
{
  scratch_setup ();
  fake_resolver_start ();
  params = rig_defaults ();
  params.list = "srv:_infiniswap._tcp.test";
}

static void
lend (unsigned donor, unsigned slabs)
{
  struct fake_script s = fake_donor_script (rig.donors[donor]);

  s.slabs = slabs;
  fake_donor_follow (rig.donors[donor], &s);
}

static void
go_down (unsigned donor, bool down)
{
  struct fake_script s = fake_donor_script (rig.donors[donor]);

  s.down = down;
  fake_donor_follow (rig.donors[donor], &s);
}

/* The slabs before `to` live with donor 0, which alone is listed; the
 * first two pages of each, full of 'a', are on the local copy as well.
 */
static void
start (unsigned donors, unsigned to)
{
  const uint64_t slab = params.slab_size_bytes / PAGE;

  params.donors = donors;
  rig_prepare (&rig, &params);
  list (1);
  rig_start (&rig);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 1);
  for (unsigned i = 0; i < to; i++) {
    rig_write (&rig, i * slab, 'a');
    rig_wait_mapped (&rig, i);
    rig_write (&rig, i * slab, 'a');
    rig_write (&rig, i * slab + 1, 'a');
  }
  ck_assert_int_eq (device_flush (rig.device), 0);
}

static void
stop (void)
{
  ck_assert_int_eq (rig_stop (&rig), 0);
}

static uint64_t
read_disk (void)
{
  return atomic_load (&rig.device->counters.read_disk);
}

/* Donor 0 was left, in order: each grant given back, then the session. */
static void
expect_left (unsigned grants)
{
  fake_donor_wait_let_go (rig.donors[0]);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_UNMAP), grants);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_HELLO), 1);
  ck_assert_uint_eq (fake_donor_lent (rig.donors[0]), 0);
}

static void
refuse_pages (void)
{
  fake_disk_fail (0, params.size_bytes, true);
  rig_write (&rig, 2, 'b');
  while (slab_table_remote_only (rig.device->slabs) == 0)
    usleep (500);
}

START_TEST (busy_slabs_move_to_a_donor_that_is_added)
{
  start (2, 4);
  fake_disk_fail (0, params.size_bytes, true);
  list (2);
  expect_left (4);
  ck_assert_uint_eq (fake_donor_lent (rig.donors[1]), 4);
  for (int i = 0; i < 4; i++) {
    rig_expect (&rig, i * SLAB, 'a');
    rig_expect (&rig, i * SLAB + 1, 'a');
  }
  ck_assert_uint_eq (read_disk (), 0);
  fake_disk_mend ();
  stop ();
}
END_TEST

/* The activity of the only slab that has any, as the mapper has it. */
static double
activity (void)
{
  char *error = NULL;
  JsonNode *status =
    state_socket_ask (params.state, "status", 10000 * MS, &error);
  JsonObject *slabs;
  double a;

  ck_assert_msg (status != NULL, "%s", error);
  slabs = json_object_get_object_member (json_node_get_object (status),
                                         "slabs");
  a = json_object_get_double_member (
    json_array_get_object_element (
      json_object_get_array_member (slabs, "list"), 0), "activity");
  json_node_unref (status);
  return a;
}

START_TEST (slabs_that_are_not_busy_stay_on_the_local_copy)
{
  params.hot_slab = 20;
  params.donors = 2;
  params.state = scratch_path ("state");
  rig_prepare (&rig, &params);
  list (1);
  rig_start (&rig);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 1);
  for (int i = 0; i < 200; i++)
    rig_write (&rig, i, 'a');
  rig_wait_mapped (&rig, 0);
  rig_write (&rig, 0, 'a');
  while (activity () < params.hot_slab)
    usleep (5000);
  while (activity () >= params.hot_slab)
    usleep (5000);
  list (2);
  expect_left (1);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[1], MESSAGE_MAP), 0);
  rig_expect (&rig, 0, 'a');
  ck_assert_uint_eq (read_disk (), 1);
  stop ();
}
END_TEST

START_TEST (where_nobody_else_lends_slabs_stay_for_a_deadline)
{
  int64_t began = fabric_now_ns ();

  params.deadline_ns = 1000 * MS;
  start (2, 2);
  lend (1, 0);
  list (2);
  expect_left (2);
  ck_assert_int_ge (fabric_now_ns () - began, 1000 * MS);
  rig_expect (&rig, 0, 'a');
  rig_expect (&rig, SLAB, 'a');
  ck_assert_uint_eq (read_disk (), 2);
  lend (1, 10);
  rig_write (&rig, 0, 'c');
  rig_wait_mapped (&rig, 0);
  stop ();
}
END_TEST

START_TEST (a_donor_that_connects_late_gets_the_slabs)
{
  start (2, 1);
  go_down (1, true);
  list (2);
  usleep (300000);
  ck_assert_uint_eq (fake_donor_lent (rig.donors[0]), 1);
  go_down (1, false);
  expect_left (1);
  rig_expect (&rig, 1, 'a');
  ck_assert_uint_eq (read_disk (), 0);
  stop ();
}
END_TEST

START_TEST (what_the_disk_refused_stays_until_a_donor_takes_it)
{
  params.deadline_ns = 300 * MS;
  start (2, 1);
  refuse_pages ();
  lend (1, 0);
  list (2);
  usleep (2500000);             /* some tries, well past the deadline */
  ck_assert_uint_eq (fake_donor_lent (rig.donors[0]), 1);
  rig_expect (&rig, 0, 'a');
  rig_expect (&rig, 2, 'b');
  lend (1, 1);
  expect_left (1);
  rig_expect (&rig, 0, 'a');
  rig_expect (&rig, 2, 'b');
  ck_assert_uint_eq (read_disk (), 0);
  fake_disk_mend ();
  stop ();
}
END_TEST

START_TEST (what_the_disk_refused_stays_until_the_disk_takes_it)
{
  params.deadline_ns = 300 * MS;
  start (1, 1);
  refuse_pages ();
  fake_resolver_answer ("127.0.0.1:9407");
  usleep (1500000);
  rig_expect (&rig, 2, 'b');
  ck_assert_uint_eq (fake_donor_lent (rig.donors[0]), 1);
  fake_disk_mend ();
  expect_left (1);
  ck_assert_int_eq (rig_disk_byte (&rig, 2 * PAGE), 'b');
  rig_expect (&rig, 0, 'a');
  rig_expect (&rig, 2, 'b');
  stop ();
}
END_TEST

START_TEST (a_donor_that_is_listed_again_is_kept)
{
  start (2, 1);
  lend (1, 0);
  list (2);
  fake_donor_wait_heard (rig.donors[1], MESSAGE_MAP, 1);
  list (3);
  fake_resolver_wait_asked (2);
  rig_write (&rig, SLAB, 'c');
  while (fake_donor_lent (rig.donors[0]) < 2)
    usleep (500);
  usleep (1200000);             /* a tick */
  ck_assert_uint_eq (fake_donor_lent (rig.donors[0]), 2);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_HELLO), 1);
  rig_expect (&rig, 0, 'a');
  stop ();
}
END_TEST

START_TEST (a_donor_lost_while_it_is_left_is_forgotten)
{
  start (2, 2);
  lend (1, 0);
  list (2);
  fake_donor_wait_heard (rig.donors[1], MESSAGE_MAP, 1);
  fake_donor_end_sessions (rig.donors[0]);
  fake_donor_wait_let_go (rig.donors[0]);
  rig_expect (&rig, 0, 'a');
  rig_expect (&rig, SLAB + 1, 'a');
  usleep (300000);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_HELLO), 1);
  stop ();
}
END_TEST

START_TEST (a_donor_without_a_session_is_forgotten_at_once)
{
  params.donors = 2;
  rig_prepare (&rig, &params);
  go_down (1, true);
  list (3);
  rig_start (&rig);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 1);
  list (1);
  fake_resolver_wait_asked (2);
  go_down (1, false);
  usleep (300000);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[1], MESSAGE_HELLO), 0);
  stop ();
}
END_TEST

START_TEST (a_session_that_begins_is_ended_at_once)
{
  struct fake_script s;

  params.donors = 2;
  rig_prepare (&rig, &params);
  s = fake_donor_script (rig.donors[0]);
  s.hold = FAKE_BIT (MESSAGE_HELLO);
  fake_donor_follow (rig.donors[0], &s);
  list (3);
  rig_start (&rig);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_HELLO, 1);
  list (2);
  fake_donor_wait_let_go (rig.donors[0]);
  stop ();
}
END_TEST

static struct fake_fate
hold (void *data, const struct fabric_op *op)
{
  (void) data;
  (void) op;
  return (struct fake_fate) { .delay_ns = FAKE_HELD };
}

static struct slab_home
begin_move (void)
{
  struct slab_home home;

  start (2, 1);
  home = rig_wait_mapped (&rig, 0);
  fake_donor_decide (rig.donors[1], hold, NULL);
  list (2);
  fake_donor_wait_held (rig.donors[1], 1);
  return home;
}

START_TEST (reads_go_on_while_a_slab_moves)
{
  begin_move ();
  for (int i = 0; i < 100; i++)
    rig_expect (&rig, i % 2, 'a');
  ck_assert_uint_eq (read_disk (), 0);
  fake_donor_decide (rig.donors[1], NULL, NULL);
  fake_donor_release (rig.donors[1], false);
  expect_left (1);
  stop ();
}
END_TEST

START_TEST (a_slab_that_is_evicted_while_it_moves_is_done_with)
{
  const struct slab_home home = begin_move ();
  struct message m = {
    .type = MESSAGE_EVICT, .id = EVICT,
    .grants = { .count = 1, .grants = { home.grant } },
  };

  fake_donor_say (rig.donors[0], &m);
  usleep (50000);
  ck_assert_uint_eq (fake_donor_heard (rig.donors[0], MESSAGE_DONE), 0);
  fake_donor_decide (rig.donors[1], NULL, NULL);
  fake_donor_release (rig.donors[1], false);
  fake_donor_wait_heard (rig.donors[0], MESSAGE_DONE, 1);
  ck_assert_uint_eq (fake_donor_last (rig.donors[0], MESSAGE_DONE).id, EVICT);
  expect_left (0);
  rig_expect (&rig, 0, 'a');
  stop ();
}
END_TEST

/* The move that nobody hurries would copy for ever. */
START_TEST (a_move_makes_way_for_an_eviction)
{
  struct message m = {
    .type = MESSAGE_EVICT, .id = EVICT, .grants = { .count = 1 },
  };

  params.size_bytes = 64 * MIB;
  params.slab_size_bytes = 32 * MIB;
  start (2, 2);
  for (int i = 0; i < 32; i++) {
    static char buf[MIB];

    ck_assert_int_eq (device_write (rig.device, buf, MIB, i * MIB), 0);
  }
  refuse_pages ();
  rig_write (&rig, 32 * SLAB, 'c');
  m.grants.grants[0] = rig_wait_mapped (&rig, 1).grant;
  fake_donor_decide (rig.donors[1], hold, NULL);
  list (2);
  fake_donor_wait_held (rig.donors[1], 1);
  fake_donor_say (rig.donors[0], &m);
  usleep (50000);
  /* One at a time, so that what is held shows how many there were. */
  while (fake_donor_heard (rig.donors[0], MESSAGE_DONE) == 0) {
    fake_donor_release (rig.donors[1], false);
    usleep (500);
  }
  ck_assert_uint_lt (fake_donor_posted (rig.donors[1]), 50); /* of 256 */
  fake_donor_decide (rig.donors[1], NULL, NULL);
  fake_donor_release (rig.donors[1], false);
  rig_expect (&rig, 2, 'b');
  rig_expect (&rig, 32 * SLAB, 'c');
  fake_disk_mend ();
  stop ();
}
END_TEST

/* ---- under load ---- */

enum { WRITERS = 3 };

static atomic_bool load_stops;
static atomic_ulong load_requests;

/* Every writer has pages of its own, of all slabs. */
static void
write_and_verify (void *data)
{
  const unsigned me = *(unsigned *) data;
  static unsigned char fill[WRITERS][4 * SLAB];
  unsigned short state[3] = { me };

  while (!atomic_load (&load_stops)) {
    const unsigned page =
      nrand48 (state) % (4 * SLAB / WRITERS) * WRITERS + me;

    if (fill[me][page] == 0 || nrand48 (state) % 3 == 0) {
      fill[me][page] = 1 + nrand48 (state) % 255;
      rig_write (&rig, page, fill[me][page]);
    }
    else
      rig_expect (&rig, page, fill[me][page]);
    atomic_fetch_add (&load_requests, 1);
  }
}

static void
wait_requests (unsigned more)
{
  const unsigned long until = atomic_load (&load_requests) + more;

  while (atomic_load (&load_requests) < until)
    usleep (500);
}

/* The donor that is missing changes, again and again. */
static void
change_under_load (unsigned times)
{
  static unsigned numbers[WRITERS] = { 0, 1, 2 };
  struct thread threads[WRITERS];

  for (int i = 0; i < WRITERS; i++)
    thread_start (&threads[i], write_and_verify, &numbers[i]);
  wait_requests (1000);
  for (unsigned n = 1; n <= times; n++) {
    const unsigned gone = n % 3;

    list (7 & ~(1 << gone));
    fake_donor_wait_let_go (rig.donors[gone]);
    wait_requests (200);
  }
  atomic_store (&load_stops, true);
  for (int i = 0; i < WRITERS; i++)
    thread_join (&threads[i]);
  printf ("%lu requests, %lu pages of %lu read were from the disk\n",
          atomic_load (&load_requests), (unsigned long) read_disk (),
          (unsigned long) rig_read_donors (&rig));
}

START_TEST (donors_come_and_go_under_load)
{
  start (3, 4);
  change_under_load (12);
  stop ();
}
END_TEST

/* Were a page left to the disk, its read would fail. */
START_TEST (donors_come_and_go_under_load_while_the_disk_fails)
{
  static char zeros[4 * MIB];

  start (3, 4);
  ck_assert_int_eq (device_write (rig.device, zeros, sizeof zeros, 0), 0);
  ck_assert_int_eq (device_flush (rig.device), 0);
  refuse_pages ();
  change_under_load (12);
  ck_assert_uint_eq (read_disk (), 0);
  fake_disk_mend ();
  stop ();
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("drain");

  tcase_add_checked_fixture (c, setup, scratch_teardown);
  tcase_add_test (c, busy_slabs_move_to_a_donor_that_is_added);
  tcase_add_test (c, slabs_that_are_not_busy_stay_on_the_local_copy);
  tcase_add_test (c, where_nobody_else_lends_slabs_stay_for_a_deadline);
  tcase_add_test (c, a_donor_that_connects_late_gets_the_slabs);
  tcase_add_test (c, what_the_disk_refused_stays_until_a_donor_takes_it);
  tcase_add_test (c, what_the_disk_refused_stays_until_the_disk_takes_it);
  tcase_add_test (c, a_donor_that_is_listed_again_is_kept);
  tcase_add_test (c, a_donor_lost_while_it_is_left_is_forgotten);
  tcase_add_test (c, a_donor_without_a_session_is_forgotten_at_once);
  tcase_add_test (c, a_session_that_begins_is_ended_at_once);
  tcase_add_test (c, reads_go_on_while_a_slab_moves);
  tcase_add_test (c, a_slab_that_is_evicted_while_it_moves_is_done_with);
  tcase_add_test (c, a_move_makes_way_for_an_eviction);
  tcase_add_test (c, donors_come_and_go_under_load);
  tcase_add_test (c, donors_come_and_go_under_load_while_the_disk_fails);
  return suite_run ("drain", c);
}
