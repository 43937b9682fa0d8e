#include <stdlib.h>

#include "fabric/verbs.h"

static int
pin_device (struct verbs_cm *pin, const struct rdma_cm_id *id)
{
  struct sockaddr_storage addr = { 0 };
  const struct sockaddr *local;
  int r;

  local = rdma_get_local_addr ((struct rdma_cm_id *) id);
  if (local->sa_family == AF_INET) {
    memcpy (&addr, local, sizeof (struct sockaddr_in));
    ((struct sockaddr_in *) &addr)->sin_port = 0;
  } else {
    memcpy (&addr, local, sizeof (struct sockaddr_in6));
    ((struct sockaddr_in6 *) &addr)->sin6_port = 0;
  }
  r = verbs_cm_create (pin);
  if (r < 0)
    return r;
  if (rdma_bind_addr (pin->id, (struct sockaddr *) &addr) == -1)
    r = verbs_errno ();
  else if (pin->id->verbs != id->verbs)
    r = -ENODEV;
  if (r < 0)
    verbs_cm_close (pin);
  return r;
}

int
verbs_domain_create (struct fabric_channel *c, struct fabric_domain **ret)
{
  const struct rdma_cm_id *id = verbs_channel_id (c);
  struct verbs_domain *d;
  int r;

  if (id->verbs == NULL)
    return -ENOTCONN;
  d = calloc (1, sizeof *d);
  if (d == NULL)
    return -ENOMEM;
  d->head.ops = &fabric_verbs;
  r = pin_device (&d->pin, id);
  if (r < 0)
    goto err;
  d->pd = ibv_alloc_pd (id->verbs);
  if (d->pd == NULL) {
    r = verbs_errno ();
    verbs_cm_close (&d->pin);
    goto err;
  }
  *ret = &d->head;
  return 0;

err:
  free (d);
  return r;
}

void
verbs_domain_free (struct fabric_domain *fd)
{
  struct verbs_domain *d = (struct verbs_domain *) fd;

  ibv_dealloc_pd (d->pd);
  verbs_cm_close (&d->pin);
  free (d);
}

int
verbs_region_add (struct fabric_domain *fd, void *addr, size_t len,
                  bool remote, struct fabric_region **ret)
{
  struct verbs_domain *d = (struct verbs_domain *) fd;
  int access = IBV_ACCESS_LOCAL_WRITE;
  struct verbs_region *r;
  int error;

  if (remote)
    access |= IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
  r = malloc (sizeof *r);
  if (r == NULL)
    return -ENOMEM;
  r->head.ops = &fabric_verbs;
  r->mr = ibv_reg_mr (d->pd, addr, len, access);
  if (r->mr == NULL) {
    error = verbs_errno ();
    free (r);
    return error;
  }
  *ret = &r->head;
  return 0;
}

uint64_t
verbs_region_address (const struct fabric_region *r)
{
  return (uintptr_t) ((const struct verbs_region *) r)->mr->addr;
}

uint64_t
verbs_region_key (const struct fabric_region *r)
{
  return ((const struct verbs_region *) r)->mr->rkey;
}

int
verbs_region_remove (struct fabric_region *fr)
{
  struct verbs_region *r = (struct verbs_region *) fr;
  int error;

  /* A positive errno. */
  error = ibv_dereg_mr (r->mr);
  if (error != 0)
    return -error;
  free (r);
  return 0;
}
