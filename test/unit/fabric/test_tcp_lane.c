/* The tcp fabric's service and queue against peers that keep none of the
 * rules, or are silent.
 */

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fabric/tcp.h"
#include "test/unit/fabric/conformance.h"
#include "test/unit/fabric/ends.h"
#include "test/unit/fabric/raw.h"

static struct ends e;
static unsigned fds_before;

static void
setup (void)
{
  fds_before = ends_count_fds ();
  ends_open (&e);
}

static void
teardown (void)
{
  ends_close (&e);
  ck_assert_uint_eq (ends_count_fds (), fds_before);
}

/* A served lane from *fd. */
static struct fabric_service *
open_service (int *fd)
{
  struct fabric_service *s;
  struct be32 answer;

  *fd = raw_connect (&e.addr, e.addr_len);
  raw_send_preface (*fd, FABRIC_LANE);
  ck_assert_int_eq (fabric_service_accept (ends_accept (e.listener),
                                           e.donor_domain, &s), 0);
  raw_receive (*fd, &answer, sizeof answer);
  ck_assert_uint_eq (be32_get (answer), TCP_LANE_ACCEPTED);
  return s;
}

/* Returns soon, whatever the peer does. */
static void
end_service (struct fabric_service *s)
{
  int64_t began_ns = fabric_now_ns ();

  fabric_service_end (s);
  ck_assert_int_le (fabric_now_ns () - began_ns, INT64_C (2000000000));
}

static struct wire_tcp_request
make_request (uint32_t type, uint64_t address, uint32_t length)
{
  return (struct wire_tcp_request) {
    .type = be32_from (type),
    .tag = be32_from (77),
    .key = be64_from (fabric_region_key (e.region)),
    .address = be64_from (address),
    .length = be32_from (length),
  };
}

static bool
is_all (const uint8_t *p, size_t n, uint8_t value)
{
  while (n-- > 0)
    if (*p++ != value)
      return false;
  return true;
}

static bool
memory_is_all (uint8_t value)
{
  return is_all (e.memory, ENDS_MEMORY_BYTES, value);
}

static const struct {
  uint32_t type;
  uint64_t address;
  uint32_t length;
} bad_requests[] = {
  { TCP_READ, 0, 0 },
  { TCP_READ, 0, FABRIC_TRANSFER_MAX + 1 },
  { TCP_WRITE, 0, FABRIC_TRANSFER_MAX + 1 },
  { TCP_WRITE, 0, UINT32_MAX },
  { TCP_WRITE, ENDS_MEMORY_BYTES, 1 },
  { TCP_WRITE, ENDS_MEMORY_BYTES - 1, 2 },
  { TCP_WRITE, UINT64_MAX, 1 },
  { TCP_WRITE, UINT64_MAX - 4095, 4096 },
  { TCP_WRITE, UINT64_MAX - 4095, 8192 },
  { TCP_READ, UINT64_MAX / 2 + 1, FABRIC_TRANSFER_MAX },
};

START_TEST (test_refused_request)
{
  struct wire_tcp_request request = make_request (
    bad_requests[_i].type, bad_requests[_i].address, bad_requests[_i].length);
  struct wire_tcp_response response;
  int fd;
  struct fabric_service *s = open_service (&fd);

  raw_send (fd, &request, sizeof request);
  raw_receive (fd, &response, sizeof response);
  ck_assert_uint_eq (be32_get (response.type), TCP_RESPONSE);
  ck_assert_uint_eq (be32_get (response.tag), 77);
  ck_assert_uint_eq (be32_get (response.status), TCP_REFUSED);
  ck_assert_uint_eq (be32_get (response.length), 0);
  raw_expect_end (fd);
  end_service (s);
  ck_assert (memory_is_all (0));
  close (fd);
}
END_TEST

START_TEST (test_garbage_request)
{
  uint8_t garbage[sizeof (struct wire_tcp_request)];
  int fd;
  struct fabric_service *s = open_service (&fd);

  for (size_t i = 0; i < sizeof garbage; i++)
    garbage[i] = ends_random () >> 56;
  raw_send (fd, garbage, sizeof garbage);
  raw_expect_end (fd);
  end_service (s);
  ck_assert (memory_is_all (0));
  close (fd);
}
END_TEST

/* A peer that stops anywhere within a write. */
START_TEST (test_stalled_write)
{
  struct { struct wire_tcp_request request; uint8_t data[64]; } write;
  struct fabric_service *s;
  int fd;

  write.request = make_request (TCP_WRITE, 0, sizeof write.data);
  memset (write.data, 0x33, sizeof write.data);
  for (size_t n = 0; n < sizeof write; n++) {
    s = open_service (&fd);
    if (n > 0)
      raw_send (fd, &write, n);
    if (n % 2)
      close (fd);
    end_service (s);
    if (n % 2 == 0) {
      raw_expect_end (fd);
      close (fd);
    }
  }
}
END_TEST

/* The region cannot go while a write is inside, and goes when the
 * service has ended.
 */
START_TEST (test_region_is_busy)
{
  static uint8_t memory[4096];
  struct wire_tcp_request write = make_request (TCP_WRITE, 0, 4096);
  struct fabric_region *more;
  int fd;
  struct fabric_service *s = open_service (&fd);

  ck_assert_int_eq (fabric_region_add (e.donor_domain, memory, sizeof memory,
                                       true, &more), 0);
  write.key = be64_from (fabric_region_key (more));
  raw_send (fd, &write, sizeof write);
  raw_send (fd, "x", 1);
  while (raw_peek (memory) != 'x')
    sched_yield ();
  ck_assert_int_eq (fabric_region_remove (more), -EBUSY);
  ck_assert_int_eq (fabric_region_remove (more), -EBUSY);

  end_service (s);
  ck_assert_int_eq (fabric_region_remove (more), 0);
  close (fd);
}
END_TEST

/* New accesses are refused from the first try to remove on. */
START_TEST (test_busy_region_is_revoked)
{
  static uint8_t memory[4096];
  struct wire_tcp_request write = make_request (TCP_WRITE, 0, 4096), read;
  struct wire_tcp_response response;
  struct fabric_region *more;
  int fd[2];
  struct fabric_service *s[2];

  for (int i = 0; i < 2; i++)
    s[i] = open_service (&fd[i]);
  ck_assert_int_eq (fabric_region_add (e.donor_domain, memory, sizeof memory,
                                       true, &more), 0);
  write.key = be64_from (fabric_region_key (more));
  raw_send (fd[0], &write, sizeof write);
  raw_send (fd[0], "x", 1);
  while (raw_peek (memory) != 'x')
    sched_yield ();
  ck_assert_int_eq (fabric_region_remove (more), -EBUSY);

  read = make_request (TCP_READ, 0, 16);
  read.key = write.key;
  raw_send (fd[1], &read, sizeof read);
  raw_receive (fd[1], &response, sizeof response);
  ck_assert_uint_eq (be32_get (response.status), TCP_REFUSED);

  /* What is inside goes on to its end. */
  for (int i = 1; i < 4096; i++)
    raw_send (fd[0], "y", 1);
  raw_receive (fd[0], &response, sizeof response);
  ck_assert_uint_eq (be32_get (response.status), TCP_OK);
  ck_assert_int_eq (fabric_region_remove (more), 0);
  for (int i = 0; i < 2; i++) {
    end_service (s[i]);
    close (fd[i]);
  }
}
END_TEST

/* Writes of a page and a bit, each behind the last without waiting for the
 * responses, in pieces that end anywhere.
 */
START_TEST (test_requests_in_pieces)
{
  enum { COUNT = 8, BYTES = 4096 + 100 };
  static struct {
    struct wire_tcp_request request;
    uint8_t data[BYTES];
  } __attribute__ ((packed)) writes[COUNT];
  struct wire_tcp_response response;
  const size_t piece = 1 + ends_random () % sizeof writes[0];
  int fd;
  struct fabric_service *s = open_service (&fd);

  for (int i = 0; i < COUNT; i++) {
    writes[i].request = make_request (TCP_WRITE, i * BYTES, BYTES);
    memset (writes[i].data, i + 1, BYTES);
  }
  for (size_t at = 0; at < sizeof writes; at += piece) {
    size_t left = sizeof writes - at;

    raw_send (fd, (uint8_t *) writes + at, left < piece ? left : piece);
    if (_i == 0)                /* or all in a row */
      usleep (1000);
  }
  for (int i = 0; i < COUNT; i++) {
    raw_receive (fd, &response, sizeof response);
    ck_assert_uint_eq (be32_get (response.status), TCP_OK);
  }
  for (int i = 0; i < COUNT; i++)
    ck_assert (is_all ((uint8_t *) e.memory + i * BYTES, BYTES, i + 1));
  end_service (s);
  close (fd);
}
END_TEST

struct flood {
  pthread_t thread;
  int fd;
  const void *data;
  size_t len;
  atomic_uint rounds;
};

/* Send the same again and again until the other end is gone. */
static void *
flood_thread (void *arg)
{
  struct flood *f = arg;

  while (send (f->fd, f->data, f->len, MSG_NOSIGNAL) == (ssize_t) f->len)
    atomic_fetch_add (&f->rounds, 1);
  return NULL;
}

/* A peer that writes as fast as it can and reads no response. */
START_TEST (test_flood_of_writes)
{
  static struct {
    struct wire_tcp_request request;
    uint8_t data[FABRIC_TRANSFER_MAX];
  } write;
  struct flood f = { .data = &write, .len = sizeof write };
  struct fabric_service *s = open_service (&f.fd);

  write.request = make_request (TCP_WRITE, 0, sizeof write.data);
  memset (write.data, 0x44, sizeof write.data);
  ck_assert_int_eq (pthread_create (&f.thread, NULL, flood_thread, &f), 0);
  while (atomic_load (&f.rounds) < 20)
    sched_yield ();
  end_service (s);
  memset (e.memory, 0x55, ENDS_MEMORY_BYTES);
  pthread_join (f.thread, NULL);
  ck_assert (memory_is_all (0x55));
  close (f.fd);
}
END_TEST

/* A peer that asks for far more than it takes. */
START_TEST (test_flood_of_reads)
{
  struct wire_tcp_request requests[200];
  int fd;
  struct fabric_service *s = open_service (&fd);

  for (int i = 0; i < 200; i++)
    requests[i] = make_request (TCP_READ, 0, FABRIC_TRANSFER_MAX);
  raw_send (fd, requests, sizeof requests);
  ck_assert (raw_readable (fd, 10000));
  end_service (s);
  close (fd);
}
END_TEST

/* A queue to a donor that is the test: *fd is its end of the lane. */
static struct fabric_queue *
open_queue (int *fd)
{
  static const struct fabric_preface preface = { .kind = FABRIC_LANE };
  const struct be32 answer = be32_from (TCP_LANE_ACCEPTED);
  struct sockaddr_storage addr;
  struct wire_preface w;
  struct fabric_queue *q;
  socklen_t len;
  int listener = raw_listen (1, &addr, &len);

  ck_assert_int_eq (fabric_queue_connect (
    e.borrower_domain, (struct sockaddr *) &addr, len, &preface,
    ENDS_PATIENCE_NS, &q), 0);
  *fd = raw_accept (listener);
  ck_assert_int_eq (fabric_queue_step (q), -EAGAIN);
  raw_receive (*fd, &w, sizeof w);
  raw_send (*fd, &answer, sizeof answer);
  ck_assert_int_eq (queue_finish_connect (q), 0);
  close (listener);
  return q;
}

static void
close_queue (struct fabric_queue *q, int fd)
{
  fabric_queue_free (q);
  close (fd);
}

static struct wire_tcp_response
make_response (uint32_t tag, uint32_t status, uint32_t length)
{
  return (struct wire_tcp_response) {
    .type = be32_from (TCP_RESPONSE),
    .tag = be32_from (tag),
    .status = be32_from (status),
    .length = be32_from (length),
  };
}

/* READ of 512 bytes, the first operation of its lane, gets this. */
static const struct {
  uint32_t type, tag, status, length;
  int error;
} bad_responses[] = {
  { 0, 0, TCP_OK, 512, -EBADMSG },
  { TCP_READ, 0, TCP_OK, 512, -EBADMSG },
  { TCP_RESPONSE, 1, TCP_OK, 512, -EBADMSG },
  { TCP_RESPONSE, UINT32_MAX, TCP_OK, 512, -EBADMSG },
  { TCP_RESPONSE, 0, 2, 512, -EBADMSG },
  { TCP_RESPONSE, 0, UINT32_MAX, 512, -EBADMSG },
  { TCP_RESPONSE, 0, TCP_OK, 0, -EBADMSG },
  { TCP_RESPONSE, 0, TCP_OK, 511, -EBADMSG },
  { TCP_RESPONSE, 0, TCP_OK, 513, -EBADMSG },
  { TCP_RESPONSE, 0, TCP_OK, UINT32_MAX, -EBADMSG },
  { TCP_RESPONSE, 0, TCP_REFUSED, 0, -EACCES },
  { TCP_RESPONSE, 0, TCP_REFUSED, 512, -EACCES },
};

START_TEST (test_bad_response)
{
  static uint8_t data[FABRIC_TRANSFER_MAX];
  struct wire_tcp_response response = make_response (
    bad_responses[_i].tag, bad_responses[_i].status, bad_responses[_i].length);
  struct fabric_op op = ends_op (&e, FABRIC_READ, 1024, 0, 512);
  struct fabric_op next = ends_op (&e, FABRIC_READ, 4096, 0, 512);
  int fd;
  struct fabric_queue *q = open_queue (&fd);

  response.type = be32_from (bad_responses[_i].type);
  memset (data, 0x66, sizeof data);
  ck_assert_int_eq (fabric_queue_post (q, &op), 0);
  ck_assert_int_eq (fabric_queue_post (q, &next), 0);
  raw_send (fd, &response, sizeof response);
  raw_send (fd, data, sizeof data);
  queue_wait (q);
  ck_assert (op.done && next.done);
  ck_assert_int_eq (op.status, bad_responses[_i].error);
  ck_assert_int_eq (next.status, -ECONNRESET);
  ck_assert_int_eq (fabric_queue_post (q, &op), -ECONNRESET);
  ck_assert (is_all (e.local, 1024, 0));
  ck_assert (is_all (e.local + 1024 + 512,
                     ENDS_MEMORY_BYTES - 1024 - 512, 0));
  close_queue (q, fd);
}
END_TEST

START_TEST (test_truncated_response)
{
  struct { struct wire_tcp_response response; uint8_t data[8]; } read;
  struct fabric_op op = ends_op (&e, FABRIC_READ, 0, 0, sizeof read.data);
  struct fabric_queue *q;
  int fd;

  read.response = make_response (0, TCP_OK, sizeof read.data);
  memset (read.data, 0x77, sizeof read.data);
  for (size_t n = 0; n < sizeof read; n++) {
    q = open_queue (&fd);
    ck_assert_int_eq (fabric_queue_post (q, &op), 0);
    if (n > 0)
      raw_send (fd, &read, n);
    close (fd);
    queue_wait (q);
    ck_assert (op.done);
    ck_assert_int_eq (op.status, -ECONNRESET);
    fabric_queue_free (q);
  }
}
END_TEST

START_TEST (test_slow_response)
{
  struct { struct wire_tcp_response response; uint8_t data[8]; } read;
  struct fabric_op op = ends_op (&e, FABRIC_READ, 0, 0, sizeof read.data);
  struct pollfd pfd;
  int fd;
  struct fabric_queue *q = open_queue (&fd);

  read.response = make_response (0, TCP_OK, sizeof read.data);
  memset (read.data, 0x77, sizeof read.data);
  ck_assert_int_eq (fabric_queue_post (q, &op), 0);
  for (size_t n = 0; n < sizeof read; n++) {
    ck_assert_int_eq (q->ops->queue_poll (q), 0);
    ck_assert (!op.done);
    raw_send (fd, (uint8_t *) &read + n, 1);
    ck_assert_int_eq (q->ops->queue_arm (q, &pfd), 0);
    ck_assert_int_eq (poll (&pfd, 1, 10000), 1);
  }
  queue_wait (q);
  ck_assert_int_eq (op.status, 0);
  ck_assert_mem_eq (e.local, read.data, sizeof read.data);
  close_queue (q, fd);
}
END_TEST

/* A donor that acknowledges writes it cannot have: the buffers are not
 * given back while they are still being sent.
 */
START_TEST (test_response_before_the_request)
{
  struct fabric_op ops[FABRIC_QUEUE_DEPTH];
  struct wire_tcp_response responses[FABRIC_QUEUE_DEPTH];
  size_t succeeded = 0;
  int fd;
  struct fabric_queue *q = open_queue (&fd);

  for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
    ops[i] = ends_op (&e, FABRIC_WRITE, 0, 0, FABRIC_TRANSFER_MAX);
    responses[i] = make_response (i, TCP_OK, 0);
    ck_assert_int_eq (fabric_queue_post (q, &ops[i]), 0);
  }
  raw_send (fd, responses, sizeof responses);
  queue_wait (q);
  while (succeeded < FABRIC_QUEUE_DEPTH && ops[succeeded].status == 0)
    succeeded++;
  ck_assert_uint_lt (succeeded, FABRIC_QUEUE_DEPTH);
  ck_assert_int_eq (ops[succeeded].status, -EBADMSG);
  for (size_t i = succeeded; i < FABRIC_QUEUE_DEPTH; i++)
    ck_assert (ops[i].done && ops[i].status < 0);
  close_queue (q, fd);
}
END_TEST

START_TEST (test_response_to_nothing)
{
  struct wire_tcp_response response = make_response (5, TCP_OK, 0);
  struct fabric_op op = ends_op (&e, FABRIC_WRITE, 0, 0, 4096);
  int fd;
  struct fabric_queue *q = open_queue (&fd);

  raw_send (fd, &response, sizeof response);
  ck_assert_int_eq (queue_run (q, &op), -EBADMSG);
  close_queue (q, fd);
}
END_TEST

/* A donor that says nothing more: the wait ends at its deadline, and the
 * buffers are ours, whatever comes later.
 */
START_TEST (test_wait_times_out)
{
  struct { struct wire_tcp_response response; uint8_t data[4096]; } late;
  struct fabric_op ops[FABRIC_QUEUE_DEPTH];
  int64_t deadline_ns;
  int fd;
  struct fabric_queue *q = open_queue (&fd);

  for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
    ops[i] = ends_op (&e, i % 2 ? FABRIC_WRITE : FABRIC_READ, 4096 * i, 0,
                      4096);
    ck_assert_int_eq (fabric_queue_post (q, &ops[i]), 0);
  }
  deadline_ns = fabric_now_ns () + 200000000;
  ck_assert_int_eq (fabric_wait (&q, 1, deadline_ns), -ETIMEDOUT);
  ck_assert_int_ge (fabric_now_ns (), deadline_ns);
  ck_assert_int_le (fabric_now_ns () - deadline_ns, INT64_C (1000000000));
  ck_assert_uint_eq (q->outstanding, 0);
  for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
    ck_assert (ops[i].done);
    ck_assert_int_lt (ops[i].status, 0);
  }
  ck_assert_int_lt (fabric_queue_post (q, &ops[0]), 0);

  late.response = make_response (0, TCP_OK, sizeof late.data);
  memset (late.data, 0x88, sizeof late.data);
  send (fd, &late, sizeof late, MSG_NOSIGNAL);
  ck_assert_int_eq (fabric_wait (&q, 1, deadline_ns), 0);
  ck_assert_int_eq (e.local[0], 0);
  close_queue (q, fd);
}
END_TEST

/* The deadline may be over before the wait begins. */
START_TEST (test_wait_without_time)
{
  struct fabric_op op = ends_op (&e, FABRIC_READ, 0, 0, 4096);
  int fd;
  struct fabric_queue *q = open_queue (&fd);

  ck_assert_int_eq (fabric_queue_post (q, &op), 0);
  ck_assert_int_eq (fabric_wait (&q, 1, 0), -ETIMEDOUT);
  ck_assert (op.done);
  ck_assert_int_lt (op.status, 0);
  close_queue (q, fd);
}
END_TEST

/* What is not done in time is done later. */
START_TEST (test_await_ends_nothing)
{
  struct wire_tcp_response response = make_response (0, TCP_OK, 0);
  struct fabric_op op = ends_op (&e, FABRIC_WRITE, 0, 0, 4096);
  int64_t until_ns;
  int fd;
  struct fabric_queue *q = open_queue (&fd);

  ck_assert (fabric_await (q, 0));
  ck_assert_int_eq (fabric_queue_post (q, &op), 0);
  ck_assert (!fabric_await (q, 0));
  until_ns = fabric_now_ns () + 100000000;
  ck_assert (!fabric_await (q, until_ns));
  ck_assert_int_ge (fabric_now_ns (), until_ns);
  ck_assert (!op.done);

  send (fd, &response, sizeof response, MSG_NOSIGNAL);
  ck_assert (fabric_await (q, fabric_now_ns () + ENDS_PATIENCE_NS));
  ck_assert (op.done);
  ck_assert_int_eq (op.status, 0);
  close_queue (q, fd);
}
END_TEST

struct trickle {
  pthread_t thread;
  int fd;
  struct wire_tcp_response response;
};

static void *
send_slowly (void *arg)
{
  struct trickle *t = arg;

  for (size_t i = 0; i < sizeof t->response; i++) {
    send (t->fd, (uint8_t *) &t->response + i, 1, MSG_NOSIGNAL);
    usleep (12000);
  }
  return NULL;
}

/* A byte now and then does not make the wait longer. */
START_TEST (test_wait_for_a_slow_peer)
{
  struct trickle trickle = { .response = make_response (0, TCP_OK, 4096) };
  struct fabric_op op = ends_op (&e, FABRIC_READ, 0, 0, 4096);
  struct fabric_queue *q = open_queue (&trickle.fd);
  int64_t deadline_ns;

  ck_assert_int_eq (fabric_queue_post (q, &op), 0);
  pthread_create (&trickle.thread, NULL, send_slowly, &trickle);
  deadline_ns = fabric_now_ns () + 100000000;
  ck_assert_int_eq (fabric_wait (&q, 1, deadline_ns), -ETIMEDOUT);
  ck_assert_int_le (fabric_now_ns () - deadline_ns, INT64_C (100000000));
  pthread_join (trickle.thread, NULL);
  close_queue (q, trickle.fd);
}
END_TEST

START_TEST (test_one_of_two_times_out)
{
  struct fabric_op good = ends_op (&e, FABRIC_WRITE, 0, 0, 4096);
  struct fabric_op stuck = ends_op (&e, FABRIC_WRITE, 0, 0, 4096);
  struct fabric_queue *queues[2];
  struct lane l;
  int fd;

  lane_open (&e, &l);
  queues[0] = open_queue (&fd);
  queues[1] = l.queue;
  ck_assert_int_eq (fabric_queue_post (queues[0], &stuck), 0);
  ck_assert_int_eq (fabric_queue_post (queues[1], &good), 0);
  ck_assert_int_eq (fabric_wait (queues, 2, fabric_now_ns () + 200000000),
                    -ETIMEDOUT);
  ck_assert_int_lt (stuck.status, 0);
  ck_assert_int_eq (good.status, 0);
  ck_assert_int_eq (queue_run (l.queue, &good), 0);
  lane_close (&l);
  close_queue (queues[0], fd);
}
END_TEST

/* More than the sockets hold, and nobody reads. */
START_TEST (test_post_never_blocks)
{
  struct fabric_op ops[FABRIC_QUEUE_DEPTH];
  int64_t began_ns = fabric_now_ns ();
  int fd;
  struct fabric_queue *q = open_queue (&fd);

  for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
    ops[i] = ends_op (&e, FABRIC_WRITE, 0, 0, FABRIC_TRANSFER_MAX);
    ck_assert_int_eq (fabric_queue_post (q, &ops[i]), 0);
  }
  ck_assert_int_le (fabric_now_ns () - began_ns, INT64_C (2000000000));
  ck_assert_int_eq (fabric_wait (&q, 1, fabric_now_ns () + 100000000),
                    -ETIMEDOUT);
  ck_assert_int_lt (ops[FABRIC_QUEUE_DEPTH - 1].status, 0);
  close_queue (q, fd);
}
END_TEST

/* Take every request with its data, and only then answer.  Check's own
 * assertions are for one thread at a time.
 */
static void *
answer_late_thread (void *arg)
{
  static uint8_t data[FABRIC_TRANSFER_MAX];
  struct wire_tcp_response responses[FABRIC_QUEUE_DEPTH];
  struct wire_tcp_request request;
  const int *fd = arg;

  for (uint32_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
    assert (recv (*fd, &request, sizeof request, MSG_WAITALL) ==
            sizeof request);
    assert (recv (*fd, data, sizeof data, MSG_WAITALL) == sizeof data);
    responses[i] = make_response (i, TCP_OK, 0);
  }
  assert (send (*fd, responses, sizeof responses, MSG_NOSIGNAL) ==
          sizeof responses);
  return NULL;
}

/* What is unsent leaves though nothing comes in meanwhile. */
START_TEST (test_late_responses)
{
  struct fabric_op ops[FABRIC_QUEUE_DEPTH];
  pthread_t donor;
  int fd;
  struct fabric_queue *q = open_queue (&fd);

  for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
    ops[i] = ends_op (&e, FABRIC_WRITE, 0, 0, FABRIC_TRANSFER_MAX);
    ck_assert_int_eq (fabric_queue_post (q, &ops[i]), 0);
  }
  ck_assert_int_eq (pthread_create (&donor, NULL, answer_late_thread, &fd),
                    0);
  queue_wait (q);
  pthread_join (donor, NULL);
  for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++)
    ck_assert_int_eq (ops[i].status, 0);
  close_queue (q, fd);
}
END_TEST

static void *
wait_thread (void *arg)
{
  struct fabric_queue *q = arg;

  assert (fabric_wait (&q, 1, fabric_now_ns () + ENDS_PATIENCE_NS) == 0);
  return NULL;
}

/* A waiter on a silent donor, woken by a break or the donor's death. */
START_TEST (test_waiter_is_woken)
{
  struct fabric_op ops[FABRIC_QUEUE_DEPTH];
  struct fabric_queue *q;
  pthread_t waiter;
  int64_t began_ns;
  int fd;

  for (int n = 0; n < 20; n++) {
    q = open_queue (&fd);
    for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
      ops[i] = ends_op (&e, i % 2 ? FABRIC_WRITE : FABRIC_READ, 0, 0, 4096);
      ck_assert_int_eq (fabric_queue_post (q, &ops[i]), 0);
    }
    ck_assert_int_eq (pthread_create (&waiter, NULL, wait_thread, q), 0);
    /* Not while it waits for sure, but in some rounds. */
    for (int i = 0; i < 100 * n; i++)
      sched_yield ();
    began_ns = fabric_now_ns ();
    if (_i == 0)
      fabric_queue_break (q);
    else
      shutdown (fd, SHUT_RDWR);
    pthread_join (waiter, NULL);
    ck_assert_int_le (fabric_now_ns () - began_ns, INT64_C (2000000000));
    for (size_t i = 0; i < FABRIC_QUEUE_DEPTH; i++)
      ck_assert (ops[i].done && ops[i].status < 0);
    close_queue (q, fd);
  }
}
END_TEST

/* What a donor may say to the preface: its bytes, then it closes. */
static const struct { const char *bytes; size_t len; int error; } answers[] = {
  { "", 0, -ECONNRESET },
  { "ISW", 3, -ECONNRESET },
  { "ISWX", 4, -ECONNREFUSED },
  { "ISWZ", 4, -EBADMSG },
  { "\0\0\0\0", 4, -EBADMSG },
};

START_TEST (test_bad_answer_to_the_preface)
{
  static const struct fabric_preface preface = { .kind = FABRIC_LANE };
  struct sockaddr_storage addr;
  struct wire_preface w;
  struct fabric_queue *q;
  socklen_t len;
  int listener = raw_listen (1, &addr, &len), fd;

  ck_assert_int_eq (fabric_queue_connect (
    e.borrower_domain, (struct sockaddr *) &addr, len, &preface,
    ENDS_PATIENCE_NS, &q), 0);
  fd = raw_accept (listener);
  ck_assert_int_eq (fabric_queue_step (q), -EAGAIN);
  raw_receive (fd, &w, sizeof w);
  raw_send (fd, answers[_i].bytes, answers[_i].len);
  close (fd);
  ck_assert_int_eq (queue_finish_connect (q), answers[_i].error);
  ck_assert_int_eq (fabric_queue_step (q), answers[_i].error);
  fabric_queue_free (q);
  close (listener);
}
END_TEST

/* Nobody accepts the connection (0), or nobody answers (1). */
START_TEST (test_lane_times_out)
{
  static const struct fabric_preface preface = { .kind = FABRIC_LANE };
  struct sockaddr_storage addr;
  struct fabric_queue *q;
  int64_t began_ns;
  socklen_t len;
  int listener = raw_listen (_i, &addr, &len);
  int first = raw_connect (&addr, len);

  began_ns = fabric_now_ns ();
  ck_assert_int_eq (fabric_queue_connect (
    e.borrower_domain, (struct sockaddr *) &addr, len, &preface, 200000000,
    &q), 0);
  ck_assert_int_eq (queue_finish_connect (q), -ETIMEDOUT);
  ck_assert_int_ge (fabric_now_ns () - began_ns, 200000000);
  ck_assert_int_le (fabric_now_ns () - began_ns, INT64_C (2000000000));
  fabric_queue_free (q);
  close (first);
  close (listener);
}
END_TEST

START_TEST (test_keys_cannot_be_guessed)
{
  enum { REGIONS = 300 };
  static struct fabric_region *regions[REGIONS];
  uint64_t all_or = 0, all_and = UINT64_MAX;

  for (int i = 0; i < REGIONS; i++) {
    ck_assert_int_eq (fabric_region_add (e.donor_domain, e.memory, 4096,
                                         true, &regions[i]), 0);
    ck_assert_uint_eq (fabric_region_address (regions[i]), 0);
    all_or |= fabric_region_key (regions[i]);
    all_and &= fabric_region_key (regions[i]);
    for (int j = 0; j < i; j++)
      ck_assert_uint_ne (fabric_region_key (regions[i]),
                         fabric_region_key (regions[j]));
  }
  ck_assert_uint_eq (all_or, UINT64_MAX);
  ck_assert_uint_eq (all_and, 0);
  for (int i = 0; i < REGIONS; i++)
    ck_assert_int_eq (fabric_region_remove (regions[i]), 0);
  ck_assert_int_eq (fabric_region_add (e.donor_domain, NULL, 4096, true,
                                       &regions[0]), -EINVAL);
  ck_assert_int_eq (fabric_region_add (e.donor_domain, e.memory, 0, true,
                                       &regions[0]), -EINVAL);
}
END_TEST

static void
add_service_tests (TCase *t)
{
  tcase_add_loop_test (t, test_refused_request, 0,
                       sizeof bad_requests / sizeof bad_requests[0]);
  tcase_add_test (t, test_garbage_request);
  tcase_add_test (t, test_stalled_write);
  tcase_add_test (t, test_region_is_busy);
  tcase_add_test (t, test_busy_region_is_revoked);
  tcase_add_loop_test (t, test_requests_in_pieces, 0, 2);
  tcase_add_test (t, test_flood_of_writes);
  tcase_add_test (t, test_flood_of_reads);
  tcase_add_test (t, test_keys_cannot_be_guessed);
}

static void
add_queue_tests (TCase *t)
{
  tcase_add_loop_test (t, test_bad_response, 0,
                       sizeof bad_responses / sizeof bad_responses[0]);
  tcase_add_test (t, test_truncated_response);
  tcase_add_test (t, test_slow_response);
  tcase_add_test (t, test_response_before_the_request);
  tcase_add_test (t, test_response_to_nothing);
  tcase_add_test (t, test_wait_times_out);
  tcase_add_test (t, test_wait_without_time);
  tcase_add_test (t, test_one_of_two_times_out);
  tcase_add_test (t, test_await_ends_nothing);
  tcase_add_test (t, test_wait_for_a_slow_peer);
  tcase_add_test (t, test_post_never_blocks);
  tcase_add_test (t, test_late_responses);
  tcase_add_loop_test (t, test_waiter_is_woken, 0, 2);
  tcase_add_loop_test (t, test_bad_answer_to_the_preface, 0,
                       sizeof answers / sizeof answers[0]);
  tcase_add_loop_test (t, test_lane_times_out, 0, 2);
}

int
main (void)
{
  Suite *suite = suite_create ("tcp lanes");
  TCase *t = tcase_create ("hostile");

  ends_ops = &fabric_tcp;
  ends_host = "127.0.0.1";
  ends_random ();
  tcase_set_timeout (t, 120);
  tcase_add_checked_fixture (t, setup, teardown);
  add_service_tests (t);
  add_queue_tests (t);
  suite_add_tcase (suite, t);
  return conformance_run (suite);
}
