#include <stdlib.h>

#include "fabric/verbs.h"

/* Flow control: a side sends at most SLOTS messages more than its peer has
 * said it took from fabric_channel_receive.  Every SEND carries as
 * immediate data how many messages the sender has taken so far.  A side
 * that has nothing to send says so in a bare SEND, without data, as soon
 * as it took CREDIT_BATCH more than it said; SLOTS has room for what a
 * peer took and did not say.  So there is a RECV for every SEND of a peer
 * that keeps the rules: SLOTS with data, and at most BARE_MAX without
 * before it must have heard from us in between.
 */
enum {
  PROMISED = 64,                /* by fabric_channel_send */
  CREDIT_BATCH = 16,
  SLOTS = PROMISED + CREDIT_BATCH,
  BARE_MAX = SLOTS / CREDIT_BATCH,
  RECVS = SLOTS + BARE_MAX,
  SENDS = SLOTS + BARE_MAX,
  POLL_BATCH = 16,
  BUFFER_ALIGN = 4096,
  BUFFERS_SIZE = (RECVS + SLOTS) * FABRIC_MESSAGE_MAX,
};

/* wr_id: what completed, and in which slot. */
enum work { WORK_RECV, WORK_SEND, WORK_BARE, WORK_BITS = 2 };

static uint64_t
work_id (enum work work, unsigned slot)
{
  return (uint64_t) slot << WORK_BITS | work;
}

struct message_in { unsigned slot, len; };

/* The counters of messages only grow, and wrap.  Going out:
 * completed <= sent <= queued, taken_by_peer <= sent, and slots are used
 * again when both completed and taken.
 */
struct verbs_channel {
  struct fabric_channel head;
  struct verbs_cm cm;
  struct verbs_cq cq;
  struct ibv_pd *pd;
  struct ibv_mr *mr;
  uint8_t *buffers;             /* RECVS and then SLOTS messages */
  bool up;                      /* may send */
  int status;                   /* 0, or why it ended */

  uint32_t queued, sent, completed, taken_by_peer;
  unsigned lengths[SLOTS];

  uint32_t arrived, taken, told;
  struct message_in inbox[SLOTS]; /* arrived and not taken */
  unsigned bare;                /* bare SENDs not completed */
};

static void
end (struct verbs_channel *c, int status)
{
  if (c->status != 0)
    return;
  c->status = status;
  verbs_cm_alarm (&c->cm);
}

static uint8_t *
recv_buffer (struct verbs_channel *c, unsigned slot)
{
  return c->buffers + slot * FABRIC_MESSAGE_MAX;
}

static uint8_t *
send_buffer (struct verbs_channel *c, unsigned slot)
{
  return c->buffers + (RECVS + slot) * FABRIC_MESSAGE_MAX;
}

static int
post_recv (struct verbs_channel *c, unsigned slot)
{
  struct ibv_sge sge = {
    .addr = (uintptr_t) recv_buffer (c, slot),
    .length = FABRIC_MESSAGE_MAX,
    .lkey = c->mr->lkey,
  };
  struct ibv_recv_wr *bad, wr = {
    .wr_id = work_id (WORK_RECV, slot),
    .sg_list = &sge,
    .num_sge = 1,
  };

  return -ibv_post_recv (c->cm.id->qp, &wr, &bad);
}

/* A message from a slot, or a bare one. */
static int
post_send (struct verbs_channel *c, enum work work, unsigned slot)
{
  struct ibv_sge sge = {
    .addr = (uintptr_t) send_buffer (c, slot),
    .length = c->lengths[slot],
    .lkey = c->mr->lkey,
  };
  struct ibv_send_wr *bad, wr = {
    .wr_id = work_id (work, slot),
    .sg_list = &sge,
    .num_sge = work == WORK_SEND,
    .opcode = IBV_WR_SEND_WITH_IMM,
    .send_flags = IBV_SEND_SIGNALED,
    .imm_data = htobe32 (c->taken),
  };
  int error;

  error = ibv_post_send (c->cm.id->qp, &wr, &bad);
  if (error != 0)
    return -error;
  c->told = c->taken;
  return 0;
}

/* Send what may be sent now. */
static void
push (struct verbs_channel *c)
{
  int r = 0;

  if (!c->up || c->status != 0)
    return;
  while (r == 0 && c->sent != c->queued) {
    r = post_send (c, WORK_SEND, c->sent % SLOTS);
    if (r == 0)
      c->sent++;
  }
  if (r == 0 && c->taken - c->told >= CREDIT_BATCH && c->bare < BARE_MAX) {
    r = post_send (c, WORK_BARE, 0);
    if (r == 0)
      c->bare++;
  }
  if (r < 0)
    end (c, r);
}

/* -EPROTO if the peer breaks the rules of flow control. */
static int
arrive (struct verbs_channel *c, const struct ibv_wc *wc)
{
  unsigned slot = wc->wr_id >> WORK_BITS;
  uint32_t told;

  if (wc->opcode != IBV_WC_RECV || !(wc->wc_flags & IBV_WC_WITH_IMM))
    return -EPROTO;
  told = be32toh (wc->imm_data) - c->taken_by_peer;
  if (told > c->sent - c->taken_by_peer)
    return -EPROTO;
  c->taken_by_peer += told;
  c->up = true;

  if (wc->byte_len == 0)
    return told == 0 ? -EPROTO : post_recv (c, slot);
  if (c->arrived - c->taken == SLOTS)
    return -EPROTO;
  c->inbox[c->arrived++ % SLOTS] = (struct message_in) { slot, wc->byte_len };
  return 0;
}

static int
complete (struct verbs_channel *c, const struct ibv_wc *wc)
{
  if (wc->status != IBV_WC_SUCCESS)
    return -ECONNRESET;
  switch (wc->wr_id & ((1 << WORK_BITS) - 1)) {
  case WORK_SEND:
    c->completed++;
    return 0;
  case WORK_BARE:
    c->bare--;
    return 0;
  default:
    return arrive (c, wc);
  }
}

/* Does not take the completion queue's wake-up, so the descriptor stays
 * readable for what a send finds here.
 */
static void
reap (struct verbs_channel *c)
{
  struct ibv_wc wc[POLL_BATCH];
  int n, r;

  if (c->cm.id->qp == NULL)
    return;
  do {
    n = ibv_poll_cq (c->cq.cq, POLL_BATCH, wc);
    if (n < 0)
      end (c, -EIO);
    for (int i = 0; i < n; i++) {
      r = complete (c, &wc[i]);
      if (r < 0)
        end (c, r);
    }
  } while (n == POLL_BATCH);
}

/* Once the device is known. */
static int
create_qp (struct verbs_channel *c)
{
  struct ibv_context *device = c->cm.id->verbs;
  struct ibv_qp_init_attr attr = {
    .cap = { .max_send_wr = SENDS, .max_recv_wr = RECVS,
             .max_send_sge = 1, .max_recv_sge = 1 },
    .qp_type = IBV_QPT_RC,
  };
  int r;

  c->pd = ibv_alloc_pd (device);
  if (c->pd == NULL)
    return verbs_errno ();
  c->mr = ibv_reg_mr (c->pd, c->buffers, BUFFERS_SIZE, IBV_ACCESS_LOCAL_WRITE);
  if (c->mr == NULL)
    return verbs_errno ();
  r = verbs_cq_create (&c->cq, device, SENDS + RECVS);
  if (r == 0)
    r = verbs_cm_watch_fd (&c->cm, c->cq.channel->fd);
  if (r < 0)
    return r;
  attr.send_cq = attr.recv_cq = c->cq.cq;
  if (rdma_create_qp (c->cm.id, c->pd, &attr) == -1)
    return verbs_errno ();
  for (unsigned slot = 0; r == 0 && slot < RECVS; slot++)
    r = post_recv (c, slot);
  return r;
}

static struct verbs_channel *
channel_new (void)
{
  struct verbs_channel *c;
  void *buffers;

  c = calloc (1, sizeof *c);
  if (c == NULL)
    return NULL;
  if (posix_memalign (&buffers, BUFFER_ALIGN, BUFFERS_SIZE) != 0) {
    free (c);
    return NULL;
  }
  c->head.ops = &fabric_verbs;
  c->cm = VERBS_CM_CLOSED;
  c->buffers = buffers;
  return c;
}

int
verbs_channel_accept (struct fabric_request *fr, struct fabric_channel **ret)
{
  struct verbs_request *r = (struct verbs_request *) fr;
  struct verbs_channel *c;
  int error;

  c = channel_new ();
  if (c == NULL) {
    verbs_request_reject (fr);
    return -ENOMEM;
  }
  c->cm = r->cm;
  r->reads = 0;
  error = verbs_cm_watch (&c->cm);
  if (error == 0)
    error = create_qp (c);
  if (error == 0)
    error = verbs_cq_arm (&c->cq);
  if (error == 0)
    error = verbs_request_accept (r);
  if (error < 0)
    rdma_reject (c->cm.id, NULL, 0);
  free (r);
  if (error < 0) {
    verbs_channel_close (&c->head);
    return error;
  }
  *ret = &c->head;
  return 0;
}

int
verbs_channel_connect (const struct sockaddr *addr, socklen_t len,
                       int64_t timeout_ns, struct fabric_channel **ret)
{
  struct verbs_channel *c;
  int r;

  r = verbs_available ();
  if (r < 0)
    return r;
  c = channel_new ();
  if (c == NULL)
    return -ENOMEM;
  r = verbs_cm_create (&c->cm);
  if (r == 0)
    r = verbs_cm_watch (&c->cm);
  if (r < 0) {
    verbs_channel_close (&c->head);
    return r;
  }
  r = verbs_cm_resolve (&c->cm, addr, len, timeout_ns);
  if (r < 0)
    end (c, r);
  *ret = &c->head;
  return 0;
}

int
verbs_channel_fd (struct fabric_channel *c)
{
  return ((struct verbs_channel *) c)->cm.poll_fd;
}

const void *
verbs_channel_device (const struct fabric_channel *c)
{
  return ((const struct verbs_channel *) c)->cm.id->verbs;
}

const struct rdma_cm_id *
verbs_channel_id (const struct fabric_channel *c)
{
  return ((const struct verbs_channel *) c)->cm.id;
}

/* Move the connection along. */
static void
step (struct verbs_channel *c)
{
  const struct fabric_preface preface = { .kind = FABRIC_CONTROL };
  int r;

  while (c->status == 0 && (r = verbs_cm_step (&c->cm)) != VERBS_NOTHING) {
    if (r == VERBS_ROUTED) {
      r = create_qp (c);
      if (r == 0)
        r = verbs_cm_connect (&c->cm, &preface, 0);
    }
    else if (r == VERBS_ESTABLISHED) {
      verbs_cm_stop_timer (&c->cm);
      c->up = true;
      r = 0;
    }
    if (r < 0)
      end (c, r);
  }
}

static void
progress (struct verbs_channel *c)
{
  int r;

  step (c);
  /* Armed before it is found empty, or a completion could slip in
   * between.  After the end nothing need wake anybody.
   */
  if (c->status == 0 && c->cm.id->qp != NULL) {
    r = verbs_cq_arm (&c->cq);
    if (r < 0)
      end (c, r);
  }
  reap (c);
  push (c);
}

int
verbs_channel_receive (struct fabric_channel *fc, void *buf, size_t size)
{
  struct verbs_channel *c = (struct verbs_channel *) fc;
  const struct message_in *m;
  int r;

  if (c->arrived == c->taken)
    progress (c);
  /* What arrived before the end comes before the end. */
  if (c->arrived == c->taken)
    return c->status;

  m = &c->inbox[c->taken % SLOTS];
  if (m->len > size)
    return -EMSGSIZE;
  memcpy (buf, recv_buffer (c, m->slot), m->len);
  c->taken++;
  r = post_recv (c, m->slot);
  if (r < 0)
    end (c, r);
  push (c);
  return m->len;
}

static bool
full (const struct verbs_channel *c)
{
  return c->queued - c->completed == SLOTS ||
         c->queued - c->taken_by_peer == SLOTS;
}

int
verbs_channel_send (struct fabric_channel *fc, const void *buf, size_t len)
{
  struct verbs_channel *c = (struct verbs_channel *) fc;
  unsigned slot = c->queued % SLOTS;

  if (len == 0 || len > FABRIC_MESSAGE_MAX)
    return -EMSGSIZE;
  if (c->status == 0 && full (c))
    reap (c);
  if (c->status != 0)
    return c->status;
  if (full (c))
    return -ENOBUFS;

  memcpy (send_buffer (c, slot), buf, len);
  c->lengths[slot] = len;
  c->queued++;
  push (c);
  return c->status;
}

void
verbs_channel_close (struct fabric_channel *fc)
{
  struct verbs_channel *c = (struct verbs_channel *) fc;

  verbs_cm_destroy_qp (&c->cm);
  verbs_cq_destroy (&c->cq);
  if (c->mr != NULL)
    ibv_dereg_mr (c->mr);
  if (c->pd != NULL)
    ibv_dealloc_pd (c->pd);
  verbs_cm_close (&c->cm);
  free (c->buffers);
  free (c);
}
