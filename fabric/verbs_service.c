#include <stdlib.h>

#include "fabric/verbs.h"

/* The device alone serves a lane: nothing is ever posted here, so the
 * completion queue, without which there is no queue pair, stays empty.
 */
struct verbs_service {
  struct fabric_service head;
  struct verbs_cm cm;
  struct ibv_cq *cq;
};

static int
create_qp (struct verbs_service *s, struct ibv_pd *pd)
{
  struct ibv_qp_init_attr attr = {
    .cap = { .max_send_wr = 1, .max_recv_wr = 1,
             .max_send_sge = 1, .max_recv_sge = 1 },
    .qp_type = IBV_QPT_RC,
  };

  s->cq = ibv_create_cq (pd->context, 1, NULL, NULL, 0);
  if (s->cq == NULL)
    return verbs_errno ();
  attr.send_cq = attr.recv_cq = s->cq;
  return rdma_create_qp (s->cm.id, pd, &attr) == 0 ? 0 : verbs_errno ();
}

/* READs a lane may have in flight: what the caller wants, as far as this
 * device can.
 */
static int
limit_reads (struct verbs_request *r)
{
  struct ibv_device_attr attr;
  int error;

  error = ibv_query_device (r->cm.id->verbs, &attr);
  if (error != 0)
    return -error;
  if (r->reads > VERBS_READS_MAX)
    r->reads = VERBS_READS_MAX;
  if (r->reads > attr.max_qp_rd_atom)
    r->reads = attr.max_qp_rd_atom;
  return 0;
}

int
verbs_service_accept (struct fabric_request *fr, struct fabric_domain *fd,
                      struct fabric_service **ret)
{
  struct verbs_request *r = (struct verbs_request *) fr;
  struct verbs_domain *d = (struct verbs_domain *) fd;
  struct verbs_service *s;
  int error;

  if (r->cm.id->verbs != d->pd->context) {
    verbs_request_reject (fr);
    return -EXDEV;
  }
  s = calloc (1, sizeof *s);
  if (s == NULL) {
    verbs_request_reject (fr);
    return -ENOMEM;
  }
  s->head.ops = &fabric_verbs;
  s->cm = r->cm;
  error = limit_reads (r);
  if (error == 0)
    error = create_qp (s, d->pd);
  if (error == 0)
    error = verbs_request_accept (r);
  if (error < 0)
    rdma_reject (s->cm.id, NULL, 0);
  free (r);
  if (error < 0) {
    verbs_service_end (&s->head);
    return error;
  }
  *ret = &s->head;
  return 0;
}

void
verbs_service_end (struct fabric_service *fs)
{
  struct verbs_service *s = (struct verbs_service *) fs;

  verbs_cm_destroy_qp (&s->cm);
  if (s->cq != NULL)
    ibv_destroy_cq (s->cq);
  verbs_cm_close (&s->cm);
  free (s);
}
