/* What was evicted is out of its borrower's reach, at once and for good:
 * over tcp, and over verbs where the environment has FABRIC_ADDRESS.
 */

#include <check.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "test/unit/donor/peer.h"

enum { STORMS = 3, WRITE_BYTES = 64 << 10, NEW_SLABS = 4 };

/* A lane full of writes to one grant, until they fail. */
struct storm {
  struct peer_lane lane;
  const struct message *mr_info;
  pthread_t thread;
  atomic_uint rounds;
  atomic_bool over;
  int status;                   /* what they failed with */
};

static void *
storm_run (void *arg)
{
  struct storm *s = arg;
  struct fabric_op ops[FABRIC_QUEUE_DEPTH];
  unsigned i, posted;

  while (s->status == 0) {
    for (posted = 0; posted < FABRIC_QUEUE_DEPTH; posted++) {
      ops[posted] = (struct fabric_op) {
        .type = FABRIC_WRITE,
        .region = s->lane.region,
        .local = s->lane.buffer,
        .length = WRITE_BYTES,
        .remote = s->mr_info->mr_info.address
          + posted * WRITE_BYTES % SLAB_BYTES,
        .key = s->mr_info->mr_info.key,
      };
      if (fabric_queue_post (s->lane.queue, &ops[posted]) < 0)
        break;
    }
    fabric_wait (&s->lane.queue, 1, fabric_now_ns () + PATIENCE_NS);
    for (i = 0; i < posted && s->status == 0; i++)
      s->status = ops[i].status;
    if (posted == 0)
      s->status = -EPIPE;
    atomic_fetch_add (&s->rounds, 1);
  }
  atomic_store (&s->over, true);
  return NULL;
}

static void
storm_begin (struct storm *s, struct peer *p, const struct message *mr_info)
{
  memset (s, 0, sizeof *s);
  s->mr_info = mr_info;
  ck_assert_int_eq (peer_lane_open (&s->lane, p), 0);
  memset (s->lane.buffer, 'x', FABRIC_TRANSFER_MAX);
  ck_assert_int_eq (pthread_create (&s->thread, NULL, storm_run, s), 0);
}

/* Until it has made so many rounds, while the donor goes on. */
static void
storm_await (struct storm *s, struct donor *d, unsigned rounds)
{
  const int64_t end_ns = fabric_now_ns () + PATIENCE_NS;

  while (atomic_load (&s->rounds) < rounds && !atomic_load (&s->over)) {
    donor_number (d, "slabs", "lent");
    ck_assert_int_lt (fabric_now_ns (), end_ns);
  }
}

static void
storm_end (struct storm *s, struct donor *d)
{
  storm_await (s, d, UINT_MAX);
  pthread_join (s->thread, NULL);
  ck_assert_int_lt (s->status, 0);
  peer_lane_close (&s->lane);
}

/* Ask all slabs of p back, and have them given back without a look at
 * what is under way.
 */
static void
evict_all (struct donor *d, struct peer *p, uint32_t slabs)
{
  g_autofree char *error = NULL;
  JsonObject *answer = donor_ask (d, "evict all", &error);
  struct message m;
  uint32_t i;

  ck_assert_msg (answer, "%s", error);
  json_object_unref (answer);
  peer_receive_evict (p, &m, slabs);
  for (i = 0; i < slabs; i++)
    peer_done (p, m.id, m.grants.grants[i]);
  donor_wait_number (d, "slabs", "lent", 0);
}

static void
check_zero (struct peer_lane *lane, const struct message *mr_info)
{
  static const char zeros[FABRIC_TRANSFER_MAX];
  uint64_t offset;

  for (offset = 0; offset < SLAB_BYTES; offset += FABRIC_TRANSFER_MAX) {
    memset (lane->buffer, 'r', FABRIC_TRANSFER_MAX);
    ck_assert_int_eq (peer_lane_io (lane, FABRIC_READ, mr_info, offset,
                                    FABRIC_TRANSFER_MAX), 0);
    ck_assert_mem_eq (lane->buffer, zeros, FABRIC_TRANSFER_MAX);
  }
}

/* What is refused breaks the lane, so each attempt has a new one. */
START_TEST (an_old_key_opens_nothing)
{
  struct message old, again;
  struct peer_lane lane;
  struct donor d;
  struct peer p;
  int type, i;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  ck_assert_int_eq (peer_map (&p, 0, &old), MESSAGE_MR_INFO);
  ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
  memset (lane.buffer, 'x', FABRIC_TRANSFER_MAX);
  ck_assert_int_eq (peer_lane_io (&lane, FABRIC_WRITE, &old, 0,
                                  FABRIC_TRANSFER_MAX), 0);
  evict_all (&d, &p, 1);

  /* A lane from before, and others; also when the slab is its again. */
  for (i = 0; i < 2; i++) {
    for (type = FABRIC_READ; type <= FABRIC_WRITE; type++) {
      memset (lane.buffer, 'l', FABRIC_TRANSFER_MAX);
      ck_assert_int_eq (peer_lane_io (&lane, type, &old, 0,
                                      FABRIC_TRANSFER_MAX), -EACCES);
      ck_assert_int_eq (*(char *) lane.buffer, 'l');
      peer_lane_close (&lane);
      ck_assert_int_eq (peer_lane_open (&lane, &p), 0);
    }
    if (i == 0)
      ck_assert_int_eq (peer_map (&p, 0, &again), MESSAGE_MR_INFO);
  }
  check_zero (&lane, &again);
  peer_lane_close (&lane);
  peer_close (&p);
  donor_stop (&d);
}
END_TEST

/* A borrower that says DONE too early harms nobody but itself. */
START_TEST (writes_in_flight_land_nowhere)
{
  struct message old, new[NEW_SLABS];
  struct storm storms[STORMS];
  struct peer_lane lane;
  struct donor d;
  struct peer p, q;
  unsigned i;

  donor_start (&d, NULL);
  peer_begin (&p, &d, 1);
  peer_begin (&q, &d, 2);
  ck_assert_int_eq (peer_lane_open (&lane, &q), 0);
  ck_assert_int_eq (peer_map (&p, 0, &old), MESSAGE_MR_INFO);
  for (i = 0; i < STORMS; i++)
    storm_begin (&storms[i], &p, &old);
  for (i = 0; i < STORMS; i++)
    storm_await (&storms[i], &d, 3);
  evict_all (&d, &p, 1);
  for (i = 0; i < NEW_SLABS; i++) {
    ck_assert_int_eq (peer_map (&q, i, &new[i]), MESSAGE_MR_INFO);
    check_zero (&lane, &new[i]);
  }
  for (i = 0; i < STORMS; i++)
    storm_end (&storms[i], &d);
  for (i = 0; i < NEW_SLABS; i++)
    check_zero (&lane, &new[i]);
  peer_lane_close (&lane);
  peer_close (&p);
  peer_close (&q);
  donor_stop (&d);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("revocation");
  TCase *tc = tcase_create ("revocation");
  SRunner *sr;
  int failed;

  tcase_set_timeout (tc, 120);
  tcase_add_test (tc, an_old_key_opens_nothing);
  tcase_add_loop_test (tc, writes_in_flight_land_nowhere, 0, 5);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
