/* What waits for a donor, and for its answers. */

#include <errno.h>
#include <netinet/in.h>

#include "fake_fabric.h"
#include "nbdkit-plugin/outbox.h"
#include "suite.h"

enum { LIMIT = 100 };

static struct outbox outbox;
static struct fake_donor *donor;
static struct fabric_channel *channel;

static void
setup (void)
{
  const struct sockaddr_in addr = {
    .sin_family = AF_INET, .sin_port = htons (FAKE_PORT),
    .sin_addr = { htonl (INADDR_LOOPBACK) },
  };
  struct fake_script script;

  fake_fabric_start ();
  donor = fake_donor_new (0, 1 << 20);
  script = fake_donor_script (donor);
  script.ignore = FAKE_ALL;
  fake_donor_follow (donor, &script);
  ck_assert_int_eq (fabric_channel_connect (&fabric_tcp,
                                            (struct sockaddr *) &addr,
                                            sizeof addr, 0, &channel), 0);
  outbox_init (&outbox, LIMIT);
}

static void
teardown (void)
{
  outbox_clear (&outbox);
  fabric_channel_close (channel);
  fake_fabric_stop ();
}

static void
ask (unsigned n)
{
  const struct message m = { .type = MESSAGE_QUERY_MEM };

  while (n-- > 0)
    ck_assert_int_eq (outbox_add_request (&outbox, &m), 0);
}

static int
answer (void)
{
  const struct message m = { .type = MESSAGE_PONG };

  return outbox_add_answer (&outbox, &m);
}

START_TEST (requests_wait_for_answers)
{
  ask (OUTBOX_REQUESTS_MAX + 10);
  ck_assert_int_eq (outbox_send (&outbox, channel), OUTBOX_REQUESTS_MAX);
  ck_assert_int_eq (outbox_send (&outbox, channel), 0);
  outbox_note (&outbox, MESSAGE_PING);
  ck_assert_int_eq (outbox_send (&outbox, channel), 0);
  for (int i = 0; i < 3; i++)
    outbox_note (&outbox, MESSAGE_FREE_MEM);
  ck_assert_int_eq (outbox_send (&outbox, channel), 3);
  ck_assert_uint_eq (fake_donor_heard (donor, MESSAGE_QUERY_MEM),
                     OUTBOX_REQUESTS_MAX + 3);
}
END_TEST

START_TEST (answers_do_not_wait_behind_requests)
{
  ask (OUTBOX_REQUESTS_MAX + 10);
  outbox_send (&outbox, channel);
  ck_assert_int_eq (answer (), 0);
  ck_assert_int_eq (outbox_send (&outbox, channel), 1);
  ck_assert_uint_eq (fake_donor_heard (donor, MESSAGE_PONG), 1);
}
END_TEST

START_TEST (answers_to_nothing_are_not_counted)
{
  outbox_note (&outbox, MESSAGE_DONE);
  ask (OUTBOX_REQUESTS_MAX + 1);
  ck_assert_int_eq (outbox_send (&outbox, channel), OUTBOX_REQUESTS_MAX);
}
END_TEST

START_TEST (what_has_no_room_goes_later)
{
  fake_fabric_full (true);
  ask (1);
  ck_assert_int_eq (answer (), 0);
  ck_assert_int_eq (outbox_send (&outbox, channel), 0);
  fake_fabric_full (false);
  ck_assert_int_eq (outbox_send (&outbox, channel), 2);
}
END_TEST

START_TEST (no_more_than_the_limit_waits)
{
  fake_fabric_full (true);
  ask (LIMIT / 2);
  for (int i = 0; i < LIMIT / 2; i++)
    ck_assert_int_eq (answer (), 0);
  ck_assert_int_eq (answer (), -ENOBUFS);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("outbox");

  tcase_add_checked_fixture (c, setup, teardown);
  tcase_add_test (c, requests_wait_for_answers);
  tcase_add_test (c, answers_do_not_wait_behind_requests);
  tcase_add_test (c, answers_to_nothing_are_not_counted);
  tcase_add_test (c, what_has_no_room_goes_later);
  tcase_add_test (c, no_more_than_the_limit_waits);
  return suite_run ("outbox", c);
}
