#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fabric/verbs.h"

enum {
  POLL_BATCH = 16,
  NS_PER_S = 1000000000,
  /* A flush takes under a millisecond; longer and the device is at fault. */
  SETTLE_NS = NS_PER_S,
};

struct verbs_queue {
  struct fabric_queue head;
  struct verbs_cm cm;
  struct verbs_cq cq;
  struct verbs_domain *domain;
  struct fabric_preface preface;
  int error;                    /* the owner's: 0 while it stands */
  struct fabric_op *first;      /* outstanding, in the order of posting, */
  struct fabric_op **last;      /* which is the order of completion */

  atomic_bool broken;
  /* Guards the life of the queue pair: queue_break comes from any
   * thread.  The owner holds it to create and destroy the queue pair,
   * not to use it.
   */
  pthread_mutex_t lock;
};

int
verbs_queue_connect (struct fabric_domain *d,
                     const struct sockaddr *addr, socklen_t len,
                     const struct fabric_preface *preface,
                     int64_t timeout_ns, struct fabric_queue **ret)
{
  struct verbs_queue *q;
  int r;

  q = calloc (1, sizeof *q);
  if (q == NULL)
    return -ENOMEM;
  q->head.ops = &fabric_verbs;
  q->domain = (struct verbs_domain *) d;
  q->preface = *preface;
  q->error = -ENOTCONN;
  q->last = &q->first;
  atomic_init (&q->broken, false);
  pthread_mutex_init (&q->lock, NULL);
  r = verbs_cm_create (&q->cm);
  if (r == 0)
    r = verbs_cm_watch (&q->cm);
  if (r < 0) {
    verbs_queue_free (&q->head);
    return r;
  }
  r = verbs_cm_resolve (&q->cm, addr, len, timeout_ns);
  if (r < 0) {
    q->error = r;
    verbs_cm_alarm (&q->cm);
  }
  *ret = &q->head;
  return 0;
}

int
verbs_queue_fd (struct fabric_queue *q)
{
  return ((struct verbs_queue *) q)->cm.poll_fd;
}

static int
create_qp (struct verbs_queue *q)
{
  struct ibv_qp_init_attr attr = {
    .cap = { .max_send_wr = FABRIC_QUEUE_DEPTH, .max_recv_wr = 1,
             .max_send_sge = 1, .max_recv_sge = 1 },
    .qp_type = IBV_QPT_RC,
    .sq_sig_all = 1,
  };
  int r;

  r = verbs_cq_create (&q->cq, q->cm.id->verbs, FABRIC_QUEUE_DEPTH);
  if (r < 0)
    return r;
  attr.send_cq = attr.recv_cq = q->cq.cq;
  pthread_mutex_lock (&q->lock);
  if (rdma_create_qp (q->cm.id, q->domain->pd, &attr) == -1)
    r = verbs_errno ();
  pthread_mutex_unlock (&q->lock);
  return r;
}

static int
connect_qp (struct verbs_queue *q)
{
  struct ibv_device_attr attr;
  int reads, r;

  if (q->cm.id->verbs != q->domain->pd->context)
    return -EXDEV;
  r = -ibv_query_device (q->cm.id->verbs, &attr);
  if (r == 0)
    r = create_qp (q);
  if (r < 0)
    return r;
  reads = attr.max_qp_init_rd_atom;
  if (reads > VERBS_READS_MAX)
    reads = VERBS_READS_MAX;
  return verbs_cm_connect (&q->cm, &q->preface, reads);
}

int
verbs_queue_step (struct fabric_queue *fq)
{
  struct verbs_queue *q = (struct verbs_queue *) fq;
  int r = 0;

  while (q->error == -ENOTCONN) {
    r = verbs_cm_step (&q->cm);
    if (atomic_load (&q->broken))
      r = -ECANCELED;
    if (r == VERBS_NOTHING)
      return -EAGAIN;
    if (r == VERBS_ROUTED)
      r = connect_qp (q);
    else if (r == VERBS_ESTABLISHED) {
      verbs_cm_stop_timer (&q->cm);
      q->error = 0;
    }
    if (r < 0)
      q->error = r;
  }
  return q->error;
}

static int
queue_error (struct verbs_queue *q)
{
  if (q->error != 0)
    return q->error;
  return atomic_load (&q->broken) ? -ECANCELED : 0;
}

int
verbs_queue_post (struct fabric_queue *fq, struct fabric_op *op)
{
  struct verbs_queue *q = (struct verbs_queue *) fq;
  struct ibv_sge sge = {
    .addr = (uintptr_t) op->local,
    .length = op->length,
    .lkey = ((struct verbs_region *) op->region)->mr->lkey,
  };
  struct ibv_send_wr *bad, wr = {
    .wr_id = (uintptr_t) op,
    .sg_list = &sge,
    .num_sge = 1,
    .opcode = op->type == FABRIC_READ ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
    .wr.rdma = { .remote_addr = op->remote, .rkey = op->key },
  };
  int r;

  if (op->length == 0 || op->length > FABRIC_TRANSFER_MAX ||
      op->key > UINT32_MAX)
    return -EINVAL;
  r = queue_error (q);
  if (r < 0)
    return r;
  if (q->head.outstanding == FABRIC_QUEUE_DEPTH)
    return -ENOBUFS;

  op->done = false;
  op->next = NULL;
  r = ibv_post_send (q->cm.id->qp, &wr, &bad);
  if (r != 0)
    return -r;
  *q->last = op;
  q->last = &op->next;
  q->head.outstanding++;
  return 0;
}

static int
status_error (enum ibv_wc_status status)
{
  switch (status) {
  case IBV_WC_SUCCESS: return 0;
  case IBV_WC_REM_ACCESS_ERR: return -EACCES;
  case IBV_WC_RETRY_EXC_ERR: return -ETIMEDOUT;
  case IBV_WC_WR_FLUSH_ERR: return -ECANCELED;
  default: return -EIO;
  }
}

static void
finish_first (struct verbs_queue *q, int status)
{
  struct fabric_op *op = q->first;

  q->first = op->next;
  if (q->first == NULL)
    q->last = &q->first;
  q->head.outstanding--;
  op->status = status;
  op->done = true;
}

int
verbs_queue_poll (struct fabric_queue *fq)
{
  struct verbs_queue *q = (struct verbs_queue *) fq;
  struct ibv_wc wc[POLL_BATCH];
  int n, status;

  /* What had to be ended without its completion may be gone. */
  if (q->cm.id->qp == NULL)
    return queue_error (q);
  do {
    n = ibv_poll_cq (q->cq.cq, POLL_BATCH, wc);
    if (n < 0 && q->error == 0)
      q->error = -EIO;
    for (int i = 0; i < n; i++) {
      status = status_error (wc[i].status);
      if (status < 0 && q->error == 0)
        q->error = status;
      finish_first (q, status);
    }
  } while (n == POLL_BATCH);
  return queue_error (q);
}

int
verbs_queue_arm (struct fabric_queue *fq, struct pollfd *pfd)
{
  struct verbs_queue *q = (struct verbs_queue *) fq;

  *pfd = (struct pollfd) { .fd = q->cq.channel->fd, .events = POLLIN };
  return verbs_cq_arm (&q->cq);
}

void
verbs_queue_break (struct fabric_queue *fq)
{
  struct verbs_queue *q = (struct verbs_queue *) fq;
  struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };

  pthread_mutex_lock (&q->lock);
  if (!atomic_exchange (&q->broken, true) &&
      q->cm.id != NULL && q->cm.id->qp != NULL)
    ibv_modify_qp (q->cm.id->qp, &attr, IBV_QP_STATE);
  pthread_mutex_unlock (&q->lock);
}

/* Sleeps at most left_ns for a completion. */
static void
sleep_on (struct verbs_queue *q, int64_t left_ns)
{
  struct pollfd pfd;

  if (verbs_queue_arm (&q->head, &pfd) < 0)
    pfd.fd = -1;
  verbs_queue_poll (&q->head);
  if (q->head.outstanding > 0)
    ppoll (&pfd, 1, &(struct timespec) { .tv_sec = left_ns / NS_PER_S,
                                         .tv_nsec = left_ns % NS_PER_S },
           NULL);
}

void
verbs_queue_settle (struct fabric_queue *fq)
{
  struct verbs_queue *q = (struct verbs_queue *) fq;
  int64_t end_ns = fabric_now_ns () + SETTLE_NS, left_ns;

  for (;;) {
    verbs_queue_poll (fq);
    left_ns = end_ns - fabric_now_ns ();
    if (q->head.outstanding == 0 || left_ns <= 0)
      break;
    sleep_on (q, left_ns);
  }
  if (q->head.outstanding == 0)
    return;

  /* Without its queue pair the device has no way to the memory. */
  pthread_mutex_lock (&q->lock);
  verbs_cm_destroy_qp (&q->cm);
  pthread_mutex_unlock (&q->lock);
  if (q->error == 0)
    q->error = -EIO;
  while (q->first != NULL)
    finish_first (q, -ECANCELED);
}

void
verbs_queue_free (struct fabric_queue *fq)
{
  struct verbs_queue *q = (struct verbs_queue *) fq;

  verbs_cm_destroy_qp (&q->cm);
  verbs_cq_destroy (&q->cq);
  verbs_cm_close (&q->cm);
  pthread_mutex_destroy (&q->lock);
  free (q);
}
