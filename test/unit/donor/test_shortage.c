/* A donor that cannot prepare slabs in time, or at all.  This program's
 * own slab_map takes the place of the real one.
 */

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "donor/slab.h"
#include "test/unit/donor/peer.h"

/* What slab_map does; guarded by the mutex. */
static enum { PREPARE, HANG, FAIL } behaviour;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void
behave (int how)
{
  pthread_mutex_lock (&mutex);
  behaviour = how;
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&mutex);
}

int
slab_map (size_t bytes, bool lock, const atomic_bool *stop,
          _Atomic uint64_t *resident_bytes, struct slab **ret)
{
  struct slab *slab;
  bool fail;

  (void) lock;
  (void) stop;
  pthread_mutex_lock (&mutex);
  while (behaviour == HANG)
    pthread_cond_wait (&changed, &mutex);
  fail = behaviour == FAIL;
  pthread_mutex_unlock (&mutex);
  if (fail)
    return -ENOMEM;
  slab = calloc (1, sizeof *slab);
  slab->memory = calloc (1, bytes);
  slab->bytes = bytes;
  *resident_bytes += bytes;
  *ret = slab;
  return 0;
}

void
slab_unmap (struct slab *slab, _Atomic uint64_t *resident_bytes)
{
  *resident_bytes -= slab->bytes;
  free (slab->memory);
  free (slab);
}

START_TEST (nothing_ready_in_time_is_refused)
{
  struct donor d;
  struct peer p;
  struct message m = { .type = MESSAGE_MAP };
  const int64_t half_ns = 1000000000; /* of what the borrower waits */
  int64_t began_ns, took_ns;

  behave (HANG);
  donor_start (&d, "--memory=2M", NULL);
  peer_begin (&p, &d, 1);
  began_ns = fabric_now_ns ();
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_REFUSED);
  took_ns = fabric_now_ns () - began_ns;
  ck_assert_str_eq (m.refused.reason, "no slab ready in time");
  ck_assert_int_ge (took_ns, half_ns);
  ck_assert_int_le (took_ns, half_ns + 1000000000);
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.slabs_lent, 0);

  /* The next one is in time. */
  m = (struct message) { .type = MESSAGE_MAP };
  peer_send (&p, &m);
  behave (PREPARE);
  ck_assert_int_eq (peer_receive (&p, &m), 0);
  ck_assert_int_eq (m.type, MESSAGE_MR_INFO);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* Also where there is more memory than anyone could wait for. */
START_TEST (waiting_maps_are_bounded)
{
  struct donor d;
  struct peer p;
  struct message m;
  unsigned i;

  behave (HANG);
  donor_start (&d, "--deadline=40s", NULL);
  peer_begin (&p, &d, 1);
  for (i = 0; i < 65; i++) {
    m = (struct message) { .type = MESSAGE_MAP };
    m.map.slab = i;
    peer_send (&p, &m);
  }
  ck_assert_int_eq (peer_receive (&p, &m), 0);
  ck_assert_int_eq (m.type, MESSAGE_REFUSED);
  ck_assert_uint_eq (m.id, p.last_id);
  ck_assert_msg (strstr (m.refused.reason, "too many"), "%s",
                 m.refused.reason);
  behave (PREPARE);
  for (i = 0; i < 64; i++) {
    ck_assert_int_eq (peer_receive (&p, &m), 0);
    ck_assert_int_eq (m.type, MESSAGE_MR_INFO);
  }
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* What is promised to those who wait is not promised twice. */
START_TEST (waiting_maps_count)
{
  struct donor d;
  struct peer p, q;
  struct message m = { .type = MESSAGE_MAP };

  behave (HANG);
  donor_start (&d, "--memory=1M", "--deadline=40s", NULL);
  peer_begin (&p, &d, 1);
  peer_begin (&q, &d, 2);
  peer_send (&p, &m);
  donor_wait_number (&d, "memory", "would_lend_bytes", 0);
  ck_assert_int_eq (peer_map (&q, 0, &m), MESSAGE_REFUSED);
  ck_assert_msg (strstr (m.refused.reason, "--memory 1M"), "%s",
                 m.refused.reason);
  behave (PREPARE);
  ck_assert_int_eq (peer_receive (&p, &m), 0);
  ck_assert_int_eq (m.type, MESSAGE_MR_INFO);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

START_TEST (a_borrower_that_left_does_not_wait)
{
  struct donor d;
  struct peer p, q;
  struct message m = { .type = MESSAGE_MAP };

  behave (HANG);
  donor_start (&d, "--memory=1M", "--deadline=40s", NULL);
  peer_begin (&p, &d, 1);
  peer_send (&p, &m);
  donor_wait_number (&d, "memory", "would_lend_bytes", 0);
  peer_close (&p);
  donor_wait_number (&d, "memory", "would_lend_bytes", 1 << 20);
  peer_begin (&q, &d, 2);
  m = (struct message) { .type = MESSAGE_MAP };
  peer_send (&q, &m);
  behave (PREPARE);
  ck_assert_int_eq (peer_receive (&q, &m), 0);
  ck_assert_int_eq (m.type, MESSAGE_MR_INFO);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

START_TEST (failure_to_prepare_is_the_reason)
{
  struct donor d;
  struct peer p;
  struct message m = { .type = MESSAGE_MAP };

  behave (HANG);
  donor_start (&d, "--memory=4M", "--deadline=40s", NULL);
  peer_begin (&p, &d, 1);
  peer_send (&p, &m);
  donor_wait_number (&d, "memory", "would_lend_bytes", 3 << 20);
  behave (FAIL);
  ck_assert_int_eq (peer_receive (&p, &m), 0);
  ck_assert_int_eq (m.type, MESSAGE_REFUSED);
  ck_assert_msg (strstr (m.refused.reason, "Cannot allocate memory"), "%s",
                 m.refused.reason);
  peer_query (&p, &m);
  ck_assert_uint_eq (m.free_mem.free_bytes, 0);
  ck_assert_uint_eq (m.free_mem.slabs_lent, 0);

  /* It is tried again after a while. */
  behave (PREPARE);
  donor_wait_number (&d, "slabs", "ready", 2);
  ck_assert_int_eq (peer_map (&p, 0, &m), MESSAGE_MR_INFO);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

START_TEST (stops_with_borrowers_that_wait)
{
  struct donor d;
  struct peer p;
  struct message m = { .type = MESSAGE_MAP };

  behave (HANG);
  donor_start (&d, "--memory=1M", "--deadline=40s", NULL);
  peer_begin (&p, &d, 1);
  peer_send (&p, &m);
  donor_wait_number (&d, "memory", "would_lend_bytes", 0);
  behave (PREPARE);
  server_free (d.server);
  d.server = NULL;
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

static void
set (void *flag)
{
  *(bool *) flag = true;
}

/* Also where its slab comes in time. */
START_TEST (a_map_that_waits_for_a_donor_that_stops_is_refused)
{
  struct donor d;
  struct peer p;
  struct message m = { .type = MESSAGE_MAP };
  bool stopped = false;

  behave (HANG);
  donor_start (&d, "--memory=1M", "--deadline=40s", NULL);
  peer_begin (&p, &d, 1);
  peer_send (&p, &m);
  donor_wait_number (&d, "memory", "would_lend_bytes", 0);
  server_stop (d.server, set, &stopped);
  behave (PREPARE);
  ck_assert_int_eq (peer_receive (&p, &m), 0);
  ck_assert_int_eq (m.type, MESSAGE_REFUSED);
  ck_assert_str_eq (m.refused.reason, "the donor is stopping");
  ck_assert (stopped);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("shortage");
  TCase *tc = tcase_create ("slabs");
  SRunner *sr;
  int failed;

  tcase_set_timeout (tc, 120);
  tcase_add_test (tc, nothing_ready_in_time_is_refused);
  tcase_add_test (tc, waiting_maps_are_bounded);
  tcase_add_test (tc, waiting_maps_count);
  tcase_add_test (tc, a_borrower_that_left_does_not_wait);
  tcase_add_test (tc, failure_to_prepare_is_the_reason);
  tcase_add_test (tc, stops_with_borrowers_that_wait);
  tcase_add_test (tc, a_map_that_waits_for_a_donor_that_stops_is_refused);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
