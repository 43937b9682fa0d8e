#include "test/chaos/client.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test/chaos/pattern.h"
#include "test/chaos/trouble.h"

/* How many pages of the local copy are looked at after a flush. */
enum { COPY_PAGES = 16 };

/* What the disk may need for each piece of a long request. */
enum { PIECE = 128 << 10, PIECE_NS = 100000000 };

struct request {
  bool in_flight, fua;
  enum request_type type;
  struct model_range range;
  int64_t cookie, start_ns;
  unsigned char *buf;           /* REQUEST_MAX */
};

struct client {
  const struct client_params *params;
  struct nbd_handle *nbd;
  int copy;                     /* a descriptor */
  unsigned char *page;          /* aligned, for reads of the copy */
  uint64_t random;
  bool last_ok;
  pthread_mutex_t lock;         /* guards the counts */
  struct client_counts counts;
  struct request requests[CLIENT_DEPTH_MAX];
};

static const char *const type_names[] = {
  [REQUEST_READ] = "read", [REQUEST_WRITE] = "write",
  [REQUEST_TRIM] = "trim", [REQUEST_ZERO] = "zero",
  [REQUEST_FLUSH] = "flush",
};

void
client_fail (const char *format, ...)
{
  static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
  va_list args;

  /* Never unlocked: others that fail are silent. */
  pthread_mutex_lock (&once);
  va_start (args, format);
  fprintf (stderr, "failed: ");
  vfprintf (stderr, format, args);
  fprintf (stderr, "\n");
  va_end (args);
  _exit (1);
}

struct client *
client_new (const struct client_params *p)
{
  struct client *c = calloc (1, sizeof *c);

  if (!c || posix_memalign ((void **) &c->page, MODEL_PAGE, MODEL_PAGE) != 0)
    abort ();
  c->params = p;
  pthread_mutex_init (&c->lock, NULL);
  c->copy = open (p->copy, O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (c->copy == -1)
    client_fail ("%s: %s", p->copy, strerror (errno));
  c->nbd = nbd_create ();
  if (!c->nbd || nbd_connect_uri (c->nbd, p->uri) == -1)
    client_fail ("connecting: %s", nbd_get_error ());
  for (int i = 0; i < CLIENT_DEPTH_MAX; i++)
    if (!(c->requests[i].buf = malloc (REQUEST_MAX)))
      abort ();
  return c;
}

void
client_free (struct client *c)
{
  nbd_shutdown (c->nbd, 0);
  nbd_close (c->nbd);
  for (int i = 0; i < CLIENT_DEPTH_MAX; i++)
    free (c->requests[i].buf);
  close (c->copy);
  free (c->page);
  free (c);
}

static void
count (struct client *c, uint64_t *counter)
{
  pthread_mutex_lock (&c->lock);
  ++*counter;
  pthread_mutex_unlock (&c->lock);
}

static int64_t
max (int64_t a, int64_t b)
{
  return a > b ? a : b;
}

void
client_add_counts (const struct client *c, struct client_counts *to)
{
  const struct client_counts *n = &c->counts;

  pthread_mutex_lock ((pthread_mutex_t *) &c->lock);
  to->reads += n->reads;
  to->writes += n->writes;
  to->discards += n->discards;
  to->flushes += n->flushes;
  to->errors += n->errors;
  to->copy_pages += n->copy_pages;
  to->worst_ns = max (to->worst_ns, n->worst_ns);
  to->worst_disk_ns = max (to->worst_disk_ns, n->worst_disk_ns);
  pthread_mutex_unlock ((pthread_mutex_t *) &c->lock);
}

unsigned
client_in_flight (const struct client *c)
{
  unsigned n = 0;

  for (int i = 0; i < CLIENT_DEPTH_MAX; i++)
    n += c->requests[i].in_flight;
  return n;
}

/* A trim is of whole pages, and leaves what lies around. */
static void
round_inwards (struct model_range *r)
{
  uint64_t from = (r->offset + MODEL_PAGE - 1) / MODEL_PAGE * MODEL_PAGE;
  uint64_t to = (r->offset + r->len) / MODEL_PAGE * MODEL_PAGE;

  r->offset = from;
  r->len = from < to ? to - from : 0;
}

static bool
begin (struct client *c, struct request *r)
{
  struct model *m = c->params->model;

  switch (r->type) {
  case REQUEST_READ:
    return model_begin_read (m, &r->range);
  case REQUEST_FLUSH:
    r->range.start = model_now (m);
    return true;
  default:
    return model_begin_write (m, &r->range);
  }
}

static int64_t
start (struct client *c, struct request *r, uint64_t offset, uint32_t len)
{
  const nbd_completion_callback none = NBD_NULL_COMPLETION;
  uint32_t flags = r->fua ? LIBNBD_CMD_FLAG_FUA : 0;

  switch (r->type) {
  case REQUEST_READ:
    memset (r->buf, 0xaa, len);
    return nbd_aio_pread (c->nbd, r->buf, len, offset, none, 0);
  case REQUEST_WRITE:
    pattern_fill (r->buf, len, r->range.seed, offset);
    return nbd_aio_pwrite (c->nbd, r->buf, len, offset, none, flags);
  case REQUEST_TRIM:
    return nbd_aio_trim (c->nbd, len, offset, none, flags);
  case REQUEST_ZERO:
    return nbd_aio_zero (c->nbd, len, offset, none, flags);
  default:
    return nbd_aio_flush (c->nbd, none, 0);
  }
}

bool
client_send (struct client *c, enum request_type type, uint64_t offset,
             uint32_t len, uint64_t seed, bool fua)
{
  struct request *r = c->requests;

  while (r->in_flight)
    r++;
  r->type = type;
  r->fua = fua;
  r->range = (struct model_range) {
    .offset = offset, .len = len, .seed = type == REQUEST_WRITE ? seed : 0,
  };
  if (type == REQUEST_TRIM)
    round_inwards (&r->range);
  if (!begin (c, r))
    return false;
  r->start_ns = trouble_now_ns ();
  r->cookie = start (c, r, offset, len);
  if (r->cookie == -1)
    client_fail ("sending a %s: %s", type_names[type], nbd_get_error ());
  r->in_flight = true;
  return true;
}

/* A flush, and what carries one, waits for the disk.  Past the deadline all
 * does, of which a long request has many pieces, one after the other.
 */
static bool
waits_for_disk (const struct request *r)
{
  return r->type == REQUEST_FLUSH || r->fua ||
    trouble_met (TROUBLE_SLOW, r->start_ns) ||
    trouble_met (TROUBLE_ERRORS, r->start_ns);
}

static void
check_age (struct client *c, const struct request *r, const char *state)
{
  int64_t age = trouble_now_ns () - r->start_ns;
  bool disk = waits_for_disk (r);
  int64_t limit = disk ? c->params->disk_limit_ns :
    c->params->limit_ns + r->range.len / PIECE * PIECE_NS;
  int64_t *worst = disk ? &c->counts.worst_disk_ns : &c->counts.worst_ns;

  pthread_mutex_lock (&c->lock);
  *worst = max (*worst, age);
  pthread_mutex_unlock (&c->lock);
  if (age > limit)
    client_fail ("late: %s%s of %" PRIu32 " at %" PRIu64 " %s after %.3f s",
                 type_names[r->type], r->fua ? " with FUA" : "",
                 r->range.len, r->range.offset, state, age / 1e9);
}

/* Is there possibly no good copy left of what a request needs? */
static bool
may_be_error (struct client *c, const struct request *r)
{
  if (trouble_met (TROUBLE_READ_ERRORS, r->start_ns))
    return true;
  if (!trouble_met (TROUBLE_ERRORS, r->start_ns))
    return false;
  return r->type != REQUEST_READ ||
    (trouble_met (TROUBLE_LOSSES, r->start_ns) &&
     model_is_unflushed (c->params->model, r->range.offset, r->range.len));
}

static void
check_error (struct client *c, const struct request *r)
{
  int error = nbd_get_errno ();

  if (error != EIO || !may_be_error (c, r))
    client_fail ("error: %s%s of %" PRIu32 " at %" PRIu64 " (page %" PRIu64
                 "): %s", type_names[r->type], r->fua ? " with FUA" : "",
                 r->range.len, r->range.offset, r->range.offset / MODEL_PAGE,
                 nbd_get_error ());
  count (c, &c->counts.errors);
}

/* What a flush or FUA promises is on the local copy, whatever is written
 * from now on.
 */
static void
check_copy (struct client *c, const struct request *r, uint64_t page)
{
  struct model *m = c->params->model;
  unsigned char want[MODEL_PAGE];
  uint64_t version;

  if (!model_get_flushed (m, page, &r->range, want, &version))
    return;
  if (pread (c->copy, c->page, MODEL_PAGE, page * MODEL_PAGE) != MODEL_PAGE)
    client_fail ("reading %s: %s", c->params->copy, strerror (errno));
  if (memcmp (want, c->page, MODEL_PAGE) != 0 &&
      model_is_unchanged (m, page, version))
    client_fail ("wrong: page %" PRIu64 " of the local copy after a %s%s",
                 page, type_names[r->type], r->fua ? " with FUA" : "");
  count (c, &c->counts.copy_pages);
}

static void
check_flushed (struct client *c, const struct request *r)
{
  for (int i = 0; i < COPY_PAGES; i++) {
    uint64_t at = r->type == REQUEST_FLUSH ?
      pattern_below (&c->random, nbd_get_size (c->nbd)) :
      r->range.offset + pattern_below (&c->random, r->range.len);

    check_copy (c, r, at / MODEL_PAGE);
  }
}

static void
answered (struct client *c, struct request *r, bool ok)
{
  struct model *m = c->params->model;

  r->in_flight = false;
  c->last_ok = ok;
  if (!ok)
    check_error (c, r);
  check_age (c, r, "answered");
  switch (r->type) {
  case REQUEST_READ:
    count (c, &c->counts.reads);
    if (!model_end_read (m, &r->range, ok ? r->buf : NULL))
      client_fail ("wrong bytes were read");
    break;
  case REQUEST_FLUSH:
    count (c, &c->counts.flushes);
    if (ok)
      model_flushed (m, r->range.start);
    break;
  default:
    count (c, r->type == REQUEST_WRITE ? &c->counts.writes :
           &c->counts.discards);
    model_end_write (m, &r->range, !ok);
  }
  if (ok && (r->type == REQUEST_FLUSH || r->fua))
    check_flushed (c, r);
}

void
client_poll (struct client *c)
{
  if (nbd_poll (c->nbd, 100) == -1)
    client_fail ("the connection: %s", nbd_get_error ());
  for (int i = 0; i < CLIENT_DEPTH_MAX; i++) {
    struct request *r = &c->requests[i];
    int done;

    if (!r->in_flight)
      continue;
    done = nbd_aio_command_completed (c->nbd, r->cookie);
    if (done == 0)
      check_age (c, r, "unanswered");
    else
      answered (c, r, done == 1);
  }
}

bool
client_do (struct client *c, enum request_type type, uint64_t offset,
           uint32_t len, uint64_t seed)
{
  while (!client_send (c, type, offset, len, seed, false))
    usleep (1000);
  while (client_in_flight (c) > 0)
    client_poll (c);
  return c->last_ok;
}
