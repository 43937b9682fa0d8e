/* The EVICTs of one session: how grants are put into messages, and how
 * many messages are before the borrower at a time.
 */

#include <check.h>
#include <stdlib.h>

#include "donor/evictions.h"

enum { MANY = 2000, UNANSWERED_MAX = 16, NOW_NS = 77 };

static struct eviction each[MANY];

static void
add (struct evictions *all, unsigned n)
{
  unsigned i;

  for (i = 0; i < n; i++) {
    each[i].grant = 1000 + i;
    evictions_add (all, &each[i], 5000 + i);
  }
}

START_TEST (one_message_names_many)
{
  struct evictions all = { 0 };
  struct message m;
  unsigned i;

  ck_assert (!evictions_next (&all, NOW_NS, &m));
  add (&all, MESSAGE_GRANTS_MAX + 1);
  ck_assert (!evictions_sent (&all, 1));
  ck_assert (evictions_next (&all, NOW_NS, &m));
  ck_assert_int_eq (m.type, MESSAGE_EVICT);
  ck_assert_uint_eq (m.id, 1);
  ck_assert_uint_eq (m.grants.count, MESSAGE_GRANTS_MAX);
  for (i = 0; i < MESSAGE_GRANTS_MAX; i++) {
    ck_assert_uint_eq (m.grants.grants[i], 1000 + i);
    ck_assert_uint_eq (each[i].request, 1);
  }
  ck_assert_uint_eq (each[i].request, 0);
  ck_assert (evictions_sent (&all, 1));
  ck_assert (!evictions_sent (&all, 2));
  ck_assert (!evictions_sent (&all, 0));
  ck_assert (evictions_next (&all, NOW_NS, &m));
  ck_assert_uint_eq (m.grants.count, 1);
  ck_assert (!evictions_next (&all, NOW_NS, &m));
  ck_assert_uint_eq (evictions_count (&all), MESSAGE_GRANTS_MAX + 1);
}
END_TEST

/* The channel takes no more than 64 that the borrower does not read. */
START_TEST (messages_unanswered_are_bounded)
{
  struct evictions all = { 0 };
  struct message m;
  unsigned i;

  add (&all, MANY);
  for (i = 0; i < UNANSWERED_MAX; i++)
    ck_assert (evictions_next (&all, NOW_NS, &m));
  ck_assert (!evictions_next (&all, NOW_NS, &m));

  /* All but one of the first message are answered, then the last. */
  for (i = 1; i < MESSAGE_GRANTS_MAX; i++)
    evictions_remove (&all, &each[i]);
  ck_assert (!evictions_next (&all, NOW_NS, &m));
  evictions_remove (&all, &each[0]);
  ck_assert (evictions_next (&all, NOW_NS, &m));
  ck_assert_uint_eq (m.id, UNANSWERED_MAX + 1);
  ck_assert_uint_eq (m.grants.grants[0],
                     1000 + UNANSWERED_MAX * MESSAGE_GRANTS_MAX);
  ck_assert (!evictions_next (&all, NOW_NS, &m));
}
END_TEST

/* Whether or not it has been sent yet. */
START_TEST (the_oldest_expires_first)
{
  struct evictions all = { 0 };
  struct message m;

  ck_assert (evictions_expire_ns (&all) == INT64_MAX);
  add (&all, MESSAGE_GRANTS_MAX + 2);
  ck_assert_int_eq (evictions_expire_ns (&all), 5000);
  evictions_remove (&all, &each[0]);
  ck_assert_int_eq (evictions_expire_ns (&all), 5001);
  ck_assert (evictions_next (&all, NOW_NS, &m));
  ck_assert_uint_eq (m.grants.grants[0], 1001);
  ck_assert_int_eq (evictions_expire_ns (&all), 5001);
  evictions_remove (&all, &each[1]);
  ck_assert_int_eq (evictions_expire_ns (&all), 5002);
}
END_TEST

int
main (void)
{
  Suite *s = suite_create ("evictions");
  TCase *tc = tcase_create ("evictions");
  SRunner *sr;
  int failed;

  tcase_add_test (tc, one_message_names_many);
  tcase_add_test (tc, messages_unanswered_are_bounded);
  tcase_add_test (tc, the_oldest_expires_first);
  suite_add_tcase (s, tc);
  sr = srunner_create (s);
  srunner_run_all (sr, CK_ENV);
  failed = srunner_ntests_failed (sr);
  srunner_free (sr);
  return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
