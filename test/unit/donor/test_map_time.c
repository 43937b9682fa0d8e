/* What the first MAP after a while costs beside the next one, and beside
 * registering a slab's worth of memory, for which it does not wait: on verbs
 * (FABRIC_ADDRESS), where that takes long, less so in huge pages, which
 * donors ask for.
 */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "test/unit/donor/peer.h"

enum { ROUNDS = 9, BIG_SLAB_BYTES = 64 << 20 };

static int
compare (const void *a, const void *b)
{
  const int64_t x = *(const int64_t *) a, y = *(const int64_t *) b;

  return (x > y) - (x < y);
}

static int64_t
median (int64_t times_ns[ROUNDS])
{
  qsort (times_ns, ROUNDS, sizeof *times_ns, compare);
  return times_ns[ROUNDS / 2];
}

static int64_t
time_registration (struct peer *p, void *memory)
{
  struct fabric_domain *domain;
  struct fabric_region *region;
  int64_t start_ns, took_ns;

  ck_assert_int_eq (fabric_domain_create (p->channel, &domain), 0);
  start_ns = fabric_now_ns ();
  ck_assert_int_eq (fabric_region_add (domain, memory, BIG_SLAB_BYTES, true,
                                       &region), 0);
  took_ns = fabric_now_ns () - start_ns;
  ck_assert_int_eq (fabric_region_remove (region), 0);
  fabric_domain_free (domain);
  return took_ns;
}

static int64_t
time_map (struct peer *p, uint64_t slab, struct message *m)
{
  const int64_t start_ns = fabric_now_ns ();

  ck_assert_int_eq (peer_map (p, slab, m), MESSAGE_MR_INFO);
  return fabric_now_ns () - start_ns;
}

static int64_t
time_query (struct peer *p)
{
  const int64_t start_ns = fabric_now_ns ();
  struct message m;

  peer_query (p, &m);
  return fabric_now_ns () - start_ns;
}

static void *
new_memory (int advice)
{
  void *memory = aligned_alloc (2 << 20, BIG_SLAB_BYTES);

  ck_assert_ptr_nonnull (memory);
  madvise (memory, BIG_SLAB_BYTES, advice);
  memset (memory, 1, BIG_SLAB_BYTES);
  return memory;
}

START_TEST (the_first_map_does_not_wait_for_registration)
{
  int64_t plain_ns[ROUNDS], huge_ns[ROUNDS], first_ns[ROUNDS],
    next_ns[ROUNDS], query_ns[ROUNDS];
  void *plain = new_memory (MADV_NOHUGEPAGE);
  void *huge = new_memory (MADV_HUGEPAGE);
  struct message first, next;
  struct donor d;
  struct peer p;
  int i;

  donor_start (&d, "--slab-size=64M", "--ready=3", "--memory=320M", NULL);
  peer_connect (&p, &d);
  ck_assert_int_eq (peer_hello_with (&p, 1, BIG_SLAB_BYTES,
                                     INT64_C (20000000000), &first),
                    MESSAGE_WELCOME);
  for (i = 0; i < ROUNDS; i++) {
    donor_wait_number (&d, "slabs", "ready", 3);
    donor_wait_number (&d, "slabs", "reserved", 1);
    query_ns[i] = time_query (&p);
    first_ns[i] = time_map (&p, 0, &first);
    next_ns[i] = time_map (&p, 1, &next);
    peer_unmap (&p, first.mr_info.grant);
    peer_unmap (&p, next.mr_info.grant);
    plain_ns[i] = time_registration (&p, plain);
    huge_ns[i] = time_registration (&p, huge);
  }
  printf ("# medians of %d: QUERY_MEM %lld us, first MAP %lld us, next MAP "
          "%lld us, registering as much %lld us, in huge pages %lld us\n",
          ROUNDS,
          (long long) median (query_ns) / 1000,
          (long long) median (first_ns) / 1000,
          (long long) median (next_ns) / 1000,
          (long long) median (plain_ns) / 1000,
          (long long) median (huge_ns) / 1000);
  /* A fifth of it, and three times that since machines are busy.  The next MAP
   * does wait for its registration, and has the same way to go.
   */
  if (peer_fabric () == &fabric_verbs) {
    ck_assert_int_lt (median (first_ns), 3 * median (plain_ns) / 5);
    ck_assert_int_lt (first_ns[0], 3 * median (next_ns) / 5);
  }
  peer_close (&p);
  donor_stop (&d);
  free (plain);
  free (huge);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("map_time");
  TCase *tc = tcase_create ("map_time");
  SRunner *sr;
  int failed;

  /* The donor runs in this thread: what it logs would count. */
  if (!freopen ("/dev/null", "w", stderr))
    return EXIT_FAILURE;
  tcase_set_timeout (tc, 120);
  tcase_add_test (tc, the_first_map_does_not_wait_for_registration);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
