/* The tcp fabric's listener and channel against peers that keep none of
 * the rules.
 */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fabric/preface.h"
#include "fabric/wire.h"
#include "test/unit/fabric/conformance.h"
#include "test/unit/fabric/ends.h"
#include "test/unit/fabric/raw.h"

static struct sockaddr_storage addr;
static socklen_t addr_len;
static struct fabric_listener *listener;
static unsigned fds_before;

static void
setup (void)
{
  ends_host = "127.0.0.1";      /* a test may have changed it */
  fds_before = ends_count_fds ();
  listener = ends_listen (&addr, &addr_len);
}

static void
teardown (void)
{
  if (listener)
    fabric_listener_close (listener);
  ck_assert_uint_eq (ends_count_fds (), fds_before);
}

/* Let the listener work until it has ended this connection. */
static void
expect_dropped (int fd)
{
  struct fabric_request *request;
  struct pollfd fds[2] = {
    { .fd = fabric_listener_fd (listener), .events = POLLIN },
    { .fd = fd, .events = POLLIN },
  };

  while (!raw_ended (fd)) {
    ck_assert_int_gt (poll (fds, 2, ENDS_PATIENCE_NS / 1000000), 0);
    ck_assert_int_eq (fabric_listener_accept (listener, &request), -EAGAIN);
  }
}

/* The listener still serves who keeps the rules. */
static void
expect_service (void)
{
  struct fabric_request *request;
  int fd = raw_connect (&addr, addr_len);

  raw_send_preface (fd, FABRIC_CONTROL);
  request = ends_accept (listener);
  ck_assert_int_eq (fabric_request_preface (request)->kind, FABRIC_CONTROL);
  fabric_request_reject (request);
  raw_expect_end (fd);
  close (fd);
}

static const struct { unsigned at; uint8_t value; } bad_prefaces[] = {
  { 0, 'X' },                   /* magic */
  { 5, 2 },                     /* version */
  { 6, 1 }, { 7, 0 }, { 7, 3 }, /* kind */
  { 8, 1 }, { 23, 1 },          /* a session, a token */
};

START_TEST (test_bad_preface)
{
  struct wire_preface w;
  int fd = raw_connect (&addr, addr_len);

  preface_encode (&(struct fabric_preface) { .kind = FABRIC_CONTROL }, &w);
  ((uint8_t *) &w)[bad_prefaces[_i].at] = bad_prefaces[_i].value;
  raw_send (fd, &w, sizeof w);
  expect_dropped (fd);
  close (fd);
  expect_service ();
}
END_TEST

START_TEST (test_caller_hangs_up)
{
  struct fabric_request *request;
  int fd;

  for (size_t n = 0; n < sizeof (struct wire_preface); n++) {
    fd = raw_connect (&addr, addr_len);
    if (n > 0)
      raw_send (fd, "ISWP\0\1\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", n);
    close (fd);
    ck_assert_int_eq (fabric_listener_accept (listener, &request), -EAGAIN);
  }
  expect_service ();
}
END_TEST

START_TEST (test_slow_preface)
{
  struct fabric_request *request;
  struct wire_preface w;
  int fd = raw_connect (&addr, addr_len);

  preface_encode (&(struct fabric_preface) { .kind = FABRIC_LANE,
                                             .token = 7 }, &w);
  for (size_t i = 0; i < sizeof w; i++) {
    ck_assert_int_eq (fabric_listener_accept (listener, &request), -EAGAIN);
    raw_send (fd, (uint8_t *) &w + i, 1);
    ck_assert (raw_readable (fabric_listener_fd (listener), 10000));
  }
  ck_assert_int_eq (fabric_listener_accept (listener, &request), 0);
  ck_assert_uint_eq (fabric_request_preface (request)->token, 7);
  fabric_request_reject (request);
  close (fd);
}
END_TEST

START_TEST (test_silent_caller_is_dropped)
{
  int64_t began_ns = fabric_now_ns (), took_ns;
  int fd = raw_connect (&addr, addr_len);

  raw_send (fd, "ISWP", 4);
  expect_dropped (fd);
  took_ns = fabric_now_ns () - began_ns;
  ck_assert_int_ge (took_ns, INT64_C (4900000000));
  ck_assert_int_le (took_ns, INT64_C (10000000000));
  close (fd);
  expect_service ();
}
END_TEST

START_TEST (test_crowd_of_silent_callers)
{
  enum { CROWD = 300 };
  struct fabric_request *request;
  int fds[CROWD];

  for (int i = 0; i < CROWD; i++) {
    fds[i] = raw_connect (&addr, addr_len);
    ck_assert_int_eq (fabric_listener_accept (listener, &request), -EAGAIN);
    ck_assert_uint_le (ends_count_fds (), fds_before + 3 + 64 + i + 1);
  }
  expect_service ();
  for (int i = 0; i < CROWD; i++)
    close (fds[i]);
  expect_service ();
}
END_TEST

START_TEST (test_many_callers_at_once)
{
  enum { CALLERS = 200 };
  int fds[CALLERS];

  for (int i = 0; i < CALLERS; i++) {
    fds[i] = raw_connect (&addr, addr_len);
    raw_send_preface (fds[i], FABRIC_LANE);
  }
  for (int i = 0; i < CALLERS; i++)
    fabric_request_reject (ends_accept (listener));
  for (int i = 0; i < CALLERS; i++) {
    raw_expect_end (fds[i]);
    close (fds[i]);
  }
}
END_TEST

/* A caller waits, and we do not spin, until there are descriptors. */
START_TEST (test_out_of_descriptors)
{
  struct rlimit before, none;
  const char *preload = getenv ("LD_PRELOAD");
  struct fabric_request *request;
  int fd;

  if (preload && strstr (preload, "vgpreload")) {
    puts ("skipped: valgrind accepts a connection before it says EMFILE");
    return;
  }
  fd = raw_connect (&addr, addr_len);
  raw_send_preface (fd, FABRIC_CONTROL);
  ck_assert_int_eq (getrlimit (RLIMIT_NOFILE, &before), 0);
  none = before;
  none.rlim_cur = 3;
  ck_assert_int_eq (setrlimit (RLIMIT_NOFILE, &none), 0);
  ck_assert_int_eq (fabric_listener_accept (listener, &request), -EAGAIN);
  ck_assert (!raw_readable (fabric_listener_fd (listener), 0));
  ck_assert_int_eq (setrlimit (RLIMIT_NOFILE, &before), 0);
  ck_assert (raw_readable (fabric_listener_fd (listener), 10000));
  fabric_request_reject (ends_accept (listener));
  close (fd);
}
END_TEST

START_TEST (test_close_with_callers)
{
  struct fabric_request *request;
  int fds[3];

  for (int i = 0; i < 3; i++) {
    fds[i] = raw_connect (&addr, addr_len);
    raw_send (fds[i], "ISW", 3);
    ck_assert_int_eq (fabric_listener_accept (listener, &request), -EAGAIN);
  }
  fabric_listener_close (listener);
  listener = NULL;
  for (int i = 0; i < 3; i++) {
    raw_expect_end (fds[i]);
    close (fds[i]);
  }
}
END_TEST

/* The donor's end of a control connection from *fd. */
static struct talker
open_channel (int *fd)
{
  struct talker t = { 0 };

  *fd = raw_connect (&addr, addr_len);
  raw_send_preface (*fd, FABRIC_CONTROL);
  ck_assert_int_eq (fabric_channel_accept (ends_accept (listener),
                                           &t.channel), 0);
  return t;
}

static void
expect_ended (struct talker *t, int error)
{
  struct talker nobody = { 0 };
  uint8_t buf[FABRIC_MESSAGE_MAX];

  ck_assert_int_eq (talker_receive (t, &nobody, buf), error);
  ck_assert_int_eq (fabric_channel_receive (t->channel, buf, sizeof buf),
                    error);
  ck_assert_int_eq (fabric_channel_send (t->channel, "x", 1), error);
  /* Nobody is woken for it again. */
  ck_assert (!raw_readable (fabric_channel_fd (t->channel), 0));
}

static const uint32_t bad_lengths[] = {
  0, FABRIC_MESSAGE_MAX + 1, 0x7fffffff, 0x80000000, 0xffffffff,
};

START_TEST (test_frame_of_bad_length)
{
  struct be32 length = be32_from (bad_lengths[_i]);
  uint8_t data[4096] = { 0 };
  int fd;
  struct talker t = open_channel (&fd);

  raw_send (fd, &length, sizeof length);
  raw_send (fd, data, sizeof data);
  expect_ended (&t, -EBADMSG);
  talker_close (&t);
  raw_expect_end (fd);
  close (fd);
}
END_TEST

START_TEST (test_truncated_frame)
{
  static const uint8_t frame[] = { 0, 0, 0, 4, 'a', 'b', 'c', 'd' };
  struct talker t;
  int fd;

  for (size_t n = 0; n < sizeof frame; n++) {
    t = open_channel (&fd);
    if (n > 0)
      raw_send (fd, frame, n);
    close (fd);
    expect_ended (&t, -ECONNRESET);
    talker_close (&t);
  }
}
END_TEST

START_TEST (test_slow_frame)
{
  static const uint8_t frame[] = { 0, 0, 0, 4, 'a', 'b', 'c', 'd' };
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int fd;
  struct talker t = open_channel (&fd);

  for (size_t i = 0; i < sizeof frame; i++) {
    ck_assert_int_eq (fabric_channel_receive (t.channel, buf, sizeof buf),
                      0);
    raw_send (fd, frame + i, 1);
    ck_assert (raw_readable (fabric_channel_fd (t.channel), 10000));
  }
  ck_assert_int_eq (fabric_channel_receive (t.channel, buf, sizeof buf), 4);
  ck_assert_mem_eq (buf, "abcd", 4);
  close (fd);
  talker_close (&t);
}
END_TEST

START_TEST (test_room_for_the_message)
{
  static const uint8_t frame[] = { 0, 0, 0, 4, 'a', 'b', 'c', 'd' };
  uint8_t buf[4];
  int fd;
  struct talker t = open_channel (&fd);

  raw_send (fd, frame, sizeof frame);
  ck_assert (raw_readable (fabric_channel_fd (t.channel), 10000));
  ck_assert_int_eq (fabric_channel_receive (t.channel, buf, 3), -EMSGSIZE);
  ck_assert_int_eq (fabric_channel_receive (t.channel, buf, 4), 4);
  ck_assert_mem_eq (buf, "abcd", 4);
  close (fd);
  talker_close (&t);
}
END_TEST

/* Idle, a channel wakes nobody; with something unsent it does when the
 * peer takes it.
 */
START_TEST (test_wakes_only_for_work)
{
  uint8_t message[FABRIC_MESSAGE_MAX] = { 0 }, buf[FABRIC_MESSAGE_MAX];
  int r, fd;
  struct talker t = open_channel (&fd);
  const int watch = fabric_channel_fd (t.channel);

  ck_assert (!raw_readable (watch, 0));
  ck_assert_int_eq (fabric_channel_send (t.channel, message, 1), 0);
  ck_assert (!raw_readable (watch, 0));
  while ((r = fabric_channel_send (t.channel, message, sizeof message)) == 0)
    ;
  ck_assert_int_eq (r, -ENOBUFS);
  ck_assert (!raw_readable (watch, 0));
  while (!raw_readable (watch, 0))
    ck_assert_int_gt (recv (fd, buf, sizeof buf, 0), 0);
  ck_assert_int_eq (fabric_channel_receive (t.channel, buf, sizeof buf), 0);
  ck_assert_int_eq (fabric_channel_send (t.channel, message, 1), 0);
  close (fd);
  talker_close (&t);
}
END_TEST

/* Why a donor refuses is read though it has closed, and though we have
 * sent more meanwhile.
 */
START_TEST (test_last_words)
{
  struct talker borrower = { 0 }, donor = { 0 };
  uint8_t buf[FABRIC_MESSAGE_MAX];

  ck_assert_int_eq (fabric_channel_connect (
    ends_ops, (struct sockaddr *) &addr, addr_len, ENDS_PATIENCE_NS,
    &borrower.channel), 0);
  talker_pump (&borrower);
  ck_assert_int_eq (fabric_channel_send (borrower.channel, "HELLO", 5), 0);
  ck_assert_int_eq (fabric_channel_accept (ends_accept (listener),
                                           &donor.channel), 0);
  ck_assert_int_eq (fabric_channel_send (donor.channel, "no", 2), 0);
  talker_close (&donor);
  while (fabric_channel_send (borrower.channel, "PING", 4) == 0)
    ;
  ck_assert_int_eq (talker_receive (&borrower, &donor, buf), 2);
  ck_assert_mem_eq (buf, "no", 2);
  ck_assert_int_lt (talker_receive (&borrower, &donor, buf), 0);
  talker_close (&borrower);
}
END_TEST

/* A listening socket that takes no more connections: what is tried now
 * stays without an answer.
 */
START_TEST (test_connect_times_out)
{
  struct sockaddr_storage full;
  struct talker t = { 0 };
  int64_t began_ns;
  socklen_t len;
  int fd = raw_listen (0, &full, &len);
  int first = raw_connect (&full, len);

  began_ns = fabric_now_ns ();
  ck_assert_int_eq (fabric_channel_connect (
    ends_ops, (struct sockaddr *) &full, len, 200000000, &t.channel), 0);
  expect_ended (&t, -ETIMEDOUT);
  ck_assert_int_ge (fabric_now_ns () - began_ns, 200000000);
  ck_assert_int_le (fabric_now_ns () - began_ns, INT64_C (2000000000));
  talker_close (&t);
  close (first);
  close (fd);
}
END_TEST

/* TCP to a broadcast address fails within connect. */
START_TEST (test_connect_fails_at_once)
{
  struct sockaddr_storage nowhere;
  struct talker t = { 0 };
  socklen_t len;

  ends_host = "127.255.255.255";
  len = ends_address (9400, &nowhere);
  ck_assert_int_eq (fabric_channel_connect (
    ends_ops, (struct sockaddr *) &nowhere, len, ENDS_PATIENCE_NS,
    &t.channel), 0);
  ck_assert_int_eq (fabric_channel_send (t.channel, "x", 1), 0);
  expect_ended (&t, -ENETUNREACH);
  talker_close (&t);
}
END_TEST

START_TEST (test_address_of_another_machine)
{
  struct sockaddr_storage other;
  struct fabric_listener *l;
  socklen_t len;

  ends_host = "192.0.2.1";      /* nobody's: RFC 5737 */
  len = ends_address (9400, &other);
  ck_assert_int_eq (fabric_listen (ends_ops, (struct sockaddr *) &other, len,
                                   &l), -EADDRNOTAVAIL);
}
END_TEST

START_TEST (test_peer_is_printed)
{
  struct fabric_request *request;
  struct sockaddr_storage own;
  socklen_t len = sizeof own;
  char expected[FABRIC_PEER_MAX];
  int fd = raw_connect (&addr, addr_len);

  ck_assert_int_eq (getsockname (fd, (struct sockaddr *) &own, &len), 0);
  snprintf (expected, sizeof expected, "127.0.0.1:%d",
            ((uint8_t *) &own)[2] << 8 | ((uint8_t *) &own)[3]);
  raw_send_preface (fd, FABRIC_CONTROL);
  request = ends_accept (listener);
  ck_assert_str_eq (fabric_request_peer (request), expected);
  fabric_request_reject (request);
  close (fd);
}
END_TEST

START_TEST (test_ipv6)
{
  struct sockaddr_storage any;
  struct fabric_request *request;
  struct fabric_op op;
  struct ends e;
  struct lane l;
  socklen_t len;
  int fd;

  ends_host = "::1";
  len = ends_address (0, &any);
  fd = socket (AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind (fd, (struct sockaddr *) &any, len) < 0) {
    puts ("skipped: no IPv6 on this machine");
    close (fd);
    return;
  }
  close (fd);

  ends_open (&e);
  lane_open (&e, &l);
  op = ends_op (&e, FABRIC_WRITE, 0, 0, 4096);
  ck_assert_int_eq (queue_run (l.queue, &op), 0);
  lane_close (&l);
  fd = raw_connect (&e.addr, e.addr_len);
  raw_send_preface (fd, FABRIC_LANE);
  request = ends_accept (e.listener);
  ck_assert_int_eq (strncmp (fabric_request_peer (request), "[::1]:", 6), 0);
  fabric_request_reject (request);
  close (fd);
  ends_close (&e);
}
END_TEST

int
main (void)
{
  Suite *suite = suite_create ("tcp connections");
  TCase *t = tcase_create ("hostile");

  ends_ops = &fabric_tcp;
  ends_host = "127.0.0.1";
  ends_random ();
  tcase_set_timeout (t, 120);
  tcase_add_checked_fixture (t, setup, teardown);
  tcase_add_loop_test (t, test_bad_preface, 0,
                       sizeof bad_prefaces / sizeof bad_prefaces[0]);
  tcase_add_test (t, test_caller_hangs_up);
  tcase_add_test (t, test_slow_preface);
  tcase_add_test (t, test_silent_caller_is_dropped);
  tcase_add_test (t, test_crowd_of_silent_callers);
  tcase_add_test (t, test_many_callers_at_once);
  tcase_add_test (t, test_out_of_descriptors);
  tcase_add_test (t, test_close_with_callers);
  tcase_add_loop_test (t, test_frame_of_bad_length, 0,
                       sizeof bad_lengths / sizeof bad_lengths[0]);
  tcase_add_test (t, test_truncated_frame);
  tcase_add_test (t, test_slow_frame);
  tcase_add_test (t, test_room_for_the_message);
  tcase_add_test (t, test_wakes_only_for_work);
  tcase_add_test (t, test_last_words);
  tcase_add_test (t, test_connect_times_out);
  tcase_add_test (t, test_connect_fails_at_once);
  tcase_add_test (t, test_address_of_another_machine);
  tcase_add_test (t, test_peer_is_printed);
  tcase_add_test (t, test_ipv6);
  suite_add_tcase (suite, t);
  return conformance_run (suite);
}
