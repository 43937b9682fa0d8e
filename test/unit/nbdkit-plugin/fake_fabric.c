#include "fake_fabric.h"

#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_S = 60, INBOX = 64, HELD_MESSAGES = 64, GRANTS = 64 };

struct session {
  struct session *next;
  struct fake_donor *donor;
  struct channel *channel;      /* NULL once closed */
  uint64_t id, token;
  uint8_t device_id[MESSAGE_DEVICE_ID_SIZE];
  bool welcomed, ended;
};

struct grant {
  struct session *session;      /* NULL: free entry */
  uint64_t id, key, address, length;
  char *memory;
};

struct fake_donor {
  struct fake_script script;
  struct session *sessions;     /* newest first; freed at the end */
  struct grant grants[GRANTS];
  struct { struct session *session; struct message m; } held[HELD_MESSAGES];
  unsigned n_held;
  unsigned heard[MESSAGE_PONG + 1];
  struct message last[MESSAGE_PONG + 1];
  fake_fate_f decide;
  void *decide_data;
  unsigned posted, late;
};

struct channel {
  struct fabric_channel base;
  int fd;
  struct session *session;
  int error;
  struct { size_t len; char bytes[FABRIC_MESSAGE_MAX]; } inbox[INBOX];
  unsigned first, count;
};

struct domain {
  struct fabric_domain base;
  unsigned users;               /* regions and queues */
};

struct region {
  struct fabric_region base;
  struct domain *domain;
  char *memory;
  size_t len;
};

enum entry_state { ENTRY_FREE, ENTRY_POSTED, ENTRY_ENDED };

struct entry {
  enum entry_state state;
  struct fabric_op *op;
  struct fake_fate fate;
  int64_t due_ns;               /* INT64_MAX: held */
  uint64_t sum;                 /* of the local memory of a WRITE */
  unsigned order;
  bool landed;
  int status;                   /* once ended */
};

struct queue {
  struct fabric_queue base;
  struct queue *next;           /* in `queues` */
  struct domain *domain;
  struct session *session;
  int fd;
  int64_t connect_until_ns;
  bool broken;
  struct entry entries[FABRIC_QUEUE_DEPTH];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static pthread_t engine;
static bool stopping, have_verbs;
static int64_t settle_ns;
static struct fake_donor *donors[FAKE_DONORS_MAX];
static struct queue *queues;
static unsigned objects;        /* channels, domains, regions, queues */
static unsigned broken_promises;
static unsigned orders;
static uint64_t next_id = 1;

/* Check's assertions allocate even when they hold, which would disturb a
 * test that counts.
 */
#define must(condition)                                 \
  do {                                                  \
    if (!(condition))                                   \
      ck_abort_msg ("fake fabric: " #condition);        \
  } while (0)

static void
kick (int fd)
{
  must (eventfd_write (fd, 1) == 0);
}

/* ---- operations ---- */

static uint64_t
sum_of (const struct fabric_op *op)
{
  uint64_t sum = op->length, x;

  for (uint32_t i = 0; i + sizeof x <= op->length; i += sizeof x) {
    memcpy (&x, (char *) op->local + i, sizeof x);
    sum = (sum ^ x) * UINT64_C (0x9e3779b97f4a7c15);
  }
  return sum;
}

static struct grant *
find_grant (struct fake_donor *d, uint64_t key)
{
  for (int i = 0; i < GRANTS; i++)
    if (d->grants[i].session && d->grants[i].key == key)
      return &d->grants[i];
  return NULL;
}

/* The donor's memory that the operation may reach. */
static char *
remote_memory (struct queue *q, const struct fabric_op *op)
{
  struct grant *g = find_grant (q->session->donor, op->key);

  if (!g || g->session != q->session || g->session->ended ||
      op->remote < g->address ||
      op->remote - g->address + op->length > g->length)
    return NULL;
  return g->memory + (op->remote - g->address);
}

static void
land (struct queue *q, struct entry *e)
{
  char *remote = remote_memory (q, e->op);

  if (remote && e->op->type == FABRIC_WRITE && !e->landed)
    memcpy (remote, e->op->local, e->op->length);
  e->landed = true;
}

static void
end_entry (struct queue *q, struct entry *e, int status, bool lands)
{
  struct fabric_op *op = e->op;
  char *remote = remote_memory (q, op);

  if (op->type == FABRIC_WRITE && sum_of (op) != e->sum)
    broken_promises++;
  if (!remote && status == 0)
    status = -EREMOTEIO;
  if (lands)
    land (q, e);
  if (op->type == FABRIC_READ) {
    if (status == 0)
      memcpy (op->local, remote, op->length);
    else                        /* some of it may have arrived */
      memset (op->local, 0xa5, op->length);
  }
  e->state = ENTRY_ENDED;
  e->status = status;
  kick (q->fd);
}

static void
complete (struct queue *q, struct entry *e)
{
  end_entry (q, e, e->fate.status, e->fate.status == 0);
}

/* The queue is broken: what is not done ends, one way or the other. */
static void
flush_entry (struct queue *q, struct entry *e)
{
  bool late = e->fate.lands_late && e->op->type == FABRIC_WRITE;

  if (late)
    q->session->donor->late++;
  end_entry (q, e, late ? e->fate.late_status : -ECANCELED, late);
}

static void
flush_queue (struct queue *q)
{
  for (int i = 0; i < FABRIC_QUEUE_DEPTH; i++)
    if (q->entries[i].state == ENTRY_POSTED)
      flush_entry (q, &q->entries[i]);
}

/* Complete what is due; returns when the next one is. */
static int64_t
complete_due (int64_t now)
{
  int64_t next = INT64_MAX;

  for (struct queue *q = queues; q; q = q->next) {
    if (q->connect_until_ns <= now) {
      q->connect_until_ns = INT64_MAX;
      kick (q->fd);
    }
    if (q->connect_until_ns < next)
      next = q->connect_until_ns;
    for (int i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
      struct entry *e = &q->entries[i];
      if (e->state != ENTRY_POSTED)
        continue;
      if (e->due_ns <= now && q->broken)
        flush_entry (q, e);
      else if (e->due_ns <= now)
        complete (q, e);
      else if (e->due_ns < next)
        next = e->due_ns;
    }
  }
  return next;
}

static void *
run_engine (void *data)
{
  (void) data;
  pthread_mutex_lock (&lock);
  while (!stopping) {
    int64_t next = complete_due (fabric_now_ns ());

    if (next == INT64_MAX)
      pthread_cond_wait (&changed, &lock);
    else
      pthread_cond_timedwait (&changed, &lock, &(struct timespec) {
          next / 1000000000, next % 1000000000 });
  }
  pthread_mutex_unlock (&lock);
  return NULL;
}

static void
break_queue (struct queue *q)
{
  if (q->broken)
    return;
  q->broken = true;
  for (int i = 0; i < FABRIC_QUEUE_DEPTH; i++)
    if (q->entries[i].state == ENTRY_POSTED)
      q->entries[i].due_ns = fabric_now_ns () + settle_ns;
  pthread_cond_broadcast (&changed);
  kick (q->fd);
}

/* ---- the donor's mind ---- */

static void
end_channel (struct channel *c, int error)
{
  if (c->error)
    return;
  c->error = error;
  kick (c->fd);
}

static void
end_session (struct session *s)
{
  struct fake_donor *d = s->donor;

  if (s->ended)
    return;
  s->ended = true;
  for (int i = 0; i < GRANTS; i++)
    if (d->grants[i].session == s) {
      free (d->grants[i].memory);
      d->grants[i] = (struct grant) { 0 };
    }
  for (struct queue *q = queues; q; q = q->next)
    if (q->session == s)
      break_queue (q);
  if (s->channel)
    end_channel (s->channel, -ECONNRESET);
  pthread_cond_broadcast (&changed);
}

static void
say (struct session *s, const struct message *m)
{
  struct channel *c = s->channel;
  int len;

  if (!c || s->ended)
    return;
  must (c->count < INBOX);
  unsigned at = (c->first + c->count++) % INBOX;
  len = message_encode (m, c->inbox[at].bytes, FABRIC_MESSAGE_MAX);
  must (len > 0);
  c->inbox[at].len = len;
  kick (c->fd);
}

static void
refuse (struct session *s, const struct message *m, const char *reason)
{
  struct message r = { .type = MESSAGE_REFUSED, .id = m->id };

  strncpy (r.refused.reason, reason, sizeof r.refused.reason - 1);
  say (s, &r);
}

static void
answer_hello (struct session *s, const struct message *m)
{
  struct fake_donor *d = s->donor;
  struct message r = {
    .type = MESSAGE_WELCOME, .id = m->id,
    .welcome = { .session = s->id, .token = s->token,
                 .slab_size_bytes = d->script.slab_size_bytes,
                 .free_bytes = d->script.free_bytes },
  };

  if (d->script.refuse_hello) {
    refuse (s, m, d->script.refuse_hello);
    return;
  }
  /* A borrower has one session: its old one ends, lanes first. */
  memcpy (s->device_id, m->hello.device_id, sizeof s->device_id);
  for (struct session *o = d->sessions; o; o = o->next)
    if (o != s && o->welcomed &&
        memcmp (o->device_id, s->device_id, sizeof s->device_id) == 0)
      end_session (o);
  s->welcomed = true;
  say (s, &r);
}

static unsigned
lent (const struct fake_donor *d)
{
  unsigned n = 0;

  for (int i = 0; i < GRANTS; i++)
    n += d->grants[i].session != NULL;
  return n;
}

static void
answer_map (struct session *s, const struct message *m)
{
  struct fake_donor *d = s->donor;
  struct message r = { .type = MESSAGE_MR_INFO, .id = m->id };
  struct grant *g = d->grants;

  if (lent (d) >= d->script.slabs) {
    refuse (s, m, "no slab to lend");
    return;
  }
  while (g->session)
    g++;
  *g = (struct grant) {
    .session = s, .id = next_id++, .key = next_id++ << 20,
    .address = next_id++ << 40, .length = d->script.slab_size_bytes,
    .memory = calloc (1, d->script.slab_size_bytes),
  };
  r.mr_info.grant = g->id;
  r.mr_info.key = g->key;
  r.mr_info.address = g->address;
  r.mr_info.length_bytes = d->script.mr_info_length_bytes ?
    d->script.mr_info_length_bytes : g->length;
  say (s, &r);
}

static void
answer_unmap (struct session *s, const struct message *m)
{
  struct message r = {
    .type = MESSAGE_DONE, .id = m->id, .done = { .grant = m->unmap.grant },
  };

  for (int i = 0; i < GRANTS; i++) {
    struct grant *g = &s->donor->grants[i];
    if (g->session == s && g->id == m->unmap.grant) {
      free (g->memory);
      *g = (struct grant) { 0 };
    }
  }
  say (s, &r);
}

static void
answer (struct session *s, const struct message *m)
{
  struct message r = { .type = MESSAGE_FREE_MEM, .id = m->id };

  switch (m->type) {
  case MESSAGE_HELLO:
    answer_hello (s, m);
    break;
  case MESSAGE_QUERY_MEM:
    r.free_mem.free_bytes = s->donor->script.free_bytes;
    r.free_mem.slabs_lent = lent (s->donor);
    say (s, &r);
    break;
  case MESSAGE_MAP:
    answer_map (s, m);
    break;
  case MESSAGE_UNMAP:
    answer_unmap (s, m);
    break;
  case MESSAGE_PING:
    r.type = MESSAGE_PONG;
    say (s, &r);
    break;
  default:
    break;
  }
}

static void
hear (struct session *s, const struct message *m)
{
  struct fake_donor *d = s->donor;

  d->heard[m->type]++;
  d->last[m->type] = *m;
  pthread_cond_broadcast (&changed);
  if (s->ended || (d->script.ignore & FAKE_BIT (m->type)))
    return;
  if (d->script.hold & FAKE_BIT (m->type)) {
    must (d->n_held < HELD_MESSAGES);
    d->held[d->n_held].session = s;
    d->held[d->n_held++].m = *m;
    return;
  }
  answer (s, m);
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

  pthread_mutex_lock (&lock);
  r = have_verbs ? 0 : -ENODEV;
  pthread_mutex_unlock (&lock);
  return r;
}

static int
new_fd (void)
{
  int fd = eventfd (0, EFD_NONBLOCK | EFD_CLOEXEC);

  must (fd != -1);
  return fd;
}

static struct fake_donor *
donor_at (const struct sockaddr *addr)
{
  unsigned i = ntohs (((const struct sockaddr_in *) addr)->sin_port)
    - FAKE_PORT;

  return i < FAKE_DONORS_MAX ? donors[i] : NULL;
}

static int
connect_channel (const struct fabric_ops *ops, const struct sockaddr *addr,
                 struct fabric_channel **ret)
{
  struct channel *c = calloc (1, sizeof *c);
  struct fake_donor *d;

  c->base.ops = ops;
  c->fd = new_fd ();
  pthread_mutex_lock (&lock);
  objects++;
  d = donor_at (addr);
  if (!d || d->script.down ||
      (d->script.no_verbs && ops == &fabric_verbs))
    end_channel (c, -ECONNREFUSED);
  else {
    c->session = calloc (1, sizeof *c->session);
    *c->session = (struct session) {
      .next = d->sessions, .donor = d, .channel = c, .id = next_id++,
      .token = next_id++ * UINT64_C (0x9e3779b97f4a7c15),
    };
    d->sessions = c->session;
  }
  pthread_mutex_unlock (&lock);
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

  pthread_mutex_lock (&lock);
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
  pthread_mutex_unlock (&lock);
  return r;
}

static int
channel_send (struct fabric_channel *channel, const void *buf, size_t len)
{
  struct channel *c = (struct channel *) channel;
  struct message m;
  int r;

  must (message_decode (buf, len, &m) == 0);
  pthread_mutex_lock (&lock);
  r = c->error;
  if (r == 0)
    hear (c->session, &m);
  pthread_mutex_unlock (&lock);
  return r;
}

static void
channel_close (struct fabric_channel *channel)
{
  struct channel *c = (struct channel *) channel;

  pthread_mutex_lock (&lock);
  if (c->session) {
    c->session->channel = NULL;
    end_session (c->session);
  }
  objects--;
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&lock);
  close (c->fd);
  free (c);
}

static int
domain_create (struct fabric_channel *c, struct fabric_domain **ret)
{
  struct domain *d = calloc (1, sizeof *d);

  d->base.ops = c->ops;
  pthread_mutex_lock (&lock);
  objects++;
  pthread_mutex_unlock (&lock);
  *ret = &d->base;
  return 0;
}

static void
domain_free (struct fabric_domain *domain)
{
  struct domain *d = (struct domain *) domain;

  pthread_mutex_lock (&lock);
  objects--;
  if (d->users > 0)
    broken_promises++;
  pthread_mutex_unlock (&lock);
  free (d);
}

static int
region_add (struct fabric_domain *domain, void *addr, size_t len,
            bool remote, struct fabric_region **ret)
{
  struct region *r = calloc (1, sizeof *r);

  must (!remote);
  *r = (struct region) {
    .base.ops = domain->ops, .domain = (struct domain *) domain,
    .memory = addr, .len = len,
  };
  pthread_mutex_lock (&lock);
  objects++;
  r->domain->users++;
  pthread_mutex_unlock (&lock);
  *ret = &r->base;
  return 0;
}

static int
region_remove (struct fabric_region *region)
{
  struct region *r = (struct region *) region;

  pthread_mutex_lock (&lock);
  objects--;
  r->domain->users--;
  pthread_mutex_unlock (&lock);
  free (r);
  return 0;
}

static struct session *
find_session (struct fake_donor *d, const struct fabric_preface *p)
{
  struct session *s = d ? d->sessions : NULL;

  while (s && (s->id != p->session || s->token != p->token))
    s = s->next;
  return s;
}

static int
queue_connect (struct fabric_domain *domain, const struct sockaddr *addr,
               socklen_t len, const struct fabric_preface *preface,
               int64_t timeout_ns, struct fabric_queue **ret)
{
  struct queue *q = calloc (1, sizeof *q);

  (void) len;
  must (preface->kind == FABRIC_LANE);
  q->base.ops = domain->ops;
  q->domain = (struct domain *) domain;
  q->fd = new_fd ();
  pthread_mutex_lock (&lock);
  q->session = find_session (donor_at (addr), preface);
  must (q->session != NULL);
  if (q->session->donor->script.lanes == -EAGAIN)
    q->connect_until_ns = fabric_now_ns () + timeout_ns;
  else {
    q->connect_until_ns = INT64_MAX;
    kick (q->fd);
  }
  q->next = queues;
  queues = q;
  objects++;
  q->domain->users++;
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&lock);
  *ret = &q->base;
  return 0;
}

static int
queue_fd (struct fabric_queue *q)
{
  return ((struct queue *) q)->fd;
}

static int
queue_step (struct fabric_queue *queue)
{
  struct queue *q = (struct queue *) queue;
  int r;

  pthread_mutex_lock (&lock);
  r = q->session->donor->script.lanes;
  if (q->session->ended)
    r = -ECONNRESET;
  else if (r == -EAGAIN && q->connect_until_ns == INT64_MAX)
    r = -ETIMEDOUT;
  pthread_mutex_unlock (&lock);
  return r;
}

static int
queue_post (struct fabric_queue *queue, struct fabric_op *op)
{
  struct queue *q = (struct queue *) queue;
  struct region *region = (struct region *) op->region;
  struct entry *e = q->entries;
  struct fake_donor *d;
  int r = -ENOTCONN;

  pthread_mutex_lock (&lock);
  if (q->broken)
    goto out;
  r = -ENOBUFS;
  if (q->base.outstanding == FABRIC_QUEUE_DEPTH)
    goto out;
  r = 0;
  must (op->length > 0 && op->length <= FABRIC_TRANSFER_MAX);
  must (region->domain == q->domain);
  must ((char *) op->local >= region->memory &&
             (char *) op->local + op->length <= region->memory + region->len);
  while (e->state != ENTRY_FREE)
    e++;
  d = q->session->donor;
  *e = (struct entry) {
    .state = ENTRY_POSTED, .op = op, .order = orders++,
    .sum = op->type == FABRIC_WRITE ? sum_of (op) : 0,
  };
  op->done = false;
  q->base.outstanding++;
  d->posted++;
  if (d->decide)
    e->fate = d->decide (d->decide_data, op);
  if (e->fate.lands_first)
    land (q, e);
  if (e->fate.delay_ns == 0)
    complete (q, e);
  else
    e->due_ns = e->fate.delay_ns == FAKE_HELD ? INT64_MAX :
      fabric_now_ns () + e->fate.delay_ns;
  pthread_cond_broadcast (&changed);
 out:
  pthread_mutex_unlock (&lock);
  return r;
}

static void
reap (struct queue *q)
{
  for (int i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
    struct entry *e = &q->entries[i];
    if (e->state != ENTRY_ENDED)
      continue;
    e->op->status = e->status;
    e->op->done = true;
    e->state = ENTRY_FREE;
    q->base.outstanding--;
  }
}

static int
queue_poll (struct fabric_queue *queue)
{
  struct queue *q = (struct queue *) queue;
  int r;

  pthread_mutex_lock (&lock);
  reap (q);
  r = q->broken ? -ENOTCONN : 0;
  pthread_mutex_unlock (&lock);
  return r;
}

static int
queue_arm (struct fabric_queue *queue, struct pollfd *pfd)
{
  struct queue *q = (struct queue *) queue;
  eventfd_t n;

  (void) !eventfd_read (q->fd, &n);
  *pfd = (struct pollfd) { .fd = q->fd, .events = POLLIN };
  return 0;
}

static void
queue_break (struct fabric_queue *queue)
{
  pthread_mutex_lock (&lock);
  break_queue ((struct queue *) queue);
  pthread_mutex_unlock (&lock);
}

static void
queue_settle (struct fabric_queue *queue)
{
  struct queue *q = (struct queue *) queue;
  int64_t wait_ns;

  pthread_mutex_lock (&lock);
  must (q->broken);
  wait_ns = settle_ns;
  pthread_mutex_unlock (&lock);
  nanosleep (&(struct timespec) { 0, wait_ns }, NULL);
  pthread_mutex_lock (&lock);
  flush_queue (q);
  reap (q);
  must (q->base.outstanding == 0);
  pthread_mutex_unlock (&lock);
}

static void
queue_free (struct fabric_queue *queue)
{
  struct queue *q = (struct queue *) queue, **at = &queues;

  pthread_mutex_lock (&lock);
  while (*at != q)
    at = &(*at)->next;
  *at = q->next;
  if (q->base.outstanding > 0)
    broken_promises++;
  q->domain->users--;
  objects--;
  pthread_mutex_unlock (&lock);
  close (q->fd);
  free (q);
}

#define COMMON                                                          \
  .channel_fd = channel_fd, .channel_device = channel_device,           \
  .channel_receive = channel_receive, .channel_send = channel_send,     \
  .channel_close = channel_close, .domain_create = domain_create,       \
  .domain_free = domain_free, .region_add = region_add,                 \
  .region_remove = region_remove, .queue_connect = queue_connect,       \
  .queue_fd = queue_fd, .queue_step = queue_step,                       \
  .queue_post = queue_post, .queue_poll = queue_poll,                   \
  .queue_arm = queue_arm, .queue_break = queue_break,                   \
  .queue_settle = queue_settle, .queue_free = queue_free

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
  pthread_cond_init (&changed, &attr);
  pthread_condattr_destroy (&attr);
  stopping = have_verbs = false;
  settle_ns = 0;
  ck_assert_int_eq (pthread_create (&engine, NULL, run_engine, NULL), 0);
}

static void
donor_free (struct fake_donor *d)
{
  while (d->sessions) {
    struct session *s = d->sessions;

    d->sessions = s->next;
    free (s);
  }
  free (d);
}

void
fake_fabric_stop (void)
{
  pthread_mutex_lock (&lock);
  stopping = true;
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&lock);
  ck_assert_int_eq (pthread_join (engine, NULL), 0);
  for (int i = 0; i < FAKE_DONORS_MAX; i++)
    if (donors[i]) {
      ck_assert_uint_eq (lent (donors[i]), 0);
      donor_free (donors[i]);
      donors[i] = NULL;
    }
  ck_assert_uint_eq (objects, 0);
  ck_assert_uint_eq (broken_promises, 0);
}

void
fake_fabric_have_verbs (bool have)
{
  pthread_mutex_lock (&lock);
  have_verbs = have;
  pthread_mutex_unlock (&lock);
}

void
fake_fabric_slow_settle (int64_t ns)
{
  pthread_mutex_lock (&lock);
  settle_ns = ns;
  pthread_mutex_unlock (&lock);
}

struct fake_donor *
fake_donor_new (unsigned i, uint64_t slab_size_bytes)
{
  struct fake_donor *d = calloc (1, sizeof *d);

  d->script = (struct fake_script) {
    .slab_size_bytes = slab_size_bytes, .slabs = GRANTS,
    .free_bytes = GRANTS * slab_size_bytes,
  };
  pthread_mutex_lock (&lock);
  donors[i] = d;
  pthread_mutex_unlock (&lock);
  return d;
}

struct fake_script
fake_donor_script (struct fake_donor *d)
{
  struct fake_script s;

  pthread_mutex_lock (&lock);
  s = d->script;
  pthread_mutex_unlock (&lock);
  return s;
}

void
fake_donor_follow (struct fake_donor *d, const struct fake_script *s)
{
  pthread_mutex_lock (&lock);
  d->script = *s;
  pthread_mutex_unlock (&lock);
}

void
fake_donor_answer (struct fake_donor *d)
{
  pthread_mutex_lock (&lock);
  for (unsigned i = 0; i < d->n_held; i++)
    if (!d->held[i].session->ended)
      answer (d->held[i].session, &d->held[i].m);
  d->n_held = 0;
  pthread_mutex_unlock (&lock);
}

void
fake_donor_end_sessions (struct fake_donor *d)
{
  pthread_mutex_lock (&lock);
  for (struct session *s = d->sessions; s; s = s->next)
    end_session (s);
  pthread_mutex_unlock (&lock);
}

void
fake_donor_say (struct fake_donor *d, const struct message *m)
{
  pthread_mutex_lock (&lock);
  ck_assert_ptr_nonnull (d->sessions);
  say (d->sessions, m);
  pthread_mutex_unlock (&lock);
}

static struct timespec
patience (void)
{
  struct timespec until;

  clock_gettime (CLOCK_MONOTONIC, &until);
  until.tv_sec += PATIENCE_S;
  return until;
}

/* Wait until *n is at least count; with the lock held. */
static void
wait_count (const unsigned *n, unsigned count)
{
  struct timespec until = patience ();

  while (*n < count)
    ck_assert_int_eq (pthread_cond_timedwait (&changed, &lock, &until), 0);
}

unsigned
fake_donor_heard (struct fake_donor *d, enum message_type type)
{
  unsigned n;

  pthread_mutex_lock (&lock);
  n = d->heard[type];
  pthread_mutex_unlock (&lock);
  return n;
}

void
fake_donor_wait_heard (struct fake_donor *d, enum message_type type,
                       unsigned count)
{
  pthread_mutex_lock (&lock);
  wait_count (&d->heard[type], count);
  pthread_mutex_unlock (&lock);
}

struct message
fake_donor_last (struct fake_donor *d, enum message_type type)
{
  struct message m;

  pthread_mutex_lock (&lock);
  m = d->last[type];
  pthread_mutex_unlock (&lock);
  return m;
}

static unsigned
open_channels (const struct fake_donor *d)
{
  unsigned n = 0;

  for (const struct session *s = d->sessions; s; s = s->next)
    n += s->channel != NULL;
  return n;
}

void
fake_donor_wait_let_go (struct fake_donor *d)
{
  struct timespec until = patience ();

  pthread_mutex_lock (&lock);
  while (open_channels (d) > 0)
    ck_assert_int_eq (pthread_cond_timedwait (&changed, &lock, &until), 0);
  pthread_mutex_unlock (&lock);
}

unsigned
fake_donor_lent (struct fake_donor *d)
{
  unsigned n;

  pthread_mutex_lock (&lock);
  n = lent (d);
  pthread_mutex_unlock (&lock);
  return n;
}

bool
fake_grant_copy (uint64_t key, uint64_t offset, void *buf, size_t len)
{
  struct grant *g = NULL;

  pthread_mutex_lock (&lock);
  for (int i = 0; i < FAKE_DONORS_MAX && !g; i++)
    if (donors[i])
      g = find_grant (donors[i], key);
  if (g)
    memcpy (buf, g->memory + offset, len);
  pthread_mutex_unlock (&lock);
  return g != NULL;
}

void
fake_donor_decide (struct fake_donor *d, fake_fate_f decide, void *data)
{
  pthread_mutex_lock (&lock);
  d->decide = decide;
  d->decide_data = data;
  pthread_mutex_unlock (&lock);
}

/* The held operation of this donor that was posted last, or first. */
static struct entry *
pick_held (struct fake_donor *d, bool newest, struct queue **queue,
           unsigned *count)
{
  struct entry *best = NULL;

  *count = 0;
  for (struct queue *q = queues; q; q = q->next)
    for (int i = 0; i < FABRIC_QUEUE_DEPTH; i++) {
      struct entry *e = &q->entries[i];
      if (q->session->donor != d || e->state != ENTRY_POSTED ||
          e->due_ns != INT64_MAX)
        continue;
      ++*count;
      if (!best || (e->order > best->order) == newest) {
        best = e;
        *queue = q;
      }
    }
  return best;
}

unsigned
fake_donor_held (struct fake_donor *d)
{
  struct queue *q;
  unsigned count;

  pthread_mutex_lock (&lock);
  pick_held (d, false, &q, &count);
  pthread_mutex_unlock (&lock);
  return count;
}

void
fake_donor_wait_held (struct fake_donor *d, unsigned count)
{
  struct queue *q;
  unsigned n;

  pthread_mutex_lock (&lock);
  for (pick_held (d, false, &q, &n); n < count; pick_held (d, false, &q, &n)) {
    unsigned posted = d->posted;
    wait_count (&d->posted, posted + 1);
  }
  pthread_mutex_unlock (&lock);
}

void
fake_donor_release (struct fake_donor *d, bool newest_first)
{
  struct queue *q;
  struct entry *e;
  unsigned n;

  pthread_mutex_lock (&lock);
  while ((e = pick_held (d, newest_first, &q, &n)) != NULL)
    complete (q, e);
  pthread_mutex_unlock (&lock);
}

unsigned
fake_donor_posted (struct fake_donor *d)
{
  unsigned n;

  pthread_mutex_lock (&lock);
  n = d->posted;
  pthread_mutex_unlock (&lock);
  return n;
}

unsigned
fake_donor_late (struct fake_donor *d)
{
  unsigned n;

  pthread_mutex_lock (&lock);
  n = d->late;
  pthread_mutex_unlock (&lock);
  return n;
}
