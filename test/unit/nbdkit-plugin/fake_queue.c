/* Queues, and what becomes of operations. */

#include "fake_private.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

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

static pthread_t engine;
static bool stopping;
static int64_t settle_ns;
static struct queue *queues;
static unsigned orders;

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

/* The donor's memory that the operation may reach. */
static char *
remote_memory (struct queue *q, const struct fabric_op *op)
{
  struct grant *g = fake_grant_find (q->session->donor, op->key);

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
    fake.broken_promises++;
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
  fake_kick (q->fd);
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
      fake_kick (q->fd);
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
  pthread_mutex_lock (&fake.lock);
  while (!stopping) {
    int64_t next = complete_due (fabric_now_ns ());

    if (next == INT64_MAX)
      pthread_cond_wait (&fake.changed, &fake.lock);
    else
      pthread_cond_timedwait (&fake.changed, &fake.lock, &(struct timespec) {
          next / 1000000000, next % 1000000000 });
  }
  pthread_mutex_unlock (&fake.lock);
  return NULL;
}

static void
break_one (struct queue *q)
{
  if (q->broken)
    return;
  q->broken = true;
  for (int i = 0; i < FABRIC_QUEUE_DEPTH; i++)
    if (q->entries[i].state == ENTRY_POSTED)
      q->entries[i].due_ns = fabric_now_ns () + settle_ns;
  pthread_cond_broadcast (&fake.changed);
  fake_kick (q->fd);
}

void
fake_queues_break (struct session *s)
{
  for (struct queue *q = queues; q; q = q->next)
    if (q->session == s)
      break_one (q);
}

void
fake_engine_start (void)
{
  stopping = false;
  settle_ns = 0;
  ck_assert_int_eq (pthread_create (&engine, NULL, run_engine, NULL), 0);
}

void
fake_engine_stop (void)
{
  pthread_mutex_lock (&fake.lock);
  stopping = true;
  pthread_cond_broadcast (&fake.changed);
  pthread_mutex_unlock (&fake.lock);
  ck_assert_int_eq (pthread_join (engine, NULL), 0);
}

/* ---- the fabric's functions ---- */

static struct session *
find_session (struct fake_donor *d, const struct fabric_preface *p)
{
  struct session *s = d ? d->sessions : NULL;

  while (s && (s->id != p->session || s->token != p->token))
    s = s->next;
  return s;
}

int
fake_queue_connect (struct fabric_domain *domain, const struct sockaddr *addr,
                    socklen_t len, const struct fabric_preface *preface,
                    int64_t timeout_ns, struct fabric_queue **ret)
{
  struct queue *q = calloc (1, sizeof *q);

  (void) len;
  must (preface->kind == FABRIC_LANE);
  q->base.ops = domain->ops;
  q->domain = (struct domain *) domain;
  q->fd = fake_fd_new ();
  pthread_mutex_lock (&fake.lock);
  q->session = find_session (fake_donor_at (addr), preface);
  must (q->session != NULL);
  if (q->session->donor->script.lanes == -EAGAIN)
    q->connect_until_ns = fabric_now_ns () + timeout_ns;
  else {
    q->connect_until_ns = INT64_MAX;
    fake_kick (q->fd);
  }
  q->next = queues;
  queues = q;
  fake.objects++;
  q->domain->users++;
  pthread_cond_broadcast (&fake.changed);
  pthread_mutex_unlock (&fake.lock);
  *ret = &q->base;
  return 0;
}

int
fake_queue_fd (struct fabric_queue *q)
{
  return ((struct queue *) q)->fd;
}

int
fake_queue_step (struct fabric_queue *queue)
{
  struct queue *q = (struct queue *) queue;
  int r;

  pthread_mutex_lock (&fake.lock);
  r = q->session->donor->script.lanes;
  if (q->session->ended)
    r = -ECONNRESET;
  else if (r == -EAGAIN && q->connect_until_ns == INT64_MAX)
    r = -ETIMEDOUT;
  pthread_mutex_unlock (&fake.lock);
  return r;
}

int
fake_queue_post (struct fabric_queue *queue, struct fabric_op *op)
{
  struct queue *q = (struct queue *) queue;
  struct region *region = (struct region *) op->region;
  struct entry *e = q->entries;
  struct fake_donor *d;
  int r = -ENOTCONN;

  pthread_mutex_lock (&fake.lock);
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
  pthread_cond_broadcast (&fake.changed);
 out:
  pthread_mutex_unlock (&fake.lock);
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

int
fake_queue_poll (struct fabric_queue *queue)
{
  struct queue *q = (struct queue *) queue;
  int r;

  pthread_mutex_lock (&fake.lock);
  reap (q);
  r = q->broken ? -ENOTCONN : 0;
  pthread_mutex_unlock (&fake.lock);
  return r;
}

int
fake_queue_arm (struct fabric_queue *queue, struct pollfd *pfd)
{
  struct queue *q = (struct queue *) queue;
  eventfd_t n;

  (void) !eventfd_read (q->fd, &n);
  *pfd = (struct pollfd) { .fd = q->fd, .events = POLLIN };
  return 0;
}

void
fake_queue_break (struct fabric_queue *queue)
{
  pthread_mutex_lock (&fake.lock);
  break_one ((struct queue *) queue);
  pthread_mutex_unlock (&fake.lock);
}

void
fake_queue_settle (struct fabric_queue *queue)
{
  struct queue *q = (struct queue *) queue;
  int64_t wait_ns;

  pthread_mutex_lock (&fake.lock);
  must (q->broken);
  wait_ns = settle_ns;
  pthread_mutex_unlock (&fake.lock);
  nanosleep (&(struct timespec) { 0, wait_ns }, NULL);
  pthread_mutex_lock (&fake.lock);
  flush_queue (q);
  reap (q);
  must (q->base.outstanding == 0);
  pthread_mutex_unlock (&fake.lock);
}

void
fake_queue_free (struct fabric_queue *queue)
{
  struct queue *q = (struct queue *) queue, **at = &queues;

  pthread_mutex_lock (&fake.lock);
  while (*at != q)
    at = &(*at)->next;
  *at = q->next;
  if (q->base.outstanding > 0)
    fake.broken_promises++;
  q->domain->users--;
  fake.objects--;
  pthread_mutex_unlock (&fake.lock);
  close (q->fd);
  free (q);
}

/* ---- for the test ---- */

void
fake_fabric_slow_settle (int64_t ns)
{
  pthread_mutex_lock (&fake.lock);
  settle_ns = ns;
  pthread_mutex_unlock (&fake.lock);
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

  pthread_mutex_lock (&fake.lock);
  pick_held (d, false, &q, &count);
  pthread_mutex_unlock (&fake.lock);
  return count;
}

void
fake_donor_wait_held (struct fake_donor *d, unsigned count)
{
  struct queue *q;
  unsigned n;

  pthread_mutex_lock (&fake.lock);
  for (pick_held (d, false, &q, &n); n < count; pick_held (d, false, &q, &n)) {
    unsigned posted = d->posted;
    fake_wait_count (&d->posted, posted + 1);
  }
  pthread_mutex_unlock (&fake.lock);
}

void
fake_donor_release (struct fake_donor *d, bool newest_first)
{
  struct queue *q;
  struct entry *e;
  unsigned n;

  pthread_mutex_lock (&fake.lock);
  while ((e = pick_held (d, newest_first, &q, &n)) != NULL)
    complete (q, e);
  pthread_mutex_unlock (&fake.lock);
}
