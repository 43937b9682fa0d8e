/* fabric_verbs: the promises of fabric.h, and what RDMA adds to them: the
 * device itself refuses what was not granted, lost peers are noticed in
 * time, and peers may speak verbs but not our protocol.  Needs an RDMA
 * device (test/vm/run has one).
 */

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rdma/rdma_verbs.h>

#include "fabric/verbs.h"
#include "test/unit/fabric/conformance.h"
#include "test/unit/fabric/ends.h"

#define S(n) ((n) * INT64_C (1000000000))
#define MS(n) ((n) * INT64_C (1000000))

enum { PAGE = 4096, TEST_TIMEOUT_S = 60 };

#define DEFAULT_HOST "10.7.0.1"

static bool
is_all (const uint8_t *p, size_t len, uint8_t value)
{
  return p[0] == value && memcmp (p, p + 1, len - 1) == 0;
}

static void
wait_fd (int fd)
{
  ck_assert_int_gt (poll (&(struct pollfd) { .fd = fd, .events = POLLIN }, 1,
                          ENDS_PATIENCE_NS / MS (1)), 0);
}

/* The next message, or why there is none. */
static int
receive (struct fabric_channel *c, void *buf)
{
  int r;

  while ((r = fabric_channel_receive (c, buf, FABRIC_MESSAGE_MAX)) == 0)
    wait_fd (fabric_channel_fd (c));
  return r;
}

/* Lanes with a time-out of 2 s, as the default deadline gives them. */
static void
lane_begin (struct ends *e, struct fabric_queue **q)
{
  static const struct fabric_preface preface = {
    .kind = FABRIC_LANE, .session = 7, .token = UINT64_MAX,
  };

  ck_assert_int_eq (fabric_queue_connect
                    (e->borrower_domain, (struct sockaddr *) &e->addr,
                     e->addr_len, &preface, S (2), q), 0);
}

/* The donor's end of it. */
static struct fabric_request *
lane_request (struct ends *e, struct fabric_queue *q)
{
  struct fabric_request *r;
  int error;

  while ((error = fabric_listener_accept (e->listener, &r)) == -EAGAIN) {
    struct pollfd pfds[] = {
      { .fd = fabric_listener_fd (e->listener), .events = POLLIN },
      { .fd = fabric_queue_fd (q), .events = POLLIN },
    };

    ck_assert_int_eq (fabric_queue_step (q), -EAGAIN);
    ck_assert_int_gt (poll (pfds, 2, ENDS_PATIENCE_NS / MS (1)), 0);
  }
  ck_assert_int_eq (error, 0);
  return r;
}

static void
lane_up (struct ends *e, struct lane *l)
{
  const struct fabric_preface *p;
  struct fabric_request *r;

  lane_begin (e, &l->queue);
  r = lane_request (e, l->queue);
  p = fabric_request_preface (r);
  ck_assert_int_eq (p->kind, FABRIC_LANE);
  ck_assert_uint_eq (p->session, 7);
  ck_assert_uint_eq (p->token, UINT64_MAX);
  ck_assert_ptr_nonnull (strstr (fabric_request_peer (r), ends_host));
  ck_assert_int_eq (fabric_service_accept (r, e->donor_domain, &l->service),
                    0);
  ck_assert_int_eq (queue_finish_connect (l->queue), 0);
}

/* What is refused breaks the lane, so each attempt has a new one. */
static void
check_refused (struct ends *e, uint64_t remote, uint64_t key)
{
  for (int type = FABRIC_READ; type <= FABRIC_WRITE; type++) {
    struct fabric_op op = ends_op (e, type, 0, 0, PAGE);
    struct lane l = { 0 };

    op.remote = remote;
    op.key = key;
    memset (e->local, 'l', PAGE);
    lane_up (e, &l);
    ck_assert_int_eq (queue_run (l.queue, &op), -EACCES);
    ck_assert_int_lt (fabric_queue_post (l.queue, &op), 0);
    lane_close (&l);
    ck_assert (is_all (e->local, PAGE, 'l'));
  }
}

START_TEST (test_key_of_another_session)
{
  struct ends a, b;

  ends_open (&a);
  ends_open (&b);
  check_refused (&b, fabric_region_address (a.region),
                 fabric_region_key (a.region));
  ck_assert (is_all (a.memory, ENDS_MEMORY_BYTES, 0));
  ends_close (&a);
  ends_close (&b);
}
END_TEST

START_TEST (test_beyond_the_region)
{
  struct fabric_region *middle;
  struct ends e;
  uint64_t at, key;

  ends_open (&e);
  ck_assert_int_eq (fabric_region_add (e.donor_domain, e.memory + 16 * PAGE,
                                       16 * PAGE, true, &middle), 0);
  at = fabric_region_address (middle);
  key = fabric_region_key (middle);
  check_refused (&e, at - 1, key);
  check_refused (&e, at + 15 * PAGE + 1, key);
  check_refused (&e, at + 16 * PAGE, key);
  check_refused (&e, UINT64_MAX - PAGE / 2, key);
  check_refused (&e, 0, key);
  ck_assert (is_all (e.memory, ENDS_MEMORY_BYTES, 0));
  ck_assert_int_eq (fabric_region_remove (middle), 0);
  ends_close (&e);
}
END_TEST

START_TEST (test_removed_and_local_regions)
{
  struct fabric_region *other;
  struct ends e;
  uint64_t key;

  ends_open (&e);
  for (int remote = 0; remote < 2; remote++) {
    ck_assert_int_eq (fabric_region_add (e.donor_domain, e.memory,
                                         ENDS_MEMORY_BYTES, remote, &other),
                      0);
    key = fabric_region_key (other);
    if (remote)
      ck_assert_int_eq (fabric_region_remove (other), 0);
    check_refused (&e, (uintptr_t) e.memory, key);
    if (!remote)
      ck_assert_int_eq (fabric_region_remove (other), 0);
  }
  ck_assert (is_all (e.memory, ENDS_MEMORY_BYTES, 0));
  ends_close (&e);
}
END_TEST

START_TEST (test_lost_donor_is_noticed_in_time)
{
  struct fabric_op op;
  struct lane l = { 0 };
  struct ends e;
  int64_t start_ns;

  ends_open (&e);
  lane_up (&e, &l);
  fabric_service_end (l.service);
  l.service = NULL;
  memset (e.local, 'l', PAGE);
  op = ends_op (&e, FABRIC_WRITE, 0, 0, PAGE);
  start_ns = fabric_now_ns ();
  ck_assert_int_eq (queue_run (l.queue, &op), -ETIMEDOUT);
  ck_assert_int_lt (fabric_now_ns () - start_ns, S (2));
  ck_assert (is_all (e.memory, ENDS_MEMORY_BYTES, 0));
  lane_close (&l);
  ends_close (&e);
}
END_TEST

/* Keeps a lane full of writes, each round of another byte, until one
 * fails.
 */
struct storm {
  struct ends *e;
  struct fabric_queue *q;
  atomic_uint rounds;
  pthread_t thread;
};

static void *
storm_run (void *arg)
{
  struct storm *s = arg;
  struct fabric_op ops[FABRIC_QUEUE_DEPTH];
  bool failed = false;
  int n;

  while (!failed) {
    memset (s->e->local, atomic_fetch_add (&s->rounds, 1), ENDS_MEMORY_BYTES);
    for (n = 0; n < FABRIC_QUEUE_DEPTH && !failed; n++) {
      ops[n] = ends_op (s->e, FABRIC_WRITE, n * PAGE, n * PAGE, PAGE);
      failed = fabric_queue_post (s->q, &ops[n]) < 0;
    }
    if (failed)
      n--;
    fabric_wait (&s->q, 1, fabric_now_ns () + ENDS_PATIENCE_NS);
    ck_assert_uint_eq (s->q->outstanding, 0);
    while (n-- > 0) {
      ck_assert (ops[n].done);
      failed |= ops[n].status < 0;
    }
  }
  return NULL;
}

static void
storm_start (struct storm *s, struct ends *e, struct lane *l)
{
  *s = (struct storm) { .e = e, .q = l->queue };
  ck_assert_int_eq (pthread_create (&s->thread, NULL, storm_run, s), 0);
  while (atomic_load (&s->rounds) < 3)
    sched_yield ();
}

START_TEST (test_service_ends_in_a_storm)
{
  static uint8_t after[ENDS_MEMORY_BYTES];
  struct lane l = { 0 };
  struct storm storm;
  struct ends e;

  ends_open (&e);
  for (int i = 0; i < 5; i++) {
    lane_up (&e, &l);
    storm_start (&storm, &e, &l);
    fabric_service_end (l.service);
    l.service = NULL;
    memcpy (after, e.memory, sizeof after);
    pthread_join (storm.thread, NULL);
    ck_assert_mem_eq (after, e.memory, sizeof after);
    lane_close (&l);
  }
  ends_close (&e);
}
END_TEST

START_TEST (test_break_in_a_storm)
{
  struct lane l = { 0 };
  struct storm storm;
  struct ends e;
  int64_t start_ns;

  ends_open (&e);
  for (int i = 0; i < 20; i++) {
    lane_up (&e, &l);
    storm_start (&storm, &e, &l);
    start_ns = fabric_now_ns ();
    fabric_queue_break (l.queue);
    pthread_join (storm.thread, NULL);
    /* The flush, not the last resort. */
    ck_assert_int_lt (fabric_now_ns () - start_ns, MS (900));
    lane_close (&l);
  }
  ends_close (&e);
}
END_TEST

static void *
break_queue (void *q)
{
  fabric_queue_break (q);
  return NULL;
}

/* Without its service the operation could only wait for its retries. */
START_TEST (test_waiter_is_woken)
{
  struct fabric_op op;
  struct lane l = { 0 };
  struct ends e;
  int64_t start_ns;
  pthread_t thread;

  ends_open (&e);
  lane_up (&e, &l);
  fabric_service_end (l.service);
  l.service = NULL;
  op = ends_op (&e, FABRIC_WRITE, 0, 0, PAGE);
  start_ns = fabric_now_ns ();
  ck_assert_int_eq (fabric_queue_post (l.queue, &op), 0);
  ck_assert_int_eq (pthread_create (&thread, NULL, break_queue, l.queue), 0);
  queue_wait (l.queue);
  ck_assert_int_lt (fabric_now_ns () - start_ns, MS (900));
  ck_assert_int_eq (op.status, -ECANCELED);
  pthread_join (thread, NULL);
  lane_close (&l);
  ends_close (&e);
}
END_TEST

START_TEST (test_wait_ends_at_its_deadline)
{
  struct fabric_op op;
  struct lane l = { 0 };
  struct ends e;
  int64_t start_ns;

  ends_open (&e);
  lane_up (&e, &l);
  fabric_service_end (l.service);
  l.service = NULL;
  op = ends_op (&e, FABRIC_READ, 0, 0, PAGE);
  start_ns = fabric_now_ns ();
  ck_assert_int_eq (fabric_queue_post (l.queue, &op), 0);
  ck_assert_int_eq (fabric_wait (&l.queue, 1, start_ns + MS (50)),
                    -ETIMEDOUT);
  ck_assert_int_lt (fabric_now_ns () - start_ns, MS (950));
  ck_assert (op.done);
  ck_assert_int_eq (op.status, -ECANCELED);
  ck_assert_int_lt (fabric_queue_post (l.queue, &op), 0);
  lane_close (&l);
  ends_close (&e);
}
END_TEST

START_TEST (test_rejected_lanes_leave_nothing)
{
  struct fabric_queue *q;
  struct ends e;
  unsigned before;

  ends_open (&e);
  before = ends_count_fds ();
  for (int i = 0; i < 20; i++) {
    lane_begin (&e, &q);
    fabric_request_reject (lane_request (&e, q));
    ck_assert_int_eq (queue_finish_connect (q), -ECONNREFUSED);
    ck_assert_int_eq (fabric_queue_step (q), -ECONNREFUSED);
    fabric_queue_free (q);
  }
  ck_assert_uint_eq (ends_count_fds (), before);
  ends_close (&e);
}
END_TEST

START_TEST (test_callers_that_leave)
{
  struct fabric_service *service;
  struct fabric_request *r;
  struct fabric_queue *q;
  struct ends e;
  unsigned before;

  ends_open (&e);
  before = ends_count_fds ();
  for (int i = 0; i < 20; i++) {
    lane_begin (&e, &q);
    r = lane_request (&e, q);
    fabric_queue_free (q);
    if (i % 2)
      fabric_request_reject (r);
    else if (fabric_service_accept (r, e.donor_domain, &service) == 0)
      fabric_service_end (service);
  }
  ck_assert_uint_eq (ends_count_fds (), before);
  ends_close (&e);
}
END_TEST

/* What a channel to this address ends with. */
static int
fate (const char *name, int64_t timeout_ns)
{
  struct sockaddr_in addr = {
    .sin_family = AF_INET, .sin_port = htons (20000),
  };
  struct fabric_channel *c;
  char buf[FABRIC_MESSAGE_MAX] = { 0 };
  int r;

  ck_assert_int_eq (inet_pton (AF_INET, name, &addr.sin_addr), 1);
  ck_assert_int_eq (fabric_channel_connect
                    (&fabric_verbs, (struct sockaddr *) &addr, sizeof addr,
                     timeout_ns, &c), 0);
  r = receive (c, buf);
  ck_assert_int_eq (fabric_channel_receive (c, buf, sizeof buf), r);
  ck_assert_int_eq (fabric_channel_send (c, buf, 1), r);
  fabric_channel_close (c);
  return r;
}

/* Nobody has this address, but on the machine's dummy network nobody says
 * so either.
 */
START_TEST (test_hung_connect_is_timed)
{
  int64_t start_ns = fabric_now_ns ();

  if (strcmp (ends_host, DEFAULT_HOST) != 0)
    return;
  ck_assert_int_eq (fate ("10.7.0.77", MS (700)), -ETIMEDOUT);
  ck_assert_int_ge (fabric_now_ns () - start_ns, MS (650));
  ck_assert_int_lt (fabric_now_ns () - start_ns, MS (1500));
}
END_TEST

/* TEST-NET-1: no RDMA device leads there, and often no route at all. */
START_TEST (test_no_device_leads_there)
{
  int r = fate ("192.0.2.1", S (2));

  ck_assert (r == -ENODEV || r == -ENETUNREACH);
}
END_TEST

/* FABRIC_OTHER_ADDRESS, if set, is on another RDMA device of this machine. */
START_TEST (test_lane_over_another_device)
{
  static const struct fabric_preface preface = { .kind = FABRIC_LANE };
  const char *host = ends_host;
  struct sockaddr_storage addr;
  struct fabric_listener *other;
  struct fabric_service *service;
  struct fabric_channel *c;
  struct fabric_queue *q;
  uint8_t buf[FABRIC_MESSAGE_MAX];
  struct ends e;
  socklen_t len;

  ends_open (&e);
  ends_host = getenv ("FABRIC_OTHER_ADDRESS");
  other = ends_listen (&addr, &len);
  ends_host = host;

  ck_assert_int_eq (fabric_queue_connect (e.borrower_domain,
                                          (struct sockaddr *) &addr, len,
                                          &preface, S (2), &q), 0);
  ck_assert_int_eq (queue_finish_connect (q), -EXDEV);
  fabric_queue_free (q);

  ck_assert_int_eq (fabric_channel_connect (&fabric_verbs,
                                            (struct sockaddr *) &addr, len,
                                            S (2), &c), 0);
  while (fabric_channel_device (c) == NULL) {
    wait_fd (fabric_channel_fd (c));
    ck_assert_int_eq (fabric_channel_receive (c, buf, sizeof buf), 0);
  }
  ck_assert_ptr_ne (fabric_channel_device (c),
                    fabric_channel_device (e.borrower.channel));
  while (poll (&(struct pollfd) { .fd = fabric_listener_fd (other),
                                  .events = POLLIN }, 1, 10) == 0)
    ck_assert_int_eq (fabric_channel_receive (c, buf, sizeof buf), 0);
  ck_assert_int_eq (fabric_service_accept (ends_accept (other),
                                           e.donor_domain, &service), -EXDEV);
  ck_assert_int_eq (receive (c, buf), -ECONNREFUSED);
  fabric_channel_close (c);
  fabric_listener_close (other);
  ends_close (&e);
}
END_TEST

/* One way only, so that the receiver's bare messages let the sender go on.
 */
START_TEST (test_one_way_flow)
{
  uint8_t buf[FABRIC_MESSAGE_MAX];
  uint32_t sent = 0, got = 0;
  struct ends e;
  int r = 0;

  ends_open (&e);
  while (got < 1000) {
    while (sent < 1000 && (r = fabric_channel_send (e.donor.channel, &sent,
                                                    sizeof sent)) == 0)
      sent++;
    ck_assert (r == 0 || r == -ENOBUFS);
    ck_assert_int_eq (talker_receive (&e.borrower, &e.donor, buf),
                      sizeof got);
    ck_assert_mem_eq (buf, &got, sizeof got);
    got++;
  }
  ends_close (&e);
}
END_TEST

/* Long enough that without credits the device would have given up. */
START_TEST (test_messages_not_taken)
{
  uint8_t buf[FABRIC_MESSAGE_MAX] = { 0 };
  struct fabric_channel *donor;
  struct ends e;
  int64_t until_ns;
  int sent = 0, r;

  ends_open (&e);
  donor = e.donor.channel;
  while ((r = fabric_channel_send (donor, buf, 8)) == 0)
    sent++;
  ck_assert_int_eq (r, -ENOBUFS);
  ck_assert_int_ge (sent, 64);
  until_ns = fabric_now_ns () + S (1);
  while (fabric_now_ns () < until_ns) {
    ck_assert_int_eq (fabric_channel_receive (donor, buf, sizeof buf), 0);
    ck_assert_int_eq (fabric_channel_send (donor, buf, 8), -ENOBUFS);
    poll (NULL, 0, 10);
  }
  while (sent-- > 0)
    ck_assert_int_eq (receive (e.borrower.channel, buf), 8);
  while ((r = fabric_channel_send (donor, buf, 8)) == -ENOBUFS) {
    wait_fd (fabric_channel_fd (donor));
    ck_assert_int_eq (fabric_channel_receive (donor, buf, sizeof buf), 0);
  }
  ck_assert_int_eq (r, 0);
  ends_close (&e);
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
  struct rdma_conn_param param;
  int result;
  pthread_t thread;
};

static void *
stranger_run (void *arg)
{
  struct stranger *x = arg;

  x->result = rdma_connect (x->id, &x->param);
  return NULL;
}

/* Begin to connect with this as the preface. */
static void
stranger_begin (struct stranger *x, struct sockaddr_storage *addr,
                const void *preface, uint8_t len)
{
  struct ibv_qp_init_attr attr = {
    .cap = { .max_send_wr = 128, .max_recv_wr = 128,
             .max_send_sge = 1, .max_recv_sge = 1 },
    .qp_type = IBV_QPT_RC,
    .sq_sig_all = 1,
  };

  *x = (struct stranger) {
    .param = { .private_data = preface, .private_data_len = len,
               .retry_count = 6 },
  };
  /* Without an event channel every step waits for its end. */
  ck_assert_int_eq (rdma_create_id (NULL, &x->id, NULL, RDMA_PS_TCP), 0);
  ck_assert_int_eq (rdma_resolve_addr (x->id, NULL, (struct sockaddr *) addr,
                                       2000), 0);
  ck_assert_int_eq (rdma_resolve_route (x->id, 2000), 0);
  ck_assert_int_eq (rdma_create_qp (x->id, NULL, &attr), 0);
  x->mr = ibv_reg_mr (x->id->pd, x->buffer, sizeof x->buffer,
                      IBV_ACCESS_LOCAL_WRITE);
  ck_assert_ptr_nonnull (x->mr);
  ck_assert_int_eq (pthread_create (&x->thread, NULL, stranger_run, x), 0);
}

static void
stranger_end (struct stranger *x)
{
  rdma_destroy_qp (x->id);
  ibv_dereg_mr (x->mr);
  rdma_destroy_id (x->id);
}

/* Our end of a control connection with a stranger. */
static struct fabric_channel *
stranger_channel (struct stranger *x)
{
  struct wire_preface preface;
  struct sockaddr_storage addr;
  struct fabric_listener *l;
  struct fabric_channel *c;
  socklen_t len;

  l = ends_listen (&addr, &len);
  preface_encode (&(struct fabric_preface) { .kind = FABRIC_CONTROL },
                  &preface);
  stranger_begin (x, &addr, &preface, sizeof preface);
  ck_assert_int_eq (fabric_channel_accept (ends_accept (l), &c), 0);
  pthread_join (x->thread, NULL);
  ck_assert_int_eq (x->result, 0);
  fabric_listener_close (l);
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
check_ends (struct fabric_channel *c, int with)
{
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int r;

  while ((r = receive (c, buf)) > 0)
    ;
  ck_assert_int_eq (r, with);
  ck_assert_int_eq (fabric_channel_send (c, buf, 1), with);
  fabric_channel_close (c);
}

static const struct {
  enum ibv_wr_opcode opcode;
  uint32_t len, imm;
  int error;
} rude[] = {
  { IBV_WR_SEND, 8, 0, -EPROTO },             /* does not say what it took */
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
  check_ends (c, rude[_i].error);
  stranger_end (&x);
}
END_TEST

/* Messages of one byte; they have arrived on return. */
static void
stranger_send_many (struct stranger *x, int count)
{
  struct ibv_wc wc;

  for (int i = 0; i < count; i++)
    stranger_send (x, IBV_WR_SEND_WITH_IMM, 1, 0);
  for (int i = 0; i < count; i++)
    ck_assert_int_eq (rdma_get_send_comp (x->id, &wc), 1);
}

START_TEST (test_peer_that_sends_too_much)
{
  struct stranger x;
  struct fabric_channel *c = stranger_channel (&x);

  stranger_send_many (&x, 81);
  check_ends (c, -EPROTO);
  stranger_end (&x);
}
END_TEST

START_TEST (test_what_arrived_comes_before_the_end)
{
  struct stranger x;
  struct fabric_channel *c = stranger_channel (&x);
  int events = verbs_channel_id (c)->channel->fd;
  uint8_t buf[FABRIC_MESSAGE_MAX];

  wait_fd (events);             /* ESTABLISHED */
  ck_assert_int_eq (fabric_channel_receive (c, buf, sizeof buf), 0);
  stranger_send_many (&x, 10);
  stranger_end (&x);
  wait_fd (events);             /* DISCONNECTED */
  for (int i = 0; i < 10; i++)
    ck_assert_int_eq (fabric_channel_receive (c, buf, sizeof buf), 1);
  check_ends (c, -ECONNRESET);
}
END_TEST

static const struct { uint8_t len, flip; } malformed[] = {
  { 0, 0 }, { 8, 0 }, { 24, 1 }, { 24, 5 }, { 24, 7 }, { 24, 23 },
};

/* They are turned away without the caller of accept seeing them. */
START_TEST (test_malformed_preface)
{
  union { struct wire_preface wire; uint8_t bytes[24]; } preface;
  struct sockaddr_storage addr;
  struct fabric_listener *l;
  struct fabric_request *r;
  struct stranger x;
  socklen_t len;

  l = ends_listen (&addr, &len);
  preface_encode (&(struct fabric_preface) { .kind = FABRIC_CONTROL },
                  &preface.wire);
  preface.bytes[malformed[_i].flip] ^= 0x80;
  stranger_begin (&x, &addr, &preface, malformed[_i].len);
  wait_fd (fabric_listener_fd (l));
  ck_assert_int_eq (fabric_listener_accept (l, &r), -EAGAIN);
  pthread_join (x.thread, NULL);
  ck_assert_int_eq (x.result, -1);
  stranger_end (&x);
  fabric_listener_close (l);
}
END_TEST

static TCase *
verbs_cases (void)
{
  TCase *t = tcase_create ("verbs");

  tcase_set_timeout (t, TEST_TIMEOUT_S);
  tcase_add_test (t, test_key_of_another_session);
  tcase_add_test (t, test_beyond_the_region);
  tcase_add_test (t, test_removed_and_local_regions);
  tcase_add_test (t, test_lost_donor_is_noticed_in_time);
  tcase_add_test (t, test_service_ends_in_a_storm);
  tcase_add_test (t, test_break_in_a_storm);
  tcase_add_test (t, test_waiter_is_woken);
  tcase_add_test (t, test_wait_ends_at_its_deadline);
  tcase_add_test (t, test_rejected_lanes_leave_nothing);
  tcase_add_test (t, test_callers_that_leave);
  tcase_add_test (t, test_hung_connect_is_timed);
  tcase_add_test (t, test_no_device_leads_there);
  if (getenv ("FABRIC_OTHER_ADDRESS"))
    tcase_add_test (t, test_lane_over_another_device);
  tcase_add_test (t, test_one_way_flow);
  tcase_add_test (t, test_messages_not_taken);
  tcase_add_test (t, test_what_arrived_comes_before_the_end);
  tcase_add_test (t, test_ack_timeout);
  tcase_add_loop_test (t, test_rude_peer, 0, sizeof rude / sizeof *rude);
  tcase_add_test (t, test_peer_that_sends_too_much);
  tcase_add_loop_test (t, test_malformed_preface, 0,
                       sizeof malformed / sizeof *malformed);
  return t;
}

int
main (void)
{
  const char *host = getenv ("FABRIC_ADDRESS");
  Suite *suite;
  int r;

  r = fabric_available (&fabric_verbs);
  if (r < 0) {
    fprintf (stderr, "skipped: no RDMA device: %s\n", strerror (-r));
    return 77;
  }
  suite = conformance_suite (&fabric_verbs, host ? host : DEFAULT_HOST);
  suite_add_tcase (suite, verbs_cases ());
  return conformance_run (suite);
}
