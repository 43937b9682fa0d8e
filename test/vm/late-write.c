/* What becomes of a WRITE that is outstanding when its time is up, on a
 * network that is cut and restored meanwhile.  Run on two machines; the
 * usage is below.  test/vm/test_late_write.sh runs it and judges.
 *
 * In each experiment the borrower writes X over the donor's memory again
 * and again until the network is cut and a write is late.  The queue pair
 * would go on trying long after that: it sends again every RETRY_NS, and
 * what it sends then is what the buffer holds then.  When the network is
 * restored, just after one such attempt, the borrower opens a second
 * session; the next attempt comes while the donor watches its memory.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "conf/address.h"
#include "fabric/fabric.h"

#define NS_PER_S INT64_C (1000000000)
#define NS_PER_MS INT64_C (1000000)
#define DEADLINE_NS (2 * NS_PER_S)
#define DONOR_DEADLINE_NS (3 * NS_PER_S)
/* A lane connected with this time-out tries for half of it: every
 * 4.096 us * 2^20, seven times in all.
 */
#define LANE_TIMEOUT_NS (70 * NS_PER_S)
#define RETRY_NS (INT64_C (4096) << 20)
/* After an attempt, until it is certainly over. */
#define MARGIN_NS (400 * NS_PER_MS)
#define PATIENCE_NS (120 * NS_PER_S)

enum {
  OPS = FABRIC_QUEUE_DEPTH,
  OP_BYTES = 16 << 10,
  MEMORY_BYTES = OPS * OP_BYTES,
  SAMPLE_MS = 10,
  SESSIONS = 2,
};

struct experiment {
  const char *name, *meaning;
  bool settle;                  /* the borrower waits with fabric_wait */
  bool end;                     /* the donor ends the lane while it is cut */
  char refill;                  /* into the borrower's buffer, when late */
  char next;                    /* into the donor's memory, once silent */
  char renew;                   /* written by the second session */
};

static const struct experiment experiments[] = {
  { "reuse", "the buffer is reused once fabric_wait returned",
    .settle = true, .refill = 'Y' },
  { "reuse-early", "the same, but the queue is not broken (wrong)",
    .refill = 'Y' },
  { "next", "the donor ends the lane and reuses the memory",
    .end = true, .next = 'Z' },
  { "next-kept", "the same, but the lane is not ended (wrong)",
    .next = 'Z' },
  { "return", "the donor ends the lane; a new session writes again",
    .end = true, .renew = 'N' },
  { "return-kept", "the same, but the lane is not ended (wrong)",
    .renew = 'N' },
};

enum message_type { HELLO = 1, GRANT, WRITING, WRITTEN, OVER };

/* Between two of the same program on the same kind of machine. */
struct message {
  uint32_t type;
  uint64_t address, key;        /* of GRANT */
};

static unsigned cycle;

/* A line of output begins with the number of the experiment. */
static void __attribute__ ((format (printf, 1, 2)))
say (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  printf ("%u ", cycle);
  vprintf (format, args);
  putchar ('\n');
  fflush (stdout);
  va_end (args);
}

static void __attribute__ ((noreturn, format (printf, 1, 2)))
die (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  fputs ("late-write: ", stderr);
  vfprintf (stderr, format, args);
  fputc ('\n', stderr);
  va_end (args);
  exit (2);
}

static void
check (int r, const char *what)
{
  if (r < 0)
    die ("%s: %s", what, strerror (-r));
}

static int
ms_since (int64_t from_ns)
{
  return (fabric_now_ns () - from_ns) / NS_PER_MS;
}

static void
sleep_until (int64_t when_ns)
{
  const struct timespec when = {
    .tv_sec = when_ns / NS_PER_S, .tv_nsec = when_ns % NS_PER_S,
  };

  while (clock_nanosleep (CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) != 0)
    ;
}

/* Wait for a descriptor, but at most PATIENCE_NS from the beginning. */
static void
wait_readable (int fd, int64_t begin_ns, const char *what)
{
  struct pollfd pfd = { .fd = fd, .events = POLLIN };

  if (poll (&pfd, 1, 100) < 0)
    check (-errno, "poll");
  if (fabric_now_ns () > begin_ns + PATIENCE_NS)
    die ("%s: nothing for %d s", what, (int) (PATIENCE_NS / NS_PER_S));
}

static char *
allocate (void)
{
  char *p = mmap (NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  if (p == MAP_FAILED)
    check (-errno, "mmap");
  return p;
}

/* 1 if there was a message, 0 if not, -errno when the channel has ended. */
static int
receive (struct fabric_channel *c, struct message *m)
{
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int r;

  r = fabric_channel_receive (c, buf, sizeof buf);
  if (r <= 0)
    return r;
  if (r != sizeof *m)
    die ("a message of %d bytes", r);
  memcpy (m, buf, sizeof *m);
  return 1;
}

struct donor_address { struct sockaddr_storage addr; socklen_t len; };

/* The borrower's end of a session. */
struct lane {
  struct fabric_channel *channel;
  struct fabric_domain *domain;
  struct fabric_region *region;
  struct fabric_queue *queue;
  struct message grant;
  char *local;
  struct fabric_op ops[OPS];
};

static int
await_message (struct fabric_channel *c, struct message *m)
{
  const int64_t begin_ns = fabric_now_ns ();
  int r;

  while ((r = receive (c, m)) == 0)
    wait_readable (fabric_channel_fd (c), begin_ns, "the donor");
  return r;
}

/* The donor closes the channel when it has heard that it is over. */
static void
await_end (struct fabric_channel *c)
{
  struct message m;

  if (await_message (c, &m) == 1)
    die ("message %u", m.type);
}

static void
tell (struct fabric_channel *c, enum message_type type)
{
  const struct message m = { .type = type };

  check (fabric_channel_send (c, &m, sizeof m), "a message");
}

static void
lane_open (struct lane *l, const struct donor_address *donor, uint64_t session)
{
  const struct fabric_preface preface = {
    .kind = FABRIC_LANE, .session = session,
  };
  const struct sockaddr *addr = (const struct sockaddr *) &donor->addr;
  const int64_t begin_ns = fabric_now_ns ();
  int r;

  *l = (struct lane) { .local = allocate () };
  check (fabric_channel_connect (&fabric_verbs, addr, donor->len,
                                 LANE_TIMEOUT_NS, &l->channel), "connect");
  tell (l->channel, HELLO);
  check (await_message (l->channel, &l->grant), "the donor's answer");
  check (fabric_domain_create (l->channel, &l->domain), "domain");
  check (fabric_region_add (l->domain, l->local, MEMORY_BYTES, false,
                            &l->region), "region");
  check (fabric_queue_connect (l->domain, addr, donor->len, &preface,
                               LANE_TIMEOUT_NS, &l->queue), "lane");
  while ((r = fabric_queue_step (l->queue)) == -EAGAIN)
    wait_readable (fabric_queue_fd (l->queue), begin_ns, "the lane");
  check (r, "the lane");
}

static void
lane_close (struct lane *l)
{
  /* Breaks and settles it if anything is outstanding. */
  fabric_wait (&l->queue, 1, fabric_now_ns ());
  fabric_queue_free (l->queue);
  check (fabric_region_remove (l->region), "remove");
  fabric_domain_free (l->domain);
  fabric_channel_close (l->channel);
  munmap (l->local, MEMORY_BYTES);
}

/* The whole buffer over the whole of the donor's memory. */
static void
post_all (struct lane *l)
{
  for (size_t i = 0; i < OPS; i++) {
    l->ops[i] = (struct fabric_op) {
      .type = FABRIC_WRITE,
      .region = l->region,
      .local = l->local + i * OP_BYTES,
      .length = OP_BYTES,
      .remote = l->grant.address + i * OP_BYTES,
      .key = l->grant.key,
    };
    check (fabric_queue_post (l->queue, &l->ops[i]), "post");
  }
}

/* What fabric_wait does, except that it leaves the queue alone when time
 * is up.  *progress_ns becomes the time of the last completion.
 */
static int
wait_only (struct lane *l, int64_t deadline_ns, int64_t *progress_ns)
{
  struct fabric_queue *q = l->queue;
  unsigned before;

  for (;;) {
    before = q->outstanding;
    q->ops->queue_poll (q);
    if (q->outstanding < before)
      *progress_ns = fabric_now_ns ();
    if (q->outstanding == 0)
      return 0;
    if (fabric_now_ns () >= deadline_ns)
      return -ETIMEDOUT;
    sleep_until (fabric_now_ns () + NS_PER_MS);
  }
}

static void
check_statuses (const struct lane *l)
{
  for (size_t i = 0; i < OPS; i++)
    check (l->ops[i].status, "a write");
}

/* Write everything once; the network is there. */
static void
write_once (struct lane *l, char byte)
{
  memset (l->local, byte, MEMORY_BYTES);
  post_all (l);
  check (fabric_wait (&l->queue, 1, fabric_now_ns () + PATIENCE_NS), "write");
  check_statuses (l);
}

/* fabric_wait promises that nothing is left when it returns. */
static void
check_settled (const struct lane *l, int64_t deadline_ns)
{
  const int late_ms = ms_since (deadline_ns);
  unsigned failed = 0;

  if (l->queue->outstanding != 0)
    die ("%u operations are outstanding", l->queue->outstanding);
  for (size_t i = 0; i < OPS; i++) {
    if (!l->ops[i].done)
      die ("operation %zu is not done", i);
    failed += l->ops[i].status != 0;
  }
  if (failed == 0)
    die ("all operations went well after all");
  say ("timed out: %u of %d writes ended in error, settled %d ms after"
       " the deadline", failed, OPS, late_ms);
}

/* Post again what is done.  The queue is kept full: it holds more than a
 * queue pair may send without an answer, so that some WRITEs cannot have
 * left when the network is cut.
 */
static bool
post_again (struct lane *l)
{
  bool progress = false;

  l->queue->ops->queue_poll (l->queue);
  for (size_t i = 0; i < OPS; i++)
    if (l->ops[i].done) {
      check (l->ops[i].status, "a write");
      check (fabric_queue_post (l->queue, &l->ops[i]), "post");
      progress = true;
    }
  return progress;
}

/* Returns the time of the last completion. */
static int64_t
write_until_cut (struct lane *l)
{
  const int64_t begin_ns = fabric_now_ns ();
  int64_t progress_ns = begin_ns, told_ns = 0;

  post_all (l);
  do {
    if (post_again (l))
      progress_ns = fabric_now_ns ();
    if (progress_ns > told_ns + DONOR_DEADLINE_NS / 10) {
      tell (l->channel, WRITING);
      told_ns = progress_ns;
    }
    if (progress_ns > begin_ns + PATIENCE_NS)
      die ("the network was not cut");
    sleep_until (fabric_now_ns () + NS_PER_MS);
  } while (fabric_now_ns () < progress_ns + DEADLINE_NS / 2);
  return progress_ns;
}

/* Returns the time of the last completion. */
static int64_t
write_until_late (struct lane *l, const struct experiment *x)
{
  int64_t progress_ns, deadline_ns;
  int r;

  memset (l->local, 'X', MEMORY_BYTES);
  do {
    progress_ns = write_until_cut (l);
    deadline_ns = progress_ns + DEADLINE_NS;
    if (x->settle)
      r = fabric_wait (&l->queue, 1, deadline_ns);
    else
      r = wait_only (l, deadline_ns, &progress_ns);
    if (r == 0)
      check_statuses (l);
  } while (r == 0);
  if (x->settle)
    check_settled (l, deadline_ns);
  else
    say ("timed out: %u writes left outstanding", l->queue->outstanding);
  return progress_ns;
}

/* The other end of stdin tells when the network is there again. */
static void
await_network (void)
{
  char line[8];

  say ("restore");
  if (fgets (line, sizeof line, stdin) == NULL)
    die ("nobody says that the network is restored");
}

/* Until the attempt after the restoration is over, or no other will come. */
static void
await_attempt (struct lane *l, int64_t last_ns)
{
  const int64_t end_ns = last_ns + 2 * RETRY_NS + MARGIN_NS;
  bool waiting = l->queue->outstanding > 0;
  int64_t ignored;

  if (!waiting)
    sleep_until (end_ns);
  else if (wait_only (l, end_ns, &ignored) == 0)
    say ("the late writes ended with status %d", l->ops[OPS - 1].status);
}

static void
borrow (const struct donor_address *donor, const struct experiment *x)
{
  struct lane old, new;
  int64_t last_ns;

  lane_open (&old, donor, 0);
  write_once (&old, 'A');
  say ("cut");
  last_ns = write_until_late (&old, x);
  if (x->refill)
    memset (old.local, x->refill, MEMORY_BYTES);
  sleep_until (last_ns + RETRY_NS + MARGIN_NS);
  await_network ();

  lane_open (&new, donor, 1);
  if (x->renew) {
    write_once (&new, x->renew);
    tell (new.channel, WRITTEN);
    say ("written %d ms after the last answer on the old lane",
         ms_since (last_ns));
  }
  await_attempt (&old, last_ns);
  tell (new.channel, OVER);
  await_end (new.channel);
  lane_close (&new);
  lane_close (&old);
}

/* The donor's end. */
struct session {
  struct fabric_channel *channel;
  struct fabric_domain *domain;
  struct fabric_region *region;
  struct fabric_service *service;
};

struct donor {
  struct fabric_listener *listener;
  const struct experiment *experiment;
  char *memory;
  struct session sessions[SESSIONS];
  int64_t heard_ns;             /* last, from the first session; or 0 */
  bool silent, over;
  char only;                    /* what all the memory must be, if not 0 */
  bool stale;
};

static void
session_end (struct session *s)
{
  if (s->service != NULL)
    fabric_service_end (s->service);
  s->service = NULL;
}

static void
session_close (struct session *s)
{
  session_end (s);
  if (s->region != NULL)
    check (fabric_region_remove (s->region), "remove");
  if (s->domain != NULL)
    fabric_domain_free (s->domain);
  if (s->channel != NULL)
    fabric_channel_close (s->channel);
  *s = (struct session) { 0 };
}

/* Each session has a domain of its own over the same memory. */
static void
session_grant (struct session *s, char *memory)
{
  struct message m = { .type = GRANT };

  check (fabric_domain_create (s->channel, &s->domain), "domain");
  check (fabric_region_add (s->domain, memory, MEMORY_BYTES, true,
                            &s->region), "region");
  m.address = fabric_region_address (s->region);
  m.key = fabric_region_key (s->region);
  check (fabric_channel_send (s->channel, &m, sizeof m), "grant");
}

static void
accept_callers (struct donor *d)
{
  const struct fabric_preface *preface;
  struct fabric_request *request;
  struct session *s;

  while (fabric_listener_accept (d->listener, &request) == 0) {
    preface = fabric_request_preface (request);
    if (preface->kind == FABRIC_CONTROL) {
      s = &d->sessions[d->silent ? 1 : 0];
      session_close (s);
      check (fabric_channel_accept (request, &s->channel), "accept");
    }
    else if (preface->session < SESSIONS &&
             d->sessions[preface->session].domain != NULL) {
      s = &d->sessions[preface->session];
      session_end (s);
      check (fabric_service_accept (request, s->domain, &s->service),
             "accept a lane");
    }
    else
      fabric_request_reject (request);
  }
}

static void
react (struct donor *d, struct session *s, const struct message *m)
{
  if (!d->silent)
    d->heard_ns = fabric_now_ns ();
  switch (m->type) {
  case HELLO:
    session_grant (s, d->memory);
    break;
  case WRITING:
    break;
  case WRITTEN:
    d->only = d->experiment->renew;
    break;
  case OVER:
    d->over = true;
    break;
  default:
    die ("message %u", m->type);
  }
}

/* The first session's messages are of no interest once it was silent. */
static void
hear (struct donor *d)
{
  struct session *s = &d->sessions[d->silent ? 1 : 0];
  struct message m;

  if (s->channel == NULL)
    return;
  while (receive (s->channel, &m) == 1)
    react (d, s, &m);
}

/* The borrower has been silent for too long. */
static void
give_up (struct donor *d)
{
  const int64_t begin_ns = fabric_now_ns ();

  if (d->experiment->end) {
    session_end (&d->sessions[0]);
    say ("ended the lane in %d ms", ms_since (begin_ns));
  }
  d->only = d->experiment->next;
  if (d->only)
    memset (d->memory, d->only, MEMORY_BYTES);
  d->silent = true;
  say ("silent");
}

/* The first byte that must not be there, or NULL. */
static const volatile char *
find_stale (const struct donor *d)
{
  const volatile char *p, *end = d->memory + MEMORY_BYTES;

  for (p = d->memory; p < end; p++)
    if (d->only ? *p != d->only : *p == 'Y')
      return p;
  return NULL;
}

static void
watch_memory (struct donor *d)
{
  const volatile char *p;

  if (d->stale)
    return;
  p = find_stale (d);
  if (p == NULL)
    return;
  d->stale = true;
  say ("stale byte: %c at %td, %d ms after the last message", *p,
       p - d->memory, ms_since (d->heard_ns));
}

static void
wait_moment (struct donor *d)
{
  struct fabric_channel *c = d->sessions[d->silent ? 1 : 0].channel;
  struct pollfd pfds[] = {
    { .fd = fabric_listener_fd (d->listener), .events = POLLIN },
    { .fd = c != NULL ? fabric_channel_fd (c) : -1, .events = POLLIN },
  };

  if (poll (pfds, 2, SAMPLE_MS) < 0)
    check (-errno, "poll");
}

static void
lend (struct donor *d, const struct experiment *x)
{
  const int64_t begin_ns = fabric_now_ns ();

  *d = (struct donor) {
    .listener = d->listener, .memory = d->memory, .experiment = x,
  };
  memset (d->memory, 0, MEMORY_BYTES);
  while (!d->over) {
    if (fabric_now_ns () > begin_ns + 2 * PATIENCE_NS)
      die ("the borrower is gone");
    wait_moment (d);
    accept_callers (d);
    hear (d);
    if (!d->silent && d->heard_ns != 0 &&
        fabric_now_ns () > d->heard_ns + DONOR_DEADLINE_NS)
      give_up (d);
    watch_memory (d);
  }
  say ("%s: %s", x->name, d->stale ? "stale" : "clean");
  for (size_t i = 0; i < SESSIONS; i++)
    session_close (&d->sessions[i]);
}

static void __attribute__ ((noreturn))
usage (FILE *out, int status)
{
  fprintf (out,
           "Usage: late-write donor|borrower ADDR:PORT EXPERIMENT...\n"
           "Both ends are given the donor's address and the same list.  Cut\n"
           "the network when the borrower prints \"N cut\", restore it when\n"
           "it printed \"N restore\" and the donor \"N silent\", and then\n"
           "give the borrower a line on stdin.\n\n");
  for (size_t i = 0; i < sizeof experiments / sizeof experiments[0]; i++)
    fprintf (out, "  %-12s %s\n", experiments[i].name,
             experiments[i].meaning);
  fprintf (out, "\nThe donor prints \"N EXPERIMENT: clean\", or \"stale\" if a"
           " byte was in its memory\nthat must not be there.\n");
  exit (status);
}

static const struct experiment *
find_experiment (const char *name)
{
  for (size_t i = 0; i < sizeof experiments / sizeof experiments[0]; i++)
    if (strcmp (experiments[i].name, name) == 0)
      return &experiments[i];
  fprintf (stderr, "late-write: no such experiment: %s\n", name);
  usage (stderr, 2);
}

static void
parse_address (const char *text, struct donor_address *ret)
{
  const struct addrinfo hints = {
    .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM,
  };
  g_autofree char *error = NULL;
  struct addrinfo *found;
  struct address *a;
  char port[8];

  a = address_parse (text, &error);
  if (a == NULL)
    die ("%s", error);
  snprintf (port, sizeof port, "%u", a->port);
  if (getaddrinfo (a->host, port, &hints, &found) != 0)
    die ("not a number: %s", text);
  memcpy (&ret->addr, found->ai_addr, found->ai_addrlen);
  ret->len = found->ai_addrlen;
  freeaddrinfo (found);
  address_free (a);
}

int
main (int argc, char *argv[])
{
  struct donor d = { 0 };
  struct donor_address a;
  bool donor;

  if (argc == 2 && strcmp (argv[1], "--help") == 0)
    usage (stdout, 0);
  if (argc < 4 || (strcmp (argv[1], "donor") != 0 &&
                   strcmp (argv[1], "borrower") != 0))
    usage (stderr, 2);
  donor = strcmp (argv[1], "donor") == 0;
  parse_address (argv[2], &a);
  for (int i = 3; i < argc; i++)
    find_experiment (argv[i]);

  if (donor) {
    d.memory = allocate ();
    check (fabric_listen (&fabric_verbs, (struct sockaddr *) &a.addr, a.len,
                          &d.listener), "listen");
    say ("listening");
  }
  for (int i = 3; i < argc; i++) {
    cycle = i - 2;
    if (donor)
      lend (&d, find_experiment (argv[i]));
    else
      borrow (&a, find_experiment (argv[i]));
  }
  if (donor)
    fabric_listener_close (d.listener);
  return 0;
}
