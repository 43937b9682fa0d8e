#include "nbdkit-plugin/registration.h"

#include <errno.h>
#include <stdlib.h>

void
registrations_init (struct registrations *r, void *memory, size_t bytes)
{
  *r = (struct registrations) { .memory = memory, .bytes = bytes };
}

static void
free_one (struct registration *one)
{
  if (one->region)
    fabric_region_remove (one->region);
  if (one->domain)
    fabric_domain_free (one->domain);
  free (one);
}

static int
make (struct registrations *r, struct fabric_channel *c,
      struct registration *one)
{
  int error = fabric_domain_create (c, &one->domain);

  if (error < 0)
    return error;
  return fabric_region_add (one->domain, r->memory, r->bytes, false,
                            &one->region);
}

const struct registration *
registrations_get (struct registrations *r, struct fabric_channel *c,
                   int *error)
{
  const void *device = fabric_channel_device (c);
  struct registration *one;

  for (one = r->list; one; one = one->next)
    if (one->ops == c->ops && one->device == device)
      return one;

  one = calloc (1, sizeof *one);
  if (!one) {
    *error = -ENOMEM;
    return NULL;
  }
  one->ops = c->ops;
  one->device = device;
  *error = make (r, c, one);
  if (*error < 0) {
    free_one (one);
    return NULL;
  }
  one->next = r->list;
  r->list = one;
  return one;
}

void
registrations_free (struct registrations *r)
{
  while (r->list) {
    struct registration *one = r->list;
    r->list = one->next;
    free_one (one);
  }
}
