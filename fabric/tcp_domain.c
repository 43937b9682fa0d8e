#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

#include "fabric/tcp.h"

/* Keys are random, so their low bits spread the regions evenly. */
enum { BUCKETS = 256 };

struct tcp_region {
  struct fabric_region base;
  struct tcp_domain *domain;
  uint8_t *addr;
  size_t len;
  uint64_t key;                 /* 0: not for the peer */
  unsigned pins;                /* accesses inside; domain->lock */
  bool revoked;                 /* not in its bucket; domain->lock */
  struct tcp_region *next;      /* in its bucket; domain->lock */
};

struct tcp_domain {
  struct fabric_domain base;
  pthread_mutex_t lock;         /* services look regions up */
  struct tcp_region *buckets[BUCKETS];
};

int
tcp_domain_create (struct fabric_channel *c, struct fabric_domain **ret)
{
  struct tcp_domain *d = calloc (1, sizeof *d);

  (void) c;
  if (!d)
    return -ENOMEM;
  d->base.ops = &fabric_tcp;
  pthread_mutex_init (&d->lock, NULL);
  *ret = &d->base;
  return 0;
}

void
tcp_domain_free (struct fabric_domain *base)
{
  struct tcp_domain *d = (struct tcp_domain *) base;

  for (unsigned i = 0; i < BUCKETS; i++)
    assert (d->buckets[i] == NULL);
  pthread_mutex_destroy (&d->lock);
  free (d);
}

/* Where the region of this key is linked, or would be; domain->lock. */
static struct tcp_region **
find (struct tcp_domain *d, uint64_t key)
{
  struct tcp_region **r = &d->buckets[key % BUCKETS];

  while (*r && (*r)->key != key)
    r = &(*r)->next;
  return r;
}

/* Give the region a key that nobody can guess and link it. */
static int
grant (struct tcp_domain *d, struct tcp_region *r)
{
  struct tcp_region **place;

  for (;;) {
    if (getrandom (&r->key, sizeof r->key, 0) < 0)
      return -errno;
    if (r->key == 0)
      continue;
    pthread_mutex_lock (&d->lock);
    place = find (d, r->key);
    if (*place == NULL)
      break;
    pthread_mutex_unlock (&d->lock);
  }
  *place = r;
  pthread_mutex_unlock (&d->lock);
  return 0;
}

int
tcp_region_add (struct fabric_domain *base, void *addr, size_t len,
                bool remote, struct fabric_region **ret)
{
  struct tcp_domain *d = (struct tcp_domain *) base;
  struct tcp_region *r;
  int err = 0;

  if (!addr || len == 0)
    return -EINVAL;
  r = calloc (1, sizeof *r);
  if (!r)
    return -ENOMEM;
  r->base.ops = &fabric_tcp;
  r->domain = d;
  r->addr = addr;
  r->len = len;
  if (remote)
    err = grant (d, r);
  if (err < 0)
    free (r);
  else
    *ret = &r->base;
  return err;
}

/* Peers name bytes by offset: our addresses are none of their business. */
uint64_t
tcp_region_address (const struct fabric_region *base)
{
  (void) base;
  return 0;
}

uint64_t
tcp_region_key (const struct fabric_region *base)
{
  return ((const struct tcp_region *) base)->key;
}

int
tcp_region_remove (struct fabric_region *base)
{
  struct tcp_region *r = (struct tcp_region *) base;
  struct tcp_domain *d = r->domain;
  bool busy;

  pthread_mutex_lock (&d->lock);
  if (r->key != 0 && !r->revoked) {
    *find (d, r->key) = r->next;
    r->revoked = true;
  }
  busy = r->pins > 0;
  pthread_mutex_unlock (&d->lock);
  if (busy)
    return -EBUSY;
  free (r);
  return 0;
}

struct tcp_region *
tcp_pin (struct fabric_domain *base, uint64_t key, uint64_t offset,
         uint32_t length, void **addr)
{
  struct tcp_domain *d = (struct tcp_domain *) base;
  struct tcp_region *r;

  pthread_mutex_lock (&d->lock);
  r = *find (d, key);
  if (r && (offset > r->len || length > r->len - offset))
    r = NULL;
  if (r) {
    r->pins++;
    *addr = r->addr + offset;
  }
  pthread_mutex_unlock (&d->lock);
  return r;
}

void
tcp_unpin (struct tcp_region *r)
{
  struct tcp_domain *d = r->domain;

  pthread_mutex_lock (&d->lock);
  r->pins--;
  pthread_mutex_unlock (&d->lock);
}
