/* Channels, domains and regions. */

#include "fake_private.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { PATIENCE_S = 60 };

struct fake fake = { .lock = PTHREAD_MUTEX_INITIALIZER, .next_id = 1 };
static bool have_verbs, no_memory, channels_full;

void
fake_kick (int fd)
{
  must (eventfd_write (fd, 1) == 0);
}

int
fake_fd_new (void)
{
  int fd = eventfd (0, EFD_NONBLOCK | EFD_CLOEXEC);

  must (fd != -1);
  return fd;
}

struct timespec
fake_patience (void)
{
  struct timespec until;

  clock_gettime (CLOCK_MONOTONIC, &until);
  until.tv_sec += PATIENCE_S;
  return until;
}

void
fake_wait_count (const unsigned *n, unsigned count)
{
  struct timespec until = fake_patience ();

  while (*n < count)
    ck_assert_int_eq (pthread_cond_timedwait (&fake.changed, &fake.lock,
                                              &until), 0);
}

void
fake_channel_end (struct channel *c, int error)
{
  if (c->error)
    return;
  c->error = error;
  fake_kick (c->fd);
}

/* ---- the fabric's functions ---- */

static int
tcp_available (void)
{
  return 0;
}

static int
verbs_available (void)
{
  int r;

  pthread_mutex_lock (&fake.lock);
  r = have_verbs ? 0 : -ENODEV;
  pthread_mutex_unlock (&fake.lock);
  return r;
}

struct fake_donor *
fake_donor_at (const struct sockaddr *addr)
{
  unsigned i = ntohs (((const struct sockaddr_in *) addr)->sin_port)
    - FAKE_PORT;

  return i < FAKE_DONORS_MAX ? fake.donors[i] : NULL;
}

static int
connect_channel (const struct fabric_ops *ops, const struct sockaddr *addr,
                 struct fabric_channel **ret)
{
  struct channel *c = calloc (1, sizeof *c);
  struct fake_donor *d;

  c->base.ops = ops;
  c->fd = fake_fd_new ();
  pthread_mutex_lock (&fake.lock);
  fake.objects++;
  d = fake_donor_at (addr);
  if (!d || d->script.down ||
      (d->script.no_verbs && ops == &fabric_verbs))
    fake_channel_end (c, -ECONNREFUSED);
  else {
    c->session = calloc (1, sizeof *c->session);
    *c->session = (struct session) {
      .next = d->sessions, .donor = d, .channel = c, .id = fake.next_id++,
      .token = fake.next_id++ * UINT64_C (0x9e3779b97f4a7c15),
    };
    d->sessions = c->session;
  }
  pthread_mutex_unlock (&fake.lock);
  *ret = &c->base;
  return 0;
}

static int
tcp_channel_connect (const struct sockaddr *addr, socklen_t len,
                     int64_t timeout_ns, struct fabric_channel **ret)
{
  (void) len;
  (void) timeout_ns;
  return connect_channel (&fabric_tcp, addr, ret);
}

static int
verbs_channel_connect (const struct sockaddr *addr, socklen_t len,
                       int64_t timeout_ns, struct fabric_channel **ret)
{
  (void) len;
  (void) timeout_ns;
  return connect_channel (&fabric_verbs, addr, ret);
}

static int
channel_fd (struct fabric_channel *channel)
{
  return ((struct channel *) channel)->fd;
}

static const void *
channel_device (const struct fabric_channel *c)
{
  return c->ops == &fabric_verbs ? &fabric_verbs : NULL;
}

static int
channel_receive (struct fabric_channel *channel, void *buf, size_t size)
{
  struct channel *c = (struct channel *) channel;
  eventfd_t n;
  int r;

  pthread_mutex_lock (&fake.lock);
  if (c->session && c->count == 0)
    fake_donor_chat (c->session);
  if (c->error)
    r = c->error;
  else if (c->count > 0) {
    r = c->inbox[c->first].len;
    must ((size_t) r <= size);
    memcpy (buf, c->inbox[c->first].bytes, r);
    c->first = (c->first + 1) % INBOX;
    c->count--;
  }
  else {
    r = eventfd_read (c->fd, &n);
    r = 0;
  }
  pthread_mutex_unlock (&fake.lock);
  return r;
}

static int
channel_send (struct fabric_channel *channel, const void *buf, size_t len)
{
  struct channel *c = (struct channel *) channel;
  struct message m;
  int r;

  must (message_decode (buf, len, &m) == 0);
  pthread_mutex_lock (&fake.lock);
  r = c->error;
  if (r == 0 && channels_full)
    r = -ENOBUFS;
  if (r == 0)
    fake_donor_hear (c->session, &m);
  pthread_mutex_unlock (&fake.lock);
  return r;
}

static void
channel_close (struct fabric_channel *channel)
{
  struct channel *c = (struct channel *) channel;

  pthread_mutex_lock (&fake.lock);
  if (c->session) {
    c->session->channel = NULL;
    fake_session_end (c->session);
  }
  fake.objects--;
  pthread_cond_broadcast (&fake.changed);
  pthread_mutex_unlock (&fake.lock);
  close (c->fd);
  free (c);
}

static int
domain_create (struct fabric_channel *c, struct fabric_domain **ret)
{
  struct domain *d = calloc (1, sizeof *d);

  d->base.ops = c->ops;
  pthread_mutex_lock (&fake.lock);
  fake.objects++;
  pthread_mutex_unlock (&fake.lock);
  *ret = &d->base;
  return 0;
}

static void
domain_free (struct fabric_domain *domain)
{
  struct domain *d = (struct domain *) domain;

  pthread_mutex_lock (&fake.lock);
  fake.objects--;
  if (d->users > 0)
    fake.broken_promises++;
  pthread_mutex_unlock (&fake.lock);
  free (d);
}

static int
region_add (struct fabric_domain *domain, void *addr, size_t len,
            bool remote, struct fabric_region **ret)
{
  struct region *r;

  must (!remote);
  pthread_mutex_lock (&fake.lock);
  if (no_memory) {
    pthread_mutex_unlock (&fake.lock);
    return -ENOMEM;
  }
  r = calloc (1, sizeof *r);
  *r = (struct region) {
    .base.ops = domain->ops, .domain = (struct domain *) domain,
    .memory = addr, .len = len,
  };
  fake.objects++;
  r->domain->users++;
  pthread_mutex_unlock (&fake.lock);
  *ret = &r->base;
  return 0;
}

static int
region_remove (struct fabric_region *region)
{
  struct region *r = (struct region *) region;

  pthread_mutex_lock (&fake.lock);
  fake.objects--;
  r->domain->users--;
  pthread_mutex_unlock (&fake.lock);
  free (r);
  return 0;
}

#define COMMON                                                          \
  .channel_fd = channel_fd, .channel_device = channel_device,           \
  .channel_receive = channel_receive, .channel_send = channel_send,     \
  .channel_close = channel_close, .domain_create = domain_create,       \
  .domain_free = domain_free, .region_add = region_add,                 \
  .region_remove = region_remove,                                       \
  .queue_connect = fake_queue_connect, .queue_fd = fake_queue_fd,       \
  .queue_step = fake_queue_step, .queue_post = fake_queue_post,         \
  .queue_poll = fake_queue_poll, .queue_arm = fake_queue_arm,           \
  .queue_break = fake_queue_break, .queue_settle = fake_queue_settle,   \
  .queue_free = fake_queue_free

const struct fabric_ops fabric_tcp = {
  .name = "tcp", .available = tcp_available,
  .channel_connect = tcp_channel_connect, COMMON
};
const struct fabric_ops fabric_verbs = {
  .name = "verbs", .available = verbs_available,
  .channel_connect = verbs_channel_connect, COMMON
};

/* ---- for the test ---- */

void
fake_fabric_start (void)
{
  pthread_condattr_t attr;

  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&fake.changed, &attr);
  pthread_condattr_destroy (&attr);
  have_verbs = no_memory = channels_full = false;
  fake_engine_start ();
}

void
fake_fabric_stop (void)
{
  fake_engine_stop ();
  for (int i = 0; i < FAKE_DONORS_MAX; i++)
    if (fake.donors[i]) {
      ck_assert_uint_eq (fake_donor_lent (fake.donors[i]), 0);
      fake_donor_free (fake.donors[i]);
      fake.donors[i] = NULL;
    }
  ck_assert_uint_eq (fake.objects, 0);
  ck_assert_uint_eq (fake.broken_promises, 0);
}

void
fake_fabric_full (bool full)
{
  pthread_mutex_lock (&fake.lock);
  channels_full = full;
  pthread_mutex_unlock (&fake.lock);
}

void
fake_fabric_no_memory (bool none)
{
  pthread_mutex_lock (&fake.lock);
  no_memory = none;
  pthread_mutex_unlock (&fake.lock);
}

void
fake_fabric_have_verbs (bool have)
{
  pthread_mutex_lock (&fake.lock);
  have_verbs = have;
  pthread_mutex_unlock (&fake.lock);
}
