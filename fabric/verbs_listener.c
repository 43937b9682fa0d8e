#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

#include "fabric/verbs.h"

enum {
  BACKLOG = 128,
  /* Callers turned away in one call; the descriptor stays readable. */
  BATCH = 64,
};

struct verbs_listener {
  struct fabric_listener head;
  struct verbs_cm cm;
};

int
verbs_listen (const struct sockaddr *addr, socklen_t len,
              struct fabric_listener **ret)
{
  struct sockaddr_storage copy = { 0 };
  struct verbs_listener *l;
  int r;

  r = verbs_available ();
  if (r < 0)
    return r;
  if (len > sizeof copy)
    return -EINVAL;
  memcpy (&copy, addr, len);

  l = calloc (1, sizeof *l);
  if (l == NULL)
    return -ENOMEM;
  l->head.ops = &fabric_verbs;
  r = verbs_cm_create (&l->cm);
  if (r < 0)
    goto err;
  if (rdma_bind_addr (l->cm.id, (struct sockaddr *) &copy) == -1 ||
      rdma_listen (l->cm.id, BACKLOG) == -1) {
    r = verbs_errno ();
    verbs_cm_close (&l->cm);
    goto err;
  }
  *ret = &l->head;
  return 0;

err:
  free (l);
  return r;
}

int
verbs_listener_fd (struct fabric_listener *l)
{
  return ((struct verbs_listener *) l)->cm.events->fd;
}

void
verbs_listener_close (struct fabric_listener *fl)
{
  struct verbs_listener *l = (struct verbs_listener *) fl;

  verbs_cm_close (&l->cm);
  free (l);
}

static void
print_peer (const struct sockaddr *addr, char *buf, size_t size)
{
  char host[FABRIC_PEER_MAX], port[8];
  bool v6 = addr->sa_family == AF_INET6;

  if (getnameinfo (addr, v6 ? sizeof (struct sockaddr_in6)
                            : sizeof (struct sockaddr_in),
                   host, sizeof host, port, sizeof port,
                   NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    snprintf (buf, size, "?");
  else if (snprintf (buf, size, v6 ? "[%s]:%s" : "%s:%s", host, port) >=
           (int) size)
    buf[size - 1] = '\0';
}

/* NULL if the caller was turned away. */
static struct verbs_request *
take_caller (struct rdma_cm_id *id, const struct fabric_preface *preface,
             uint8_t reads)
{
  struct verbs_request *r;

  r = calloc (1, sizeof *r);
  if (r == NULL) {
    rdma_reject (id, NULL, 0);
    rdma_destroy_id (id);
    return NULL;
  }
  if (verbs_cm_adopt (&r->cm, id) < 0) {
    free (r);
    return NULL;
  }
  r->head.ops = &fabric_verbs;
  r->preface = *preface;
  r->reads = reads;
  print_peer (rdma_get_peer_addr (id), r->peer, sizeof r->peer);
  return r;
}

static bool
is_removal (const struct verbs_listener *l, const struct rdma_cm_event *event)
{
  return event->event == RDMA_CM_EVENT_DEVICE_REMOVAL && event->id == l->cm.id;
}

/* Consumes the event.  It must be acknowledged before the id moves to
 * another event channel, or the two wait for each other.
 */
static struct verbs_request *
handle_event (struct rdma_cm_event *event)
{
  struct rdma_conn_param param = event->param.conn;
  struct rdma_cm_id *id = event->id;
  bool request = event->event == RDMA_CM_EVENT_CONNECT_REQUEST;
  struct fabric_preface preface;
  int r = -EBADMSG;

  if (request && param.private_data != NULL)
    r = preface_decode (param.private_data, param.private_data_len, &preface);
  rdma_ack_cm_event (event);
  if (!request)
    return NULL;
  if (r < 0) {
    rdma_reject (id, NULL, 0);
    rdma_destroy_id (id);
    return NULL;
  }
  return take_caller (id, &preface, param.responder_resources);
}

int
verbs_listener_accept (struct fabric_listener *fl, struct fabric_request **ret)
{
  struct verbs_listener *l = (struct verbs_listener *) fl;
  struct rdma_cm_event *event;
  struct verbs_request *r;

  for (int i = 0; i < BATCH; i++) {
    if (rdma_get_cm_event (l->cm.events, &event) == -1)
      return -EAGAIN;
    if (is_removal (l, event)) {
      rdma_ack_cm_event (event);
      return -ENODEV;
    }
    r = handle_event (event);
    if (r != NULL) {
      *ret = &r->head;
      return 0;
    }
  }
  return -EAGAIN;
}

const struct fabric_preface *
verbs_request_preface (const struct fabric_request *r)
{
  return &((const struct verbs_request *) r)->preface;
}

const char *
verbs_request_peer (const struct fabric_request *r)
{
  return ((const struct verbs_request *) r)->peer;
}

void
verbs_request_reject (struct fabric_request *fr)
{
  struct verbs_request *r = (struct verbs_request *) fr;

  rdma_reject (r->cm.id, NULL, 0);
  verbs_cm_close (&r->cm);
  free (r);
}

int
verbs_request_accept (struct verbs_request *r)
{
  struct rdma_conn_param param = {
    .responder_resources = r->reads,
    .rnr_retry_count = VERBS_RNR_RETRIES,
  };

  return rdma_accept (r->cm.id, &param) == 0 ? 0 : verbs_errno ();
}
