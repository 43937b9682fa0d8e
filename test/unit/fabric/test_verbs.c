/* fabric_verbs: the promises of fabric.h, and what RDMA adds to them: the
 * device itself refuses what was not granted, and peers that speak verbs
 * but not our protocol.  Needs an RDMA device (test/vm/run has one).
 */

#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conformance.h"
#include "fabric/verbs.h"

#define S(n) ((n) * INT64_C (1000000000))
#define MS(n) ((n) * INT64_C (1000000))

enum { REGION = 1 << 20, PAGE = 4096, FIRST_PORT = 20000, PORTS = 1000 };

static const char *host = "10.7.0.1";

static void
address_set (struct sockaddr_in *a, const char *name, unsigned port)
{
  *a = (struct sockaddr_in) { .sin_family = AF_INET, .sin_port = htons (port) };
  ck_assert_int_eq (inet_pton (AF_INET, name, &a->sin_addr), 1);
}

#define ADDR(a) (struct sockaddr *) &(a), sizeof (a)

/* The listener of a test and the address it has. */
static struct fabric_listener *listener;
static struct sockaddr_in where;

static void
setup (void)
{
  int r = -EADDRINUSE;

  for (unsigned i = 0; r == -EADDRINUSE && i < PORTS; i++) {
    address_set (&where, host, FIRST_PORT + i);
    r = fabric_listen (&fabric_verbs, ADDR (where), &listener);
  }
  ck_assert_int_eq (r, 0);
}

static void
teardown (void)
{
  fabric_listener_close (listener);
}

/* Waits for any of the descriptors; fails the test after 10 s. */
static void
await (int a, int b)
{
  struct pollfd pfds[] = {
    { .fd = a, .events = POLLIN }, { .fd = b, .events = POLLIN },
  };

  ck_assert_int_gt (poll (pfds, 2, 10000), 0);
}

static struct fabric_request *
next_request (int other_fd, void (*serve_other) (void *), void *other)
{
  struct fabric_request *r = NULL;
  int error;

  while ((error = fabric_listener_accept (listener, &r)) == -EAGAIN) {
    if (serve_other)
      serve_other (other);
    await (fabric_listener_fd (listener), other_fd);
  }
  ck_assert_int_eq (error, 0);
  return r;
}

static void
serve_channel (void *c)
{
  char buf[FABRIC_MESSAGE_MAX];

  ck_assert_int_eq (fabric_channel_receive (c, buf, sizeof buf), 0);
}

static void
serve_queue (void *q)
{
  ck_assert_int_eq (fabric_queue_step (q), -EAGAIN);
}

/* Receive on c, keeping the other end going. */
static int
receive (struct fabric_channel *c, struct fabric_channel *peer,
         void *buf, size_t size)
{
  int r;

  while ((r = fabric_channel_receive (c, buf, size)) == 0) {
    if (peer)
      serve_channel (peer);
    await (fabric_channel_fd (c), peer ? fabric_channel_fd (peer) : -1);
  }
  return r;
}

/* Both ends of a session, and a region of the donor's. */
struct session {
  struct fabric_channel *borrower, *donor;
  struct fabric_domain *ours, *theirs;
  struct fabric_region *local, *remote;
  uint8_t *buffer, *slab;
};

static uint8_t *
memory (int fill)
{
  uint8_t *p = aligned_alloc (PAGE, REGION);

  ck_assert_ptr_nonnull (p);
  memset (p, fill, REGION);
  return p;
}

static void
session_open (struct session *s)
{
  char hello[] = "hello", buf[FABRIC_MESSAGE_MAX];

  ck_assert_int_eq (fabric_channel_connect (&fabric_verbs, ADDR (where), S (2),
                                            &s->borrower), 0);
  ck_assert_int_eq (fabric_channel_send (s->borrower, hello, sizeof hello), 0);
  ck_assert_int_eq
    (fabric_channel_accept
     (next_request (fabric_channel_fd (s->borrower), serve_channel,
                    s->borrower), &s->donor), 0);
  ck_assert_int_eq (receive (s->donor, s->borrower, buf, sizeof buf),
                    sizeof hello);
  ck_assert_mem_eq (buf, hello, sizeof hello);
  ck_assert_int_eq (fabric_domain_create (s->borrower, &s->ours), 0);
  ck_assert_int_eq (fabric_domain_create (s->donor, &s->theirs), 0);
  s->buffer = memory ('b');
  s->slab = memory ('s');
  ck_assert_int_eq (fabric_region_add (s->ours, s->buffer, REGION, false,
                                       &s->local), 0);
  ck_assert_int_eq (fabric_region_add (s->theirs, s->slab, REGION, true,
                                       &s->remote), 0);
}

static void
session_close (struct session *s)
{
  if (s->remote)
    ck_assert_int_eq (fabric_region_remove (s->remote), 0);
  ck_assert_int_eq (fabric_region_remove (s->local), 0);
  fabric_domain_free (s->ours);
  fabric_domain_free (s->theirs);
  fabric_channel_close (s->borrower);
  if (s->donor)
    fabric_channel_close (s->donor);
  free (s->buffer);
  free (s->slab);
}

struct lane {
  struct fabric_queue *queue;
  struct fabric_service *service;
};

static void
lane_begin (struct session *s, struct fabric_queue **q)
{
  struct fabric_preface preface = {
    .kind = FABRIC_LANE, .session = 7, .token = UINT64_MAX,
  };

  ck_assert_int_eq (fabric_queue_connect (s->ours, ADDR (where), &preface,
                                          S (2), q), 0);
}

static int
lane_result (struct fabric_queue *q)
{
  int r;

  while ((r = fabric_queue_step (q)) == -EAGAIN)
    await (fabric_queue_fd (q), -1);
  return r;
}

static void
lane_open (struct session *s, struct lane *l)
{
  struct fabric_request *r;
  const struct fabric_preface *p;

  lane_begin (s, &l->queue);
  r = next_request (fabric_queue_fd (l->queue), serve_queue, l->queue);
  p = fabric_request_preface (r);
  ck_assert_int_eq (p->kind, FABRIC_LANE);
  ck_assert_uint_eq (p->session, 7);
  ck_assert_uint_eq (p->token, UINT64_MAX);
  ck_assert_int_eq (strncmp (fabric_request_peer (r), host, strlen (host)), 0);
  ck_assert_int_eq (fabric_service_accept (r, s->theirs, &l->service), 0);
  ck_assert_int_eq (lane_result (l->queue), 0);
}

static void
lane_close (struct lane *l)
{
  fabric_queue_free (l->queue);
  if (l->service)
    fabric_service_end (l->service);
}

/* One operation of a page from the session's buffer; its status. */
static int
page_op (struct session *s, struct lane *l, enum fabric_type type,
         uint64_t remote, uint64_t key)
{
  struct fabric_op op = {
    .type = type, .region = s->local, .local = s->buffer, .length = PAGE,
    .remote = remote, .key = key,
  };
  int r;

  r = fabric_queue_post (l->queue, &op);
  if (r < 0)
    return r;
  ck_assert_int_eq (fabric_wait (&l->queue, 1, fabric_now_ns () + S (5)), 0);
  ck_assert (op.done);
  ck_assert_uint_eq (l->queue->outstanding, 0);
  return op.status;
}

static void
assert_filled (const uint8_t *p, size_t len, int with)
{
  size_t i = 0;

  /* Every assertion is a write to Check's pipe. */
  while (i < len && p[i] == with)
    i++;
  ck_assert_uint_eq (i, len);
}

START_TEST (test_granted_works)
{
  struct session s = { 0 };
  struct lane l = { 0 };
  uint64_t at, key;

  session_open (&s);
  lane_open (&s, &l);
  at = fabric_region_address (s.remote);
  key = fabric_region_key (s.remote);
  ck_assert_int_eq (page_op (&s, &l, FABRIC_WRITE, at + PAGE, key), 0);
  assert_filled (s.slab, PAGE, 's');
  assert_filled (s.slab + PAGE, PAGE, 'b');
  assert_filled (s.slab + 2 * PAGE, REGION - 2 * PAGE, 's');
  ck_assert_int_eq (page_op (&s, &l, FABRIC_READ, at + 2 * PAGE, key), 0);
  assert_filled (s.buffer, PAGE, 's');
  lane_close (&l);
  session_close (&s);
}
END_TEST

/* What is refused breaks the lane, so each attempt has a new one. */
static void
assert_refused (struct session *s, enum fabric_type type,
                uint64_t remote, uint64_t key)
{
  struct lane l = { 0 };

  lane_open (s, &l);
  ck_assert_int_eq (page_op (s, &l, type, remote, key), -EACCES);
  ck_assert_int_lt (page_op (s, &l, type, remote, key), 0);
  lane_close (&l);
  assert_filled (s->buffer, PAGE, 'b');
}

START_TEST (test_key_of_another_session)
{
  struct session a = { 0 }, b = { 0 };
  uint64_t at, key;

  session_open (&a);
  session_open (&b);
  at = fabric_region_address (a.remote);
  key = fabric_region_key (a.remote);
  assert_refused (&b, FABRIC_WRITE, at, key);
  assert_refused (&b, FABRIC_READ, at, key);
  assert_filled (a.slab, REGION, 's');
  session_close (&a);
  session_close (&b);
}
END_TEST

START_TEST (test_beyond_the_region)
{
  struct session s = { 0 };
  struct fabric_region *middle;
  uint64_t at, key;

  session_open (&s);
  ck_assert_int_eq (fabric_region_add (s.theirs, s.slab + 16 * PAGE,
                                       16 * PAGE, true, &middle), 0);
  at = fabric_region_address (middle);
  key = fabric_region_key (middle);
  assert_refused (&s, FABRIC_WRITE, at - 1, key);
  assert_refused (&s, FABRIC_WRITE, at + 15 * PAGE + 1, key);
  assert_refused (&s, FABRIC_WRITE, at + 16 * PAGE, key);
  assert_refused (&s, FABRIC_WRITE, UINT64_MAX - PAGE / 2, key);
  assert_refused (&s, FABRIC_READ, at - 1, key);
  assert_refused (&s, FABRIC_READ, at + 15 * PAGE + 1, key);
  assert_refused (&s, FABRIC_READ, 0, key);
  assert_filled (s.slab, REGION, 's');
  ck_assert_int_eq (fabric_region_remove (middle), 0);
  session_close (&s);
}
END_TEST

START_TEST (test_removed_region)
{
  struct session s = { 0 };
  uint64_t at, key;

  session_open (&s);
  at = fabric_region_address (s.remote);
  key = fabric_region_key (s.remote);
  ck_assert_int_eq (fabric_region_remove (s.remote), 0);
  s.remote = NULL;
  assert_refused (&s, FABRIC_WRITE, at, key);
  assert_refused (&s, FABRIC_READ, at, key);
  assert_filled (s.slab, REGION, 's');
  session_close (&s);
}
END_TEST

START_TEST (test_local_region_serves_nobody)
{
  struct session s = { 0 };
  struct fabric_region *local;

  session_open (&s);
  ck_assert_int_eq (fabric_region_add (s.theirs, s.slab, REGION, false,
                                       &local), 0);
  assert_refused (&s, FABRIC_WRITE, fabric_region_address (local),
                  fabric_region_key (local));
  assert_refused (&s, FABRIC_READ, fabric_region_address (local),
                  fabric_region_key (local));
  assert_filled (s.slab, REGION, 's');
  ck_assert_int_eq (fabric_region_remove (local), 0);
  session_close (&s);
}
END_TEST

START_TEST (test_nothing_lands_after_the_service)
{
  struct session s = { 0 };
  struct lane l = { 0 };
  int64_t start_ns;

  session_open (&s);
  lane_open (&s, &l);
  fabric_service_end (l.service);
  l.service = NULL;
  start_ns = fabric_now_ns ();
  ck_assert_int_lt (page_op (&s, &l, FABRIC_WRITE,
                             fabric_region_address (s.remote),
                             fabric_region_key (s.remote)), 0);
  /* All retries fit in half of the connection's time-out, 2 s. */
  ck_assert_int_lt (fabric_now_ns () - start_ns, S (2));
  assert_filled (s.slab, REGION, 's');
  lane_close (&l);
  session_close (&s);
}
END_TEST

/* A lane kept full of writes, each of another byte, until it fails. */
struct storm {
  struct session *s;
  struct lane *l;
  atomic_uint done;
};

static void *
storm_run (void *arg)
{
  struct storm *storm = arg;
  struct fabric_op ops[FABRIC_QUEUE_DEPTH];
  int r = 0, failed = 0;

  for (unsigned round = 0; r == 0 && failed == 0; round++) {
    memset (storm->s->buffer, round, REGION);
    for (int i = 0; r == 0 && i < FABRIC_QUEUE_DEPTH; i++) {
      ops[i] = (struct fabric_op) {
        .type = FABRIC_WRITE, .region = storm->s->local,
        .local = storm->s->buffer + i * PAGE, .length = PAGE,
        .remote = fabric_region_address (storm->s->remote) + i * PAGE,
        .key = fabric_region_key (storm->s->remote),
      };
      r = fabric_queue_post (storm->l->queue, &ops[i]);
      ck_assert_int_ne (r, -ENOBUFS);
      ops[i].status = r;
    }
    fabric_wait (&storm->l->queue, 1, fabric_now_ns () + S (5));
    ck_assert_uint_eq (storm->l->queue->outstanding, 0);
    for (int i = 0; r == 0 && i < FABRIC_QUEUE_DEPTH; i++) {
      ck_assert (ops[i].done);
      failed |= ops[i].status;
    }
    atomic_fetch_add (&storm->done, 1);
  }
  return NULL;
}

static void
storm_start (struct storm *storm, pthread_t *thread)
{
  ck_assert_int_eq (pthread_create (thread, NULL, storm_run, storm), 0);
  while (atomic_load (&storm->done) < 3)
    sched_yield ();
}

START_TEST (test_service_ends_in_a_storm)
{
  struct session s = { 0 };
  struct lane l = { 0 };
  struct storm storm = { .s = &s, .l = &l };
  uint8_t *after = memory (0);
  pthread_t thread;

  session_open (&s);
  lane_open (&s, &l);
  storm_start (&storm, &thread);
  fabric_service_end (l.service);
  l.service = NULL;
  memcpy (after, s.slab, REGION);
  pthread_join (thread, NULL);
  ck_assert_mem_eq (after, s.slab, REGION);
  lane_close (&l);
  session_close (&s);
  free (after);
}
END_TEST

START_TEST (test_break_in_a_storm)
{
  struct session s = { 0 };
  struct lane l = { 0 };
  struct storm storm = { .s = &s, .l = &l };
  int64_t start_ns;
  pthread_t thread;

  session_open (&s);
  lane_open (&s, &l);
  storm_start (&storm, &thread);
  start_ns = fabric_now_ns ();
  fabric_queue_break (l.queue);
  fabric_queue_break (l.queue);
  pthread_join (thread, NULL);
  ck_assert_int_lt (fabric_now_ns () - start_ns, S (1));
  lane_close (&l);
  session_close (&s);
}
END_TEST

static void *
break_queue (void *q)
{
  fabric_queue_break (q);
  return NULL;
}

/* The service is gone, so the write can only wait for its retries. */
START_TEST (test_break_wakes_the_waiter)
{
  struct session s = { 0 };
  struct lane l = { 0 };
  int64_t start_ns;
  pthread_t thread;

  session_open (&s);
  lane_open (&s, &l);
  fabric_service_end (l.service);
  l.service = NULL;
  struct fabric_op op = {
    .type = FABRIC_WRITE, .region = s.local, .local = s.buffer,
    .length = PAGE, .remote = fabric_region_address (s.remote),
    .key = fabric_region_key (s.remote),
  };
  start_ns = fabric_now_ns ();
  ck_assert_int_eq (fabric_queue_post (l.queue, &op), 0);
  pthread_create (&thread, NULL, break_queue, l.queue);
  ck_assert_int_eq (fabric_wait (&l.queue, 1, start_ns + S (5)), 0);
  ck_assert_int_lt (fabric_now_ns () - start_ns, MS (500));
  ck_assert_int_eq (op.status, -ECANCELED);
  pthread_join (thread, NULL);
  lane_close (&l);
  session_close (&s);
}
END_TEST

START_TEST (test_wait_ends_at_its_deadline)
{
  struct session s = { 0 };
  struct lane l = { 0 };
  int64_t start_ns;

  session_open (&s);
  lane_open (&s, &l);
  fabric_service_end (l.service);
  l.service = NULL;
  struct fabric_op op = {
    .type = FABRIC_READ, .region = s.local, .local = s.buffer,
    .length = PAGE, .remote = fabric_region_address (s.remote),
    .key = fabric_region_key (s.remote),
  };
  start_ns = fabric_now_ns ();
  ck_assert_int_eq (fabric_queue_post (l.queue, &op), 0);
  ck_assert_int_eq (fabric_wait (&l.queue, 1, start_ns + MS (50)),
                    -ETIMEDOUT);
  ck_assert_int_lt (fabric_now_ns () - start_ns, MS (550));
  ck_assert (op.done);
  ck_assert_int_lt (op.status, 0);
  ck_assert_int_lt (fabric_queue_post (l.queue, &op), 0);
  lane_close (&l);
  session_close (&s);
}
END_TEST

static unsigned
count_fds (void)
{
  DIR *dir = opendir ("/proc/self/fd");
  unsigned n = 0;

  ck_assert_ptr_nonnull (dir);
  while (readdir (dir))
    n++;
  closedir (dir);
  return n;
}

START_TEST (test_rejected_lanes_leave_nothing)
{
  struct session s = { 0 };
  struct fabric_queue *q;
  unsigned before;

  session_open (&s);
  before = count_fds ();
  for (int i = 0; i < 20; i++) {
    lane_begin (&s, &q);
    fabric_request_reject (next_request (fabric_queue_fd (q), serve_queue, q));
    ck_assert_int_eq (lane_result (q), -ECONNREFUSED);
    ck_assert_int_eq (fabric_queue_step (q), -ECONNREFUSED);
    fabric_queue_free (q);
  }
  ck_assert_uint_eq (count_fds (), before);
  session_close (&s);
}
END_TEST

/* Requests nobody decided about must not outlive a lost interest. */
START_TEST (test_callers_that_leave)
{
  struct session s = { 0 };
  struct fabric_service *service;
  struct fabric_request *r;
  struct fabric_queue *q;
  unsigned before;

  session_open (&s);
  before = count_fds ();
  for (int i = 0; i < 20; i++) {
    lane_begin (&s, &q);
    r = next_request (fabric_queue_fd (q), serve_queue, q);
    fabric_queue_free (q);
    if (i % 2)
      fabric_request_reject (r);
    else if (fabric_service_accept (r, s.theirs, &service) == 0)
      fabric_service_end (service);
  }
  ck_assert_uint_eq (count_fds (), before);
  session_close (&s);
}
END_TEST

/* An address on the way of the listener's, where nobody lives. */
START_TEST (test_hung_connect_is_timed)
{
  struct fabric_channel *c;
  char silent[INET_ADDRSTRLEN], buf[FABRIC_MESSAGE_MAX];
  struct sockaddr_in addr;
  int64_t start_ns = fabric_now_ns ();

  snprintf (silent, sizeof silent, "%.*s.77",
            (int) (strrchr (host, '.') - host), host);
  address_set (&addr, silent, FIRST_PORT);
  ck_assert_int_eq (fabric_channel_connect (&fabric_verbs, ADDR (addr),
                                            MS (700), &c), 0);
  ck_assert_int_eq (receive (c, NULL, buf, sizeof buf), -ETIMEDOUT);
  ck_assert_int_ge (fabric_now_ns () - start_ns, MS (650));
  ck_assert_int_lt (fabric_now_ns () - start_ns, MS (1500));
  ck_assert_int_eq (fabric_channel_send (c, buf, 1), -ETIMEDOUT);
  fabric_channel_close (c);
}
END_TEST

/* TEST-NET-1: no RDMA device leads there, and often no route at all. */
START_TEST (test_no_device_leads_there)
{
  struct fabric_channel *c;
  char buf[FABRIC_MESSAGE_MAX];
  struct sockaddr_in addr;
  int r;

  address_set (&addr, "192.0.2.1", FIRST_PORT);
  ck_assert_int_eq (fabric_channel_connect (&fabric_verbs, ADDR (addr),
                                            S (2), &c), 0);
  r = receive (c, NULL, buf, sizeof buf);
  ck_assert (r == -ENODEV || r == -ENETUNREACH);
  fabric_channel_close (c);
}
END_TEST

/* One way only, so that the receiver's bare messages let the sender go on.
 */
START_TEST (test_one_way_flow)
{
  struct session s = { 0 };
  char buf[FABRIC_MESSAGE_MAX];
  uint32_t sent = 0, got = 0, value;
  int r;

  session_open (&s);
  while (got < 1000) {
    while (sent < 1000 && (r = fabric_channel_send (s.donor, &sent,
                                                    sizeof sent)) == 0)
      sent++;
    ck_assert (sent == 1000 || r == -ENOBUFS);
    ck_assert_uint_le (sent - got, 64);
    r = receive (s.borrower, s.donor, &value, sizeof value);
    ck_assert_int_eq (r, sizeof value);
    ck_assert_uint_eq (value, got++);
    while ((r = fabric_channel_receive (s.borrower, &value,
                                        sizeof value)) > 0)
      ck_assert_uint_eq (value, got++);
    ck_assert_int_eq (r, 0);
    serve_channel (s.donor);
  }
  ck_assert_int_eq (fabric_channel_receive (s.borrower, buf, sizeof buf), 0);
  session_close (&s);
}
END_TEST

START_TEST (test_what_arrived_comes_before_the_end)
{
  struct session s = { 0 };
  char buf[FABRIC_MESSAGE_MAX];
  uint32_t value;
  int r;

  session_open (&s);
  for (value = 0; value < 64; value++)
    ck_assert_int_eq (fabric_channel_send (s.donor, &value, sizeof value), 0);
  ck_assert_int_eq (fabric_channel_send (s.donor, &value, 1), -ENOBUFS);
  /* The first has arrived; the rest follow it closely, but not surely. */
  ck_assert_int_eq (receive (s.borrower, s.donor, buf, sizeof buf), 4);
  fabric_channel_close (s.donor);
  value = 1;
  while ((r = receive (s.borrower, NULL, buf, sizeof buf)) > 0) {
    ck_assert_int_eq (r, sizeof value);
    ck_assert_mem_eq (buf, &value, sizeof value);
    value++;
  }
  ck_assert_int_eq (r, -ECONNRESET);
  ck_assert_int_eq (fabric_channel_receive (s.borrower, buf, sizeof buf),
                    -ECONNRESET);
  s.donor = NULL;
  session_close (&s);
}
END_TEST

START_TEST (test_ack_timeout)
{
  for (int64_t ns = MS (1); ns < S (1000); ns += ns / 3) {
    unsigned n = verbs_ack_timeout (ns);

    ck_assert_uint_ge (n, 1);
    ck_assert_uint_le (n, 31);
    ck_assert_int_le ((INT64_C (4096) << n) * 7, ns / 2);
    ck_assert (n == 31 || (INT64_C (4096) << (n + 1)) * 7 > ns / 2);
  }
  ck_assert_uint_eq (verbs_ack_timeout (0), 1);
  ck_assert_uint_eq (verbs_ack_timeout (INT64_MAX), 31);
}
END_TEST

/* A peer that speaks verbs, but not our protocol. */
struct stranger {
  struct rdma_cm_id *id;
  struct ibv_mr *mr;
  uint8_t buffer[2 * FABRIC_MESSAGE_MAX];
};

static void
stranger_begin (struct stranger *x)
{
  struct ibv_qp_init_attr attr = {
    .cap = { .max_send_wr = 128, .max_recv_wr = 128,
             .max_send_sge = 1, .max_recv_sge = 1 },
    .qp_type = IBV_QPT_RC,
    .sq_sig_all = 1,
  };

  /* Without an event channel every step waits for its end. */
  ck_assert_int_eq (rdma_create_id (NULL, &x->id, NULL, RDMA_PS_TCP), 0);
  ck_assert_int_eq (rdma_resolve_addr (x->id, NULL, (void *) &where, 2000), 0);
  ck_assert_int_eq (rdma_resolve_route (x->id, 2000), 0);
  ck_assert_int_eq (rdma_create_qp (x->id, NULL, &attr), 0);
  x->mr = ibv_reg_mr (x->id->pd, x->buffer, sizeof x->buffer,
                      IBV_ACCESS_LOCAL_WRITE);
  ck_assert_ptr_nonnull (x->mr);
}

struct introduction {
  struct stranger *x;
  struct rdma_conn_param param;
  int result;
};

static void *
introduce (void *arg)
{
  struct introduction *i = arg;

  i->result = rdma_connect (i->x->id, &i->param);
  return NULL;
}

static void
stranger_end (struct stranger *x)
{
  rdma_destroy_qp (x->id);
  ibv_dereg_mr (x->mr);
  rdma_destroy_id (x->id);
}

static struct fabric_channel *
stranger_channel (struct stranger *x)
{
  struct wire_preface preface;
  struct introduction i = {
    .x = x, .param = { .private_data = &preface,
                       .private_data_len = sizeof preface,
                       .retry_count = 6, .rnr_retry_count = 0 },
  };
  struct fabric_channel *c;
  pthread_t thread;

  stranger_begin (x);
  preface_encode (&(struct fabric_preface) { .kind = FABRIC_CONTROL },
                  &preface);
  pthread_create (&thread, NULL, introduce, &i);
  ck_assert_int_eq (fabric_channel_accept (next_request (-1, NULL, NULL), &c),
                    0);
  pthread_join (thread, NULL);
  ck_assert_int_eq (i.result, 0);
  return c;
}

static void
stranger_send (struct stranger *x, enum ibv_wr_opcode opcode, uint32_t len,
               uint32_t imm)
{
  struct ibv_sge sge = { (uintptr_t) x->buffer, len, x->mr->lkey };
  struct ibv_send_wr *bad, wr = {
    .sg_list = &sge, .num_sge = len > 0, .opcode = opcode,
    .imm_data = htobe32 (imm),
  };

  ck_assert_int_eq (ibv_post_send (x->id->qp, &wr, &bad), 0);
}

static void
assert_ends (struct fabric_channel *c, int with)
{
  char buf[FABRIC_MESSAGE_MAX];
  int r;

  while ((r = receive (c, NULL, buf, sizeof buf)) > 0)
    ;
  ck_assert_int_eq (r, with);
  ck_assert_int_eq (fabric_channel_send (c, buf, 1), with);
}

static const struct {
  enum ibv_wr_opcode opcode;
  uint32_t len, imm;
  int error;
} rude[] = {
  { IBV_WR_SEND, 8, 0, -EPROTO },             /* no credit */
  { IBV_WR_SEND_WITH_IMM, 8, 1, -EPROTO },    /* took what was not sent */
  { IBV_WR_SEND_WITH_IMM, 8, -1, -EPROTO },
  { IBV_WR_SEND_WITH_IMM, 0, 0, -EPROTO },    /* says nothing */
  { IBV_WR_SEND_WITH_IMM, FABRIC_MESSAGE_MAX + 1, 0, -ECONNRESET },
  { IBV_WR_RDMA_WRITE_WITH_IMM, 0, 0, -EPROTO },
};

START_TEST (test_rude_peer)
{
  struct stranger x;
  struct fabric_channel *c = stranger_channel (&x);

  stranger_send (&x, rude[_i].opcode, rude[_i].len, rude[_i].imm);
  assert_ends (c, rude[_i].error);
  fabric_channel_close (c);
  stranger_end (&x);
}
END_TEST

START_TEST (test_peer_that_sends_too_much)
{
  struct stranger x;
  struct fabric_channel *c = stranger_channel (&x);
  struct ibv_wc wc;
  int n;

  for (int i = 0; i < 65; i++)
    stranger_send (&x, IBV_WR_SEND_WITH_IMM, 8, 0);
  for (int i = 0; i < 65; i += n)
    ck_assert_int_ge (n = ibv_poll_cq (x.id->send_cq, 1, &wc), 0);
  assert_ends (c, -EPROTO);
  fabric_channel_close (c);
  stranger_end (&x);
}
END_TEST

static const struct { uint8_t len, flip; } malformed[] = {
  { 0, 0 }, { 8, 0 }, { 24, 1 }, { 24, 5 }, { 24, 7 }, { 24, 23 },
};

START_TEST (test_malformed_preface)
{
  union { struct wire_preface wire; uint8_t bytes[24]; } preface;
  struct stranger x;
  struct introduction i = {
    .x = &x, .param = { .private_data = &preface,
                        .private_data_len = malformed[_i].len },
  };
  struct fabric_request *r;
  pthread_t thread;

  preface_encode (&(struct fabric_preface) { .kind = FABRIC_CONTROL },
                  &preface.wire);
  preface.bytes[malformed[_i].flip] ^= 0x80;
  stranger_begin (&x);
  pthread_create (&thread, NULL, introduce, &i);
  await (fabric_listener_fd (listener), -1);
  ck_assert_int_eq (fabric_listener_accept (listener, &r), -EAGAIN);
  pthread_join (thread, NULL);
  ck_assert_int_eq (i.result, -1);
  stranger_end (&x);
}
END_TEST

static TCase *
verbs_cases (void)
{
  TCase *tc = tcase_create ("verbs");

  tcase_set_timeout (tc, 30);
  tcase_add_checked_fixture (tc, setup, teardown);
  tcase_add_test (tc, test_granted_works);
  tcase_add_test (tc, test_key_of_another_session);
  tcase_add_test (tc, test_beyond_the_region);
  tcase_add_test (tc, test_removed_region);
  tcase_add_test (tc, test_local_region_serves_nobody);
  tcase_add_test (tc, test_nothing_lands_after_the_service);
  tcase_add_test (tc, test_service_ends_in_a_storm);
  tcase_add_test (tc, test_break_in_a_storm);
  tcase_add_test (tc, test_break_wakes_the_waiter);
  tcase_add_test (tc, test_wait_ends_at_its_deadline);
  tcase_add_test (tc, test_rejected_lanes_leave_nothing);
  tcase_add_test (tc, test_callers_that_leave);
  tcase_add_test (tc, test_hung_connect_is_timed);
  tcase_add_test (tc, test_no_device_leads_there);
  tcase_add_test (tc, test_one_way_flow);
  tcase_add_test (tc, test_what_arrived_comes_before_the_end);
  tcase_add_test (tc, test_ack_timeout);
  tcase_add_loop_test (tc, test_rude_peer, 0, sizeof rude / sizeof *rude);
  tcase_add_test (tc, test_peer_that_sends_too_much);
  tcase_add_loop_test (tc, test_malformed_preface, 0,
                       sizeof malformed / sizeof *malformed);
  return tc;
}

int
main (void)
{
  const char *address = getenv ("FABRIC_ADDRESS");
  Suite *suite;
  int r;

  r = fabric_available (&fabric_verbs);
  if (r < 0) {
    fprintf (stderr, "skipped: no RDMA device: %s\n", strerror (-r));
    return 77;
  }
  if (address)
    host = address;
  suite = conformance_suite (&fabric_verbs, host);
  suite_add_tcase (suite, verbs_cases ());
  return conformance_run (suite);
}
