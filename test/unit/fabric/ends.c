#include <arpa/inet.h>
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "test/unit/fabric/ends.h"

static const int64_t connect_timeout_ns = ENDS_PATIENCE_NS / 2;

const struct fabric_ops *ends_ops;
const char *ends_host;

/* ThreadSanitizer takes a send to read its buffer after the system call,
 * when the other end may have answered and the memory may have changed
 * hands.
 */
__attribute__ ((visibility ("default"))) const char *
__tsan_default_options (void);

const char *
__tsan_default_options (void)
{
  return "intercept_send=0";
}

/* xorshift64*: all a test needs. */
uint64_t
ends_random (void)
{
  static uint64_t state;

  if (state == 0) {
    const char *seed = getenv ("SEED");

    state = seed ? strtoull (seed, NULL, 0)
                 : (uint64_t) time (NULL) << 20 ^ (uint64_t) getpid ();
    state += state == 0;
    printf ("SEED=%llu\n", (unsigned long long) state);
    fflush (stdout);
  }
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * UINT64_C (0x2545f4914f6cdd1d);
}

unsigned
ends_count_fds (void)
{
  DIR *dir = opendir ("/proc/self/fd");
  unsigned n = 0;

  ck_assert_ptr_nonnull (dir);
  while (readdir (dir))
    n++;
  closedir (dir);
  return n;
}

/* Until one of two descriptors (-1: none) is readable. */
static void
wait_readable (int a, int b)
{
  struct pollfd fds[2] = {
    { .fd = a, .events = POLLIN }, { .fd = b, .events = POLLIN },
  };

  ck_assert_int_gt (poll (fds, 2, ENDS_PATIENCE_NS / 1000000), 0);
}

socklen_t
ends_address (uint16_t port, struct sockaddr_storage *addr)
{
  struct sockaddr_in *in = (struct sockaddr_in *) addr;
  struct sockaddr_in6 *in6 = (struct sockaddr_in6 *) addr;

  memset (addr, 0, sizeof *addr);
  if (inet_pton (AF_INET, ends_host, &in->sin_addr) == 1) {
    in->sin_family = AF_INET;
    in->sin_port = htons (port);
    return sizeof *in;
  }
  ck_assert_int_eq (inet_pton (AF_INET6, ends_host, &in6->sin6_addr), 1);
  in6->sin6_family = AF_INET6;
  in6->sin6_port = htons (port);
  return sizeof *in6;
}

struct fabric_listener *
ends_listen (struct sockaddr_storage *addr, socklen_t *len)
{
  struct fabric_listener *l;
  int r;

  do {
    *len = ends_address (20000 + ends_random () % 10000, addr);
    r = fabric_listen (ends_ops, (struct sockaddr *) addr, *len, &l);
  } while (r == -EADDRINUSE);
  ck_assert_int_eq (r, 0);
  return l;
}

struct fabric_request *
ends_accept (struct fabric_listener *l)
{
  struct fabric_request *request;
  int r;

  while ((r = fabric_listener_accept (l, &request)) == -EAGAIN)
    wait_readable (fabric_listener_fd (l), -1);
  ck_assert_int_eq (r, 0);
  return request;
}

static void
append (struct talker *t, const void *data, size_t len)
{
  if (t->filled + len > t->size) {
    t->size = 2 * (t->filled + len);
    t->inbox = realloc (t->inbox, t->size);
    ck_assert_ptr_nonnull (t->inbox);
  }
  memcpy (t->inbox + t->filled, data, len);
  t->filled += len;
}

void
talker_pump (struct talker *t)
{
  uint8_t buf[FABRIC_MESSAGE_MAX];
  size_t len;
  int r;

  if (!t->channel)
    return;
  while ((r = fabric_channel_receive (t->channel, buf, sizeof buf)) > 0) {
    len = r;
    append (t, &len, sizeof len);
    append (t, buf, len);
  }
  t->error = r;
}

void
talker_wait (struct talker *a, struct talker *b)
{
  wait_readable (a->channel ? fabric_channel_fd (a->channel) : -1,
                 b->channel ? fabric_channel_fd (b->channel) : -1);
}

int
talker_receive (struct talker *to, struct talker *from, void *buf)
{
  size_t len;

  for (;;) {
    talker_pump (from);
    talker_pump (to);
    if (to->filled > to->read)
      break;
    if (to->error < 0)
      return to->error;
    talker_wait (to, from);
  }
  memcpy (&len, to->inbox + to->read, sizeof len);
  memcpy (buf, to->inbox + to->read + sizeof len, len);
  to->read += sizeof len + len;
  return len;
}

void
talker_close (struct talker *t)
{
  if (t->channel)
    fabric_channel_close (t->channel);
  free (t->inbox);
  *t = (struct talker) { 0 };
}

/* A control connection that has carried a message each way stands at
 * both ends.
 */
static void
open_channels (struct ends *e)
{
  struct fabric_request *request;
  char buf[FABRIC_MESSAGE_MAX];

  ck_assert_int_eq (fabric_channel_connect (
    ends_ops, (struct sockaddr *) &e->addr, e->addr_len, connect_timeout_ns,
    &e->borrower.channel), 0);
  ck_assert_int_eq (fabric_channel_send (e->borrower.channel, "?", 1), 0);
  while (fabric_listener_accept (e->listener, &request) == -EAGAIN) {
    wait_readable (fabric_listener_fd (e->listener),
                   fabric_channel_fd (e->borrower.channel));
    talker_pump (&e->borrower);
    ck_assert_int_eq (e->borrower.error, 0);
  }
  ck_assert_int_eq (fabric_channel_accept (request, &e->donor.channel), 0);
  ck_assert_int_eq (talker_receive (&e->donor, &e->borrower, buf), 1);
  ck_assert_int_eq (fabric_channel_send (e->donor.channel, "!", 1), 0);
  ck_assert_int_eq (talker_receive (&e->borrower, &e->donor, buf), 1);
}

static uint8_t *
allocate_memory (void)
{
  void *p = mmap (NULL, ENDS_MEMORY_BYTES, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  ck_assert_ptr_ne (p, MAP_FAILED);
  return p;
}

void
ends_open (struct ends *e)
{
  *e = (struct ends) { 0 };
  e->listener = ends_listen (&e->addr, &e->addr_len);
  open_channels (e);
  e->local = allocate_memory ();
  e->memory = allocate_memory ();
  ck_assert_int_eq (fabric_domain_create (e->borrower.channel,
                                          &e->borrower_domain), 0);
  ck_assert_int_eq (fabric_domain_create (e->donor.channel,
                                          &e->donor_domain), 0);
  ck_assert_int_eq (fabric_region_add (e->borrower_domain, e->local,
                                       ENDS_MEMORY_BYTES, false,
                                       &e->local_region), 0);
  ck_assert_int_eq (fabric_region_add (e->donor_domain, e->memory,
                                       ENDS_MEMORY_BYTES, true,
                                       &e->region), 0);
}

void
ends_remove (struct fabric_region *r)
{
  const int64_t until_ns = fabric_now_ns () + ENDS_PATIENCE_NS;
  int err;

  while ((err = fabric_region_remove (r)) == -EBUSY)
    ck_assert_int_lt (fabric_now_ns (), until_ns);
  ck_assert_int_eq (err, 0);
}

void
ends_close (struct ends *e)
{
  ck_assert_int_eq (fabric_region_remove (e->region), 0);
  ck_assert_int_eq (fabric_region_remove (e->local_region), 0);
  fabric_domain_free (e->borrower_domain);
  fabric_domain_free (e->donor_domain);
  munmap (e->local, ENDS_MEMORY_BYTES);
  munmap (e->memory, ENDS_MEMORY_BYTES);
  talker_close (&e->borrower);
  talker_close (&e->donor);
  fabric_listener_close (e->listener);
}

int
queue_finish_connect (struct fabric_queue *q)
{
  int r;

  while ((r = fabric_queue_step (q)) == -EAGAIN)
    wait_readable (fabric_queue_fd (q), -1);
  return r;
}

void
lane_open_between (struct ends *e, struct fabric_domain *borrower,
                   struct fabric_domain *donor, struct lane *l)
{
  const struct fabric_preface preface = {
    .kind = FABRIC_LANE, .session = 1, .token = 2,
  };
  struct fabric_request *request;

  ck_assert_int_eq (fabric_queue_connect (
    borrower, (struct sockaddr *) &e->addr, e->addr_len, &preface,
    connect_timeout_ns, &l->queue), 0);
  while (fabric_listener_accept (e->listener, &request) == -EAGAIN) {
    wait_readable (fabric_listener_fd (e->listener),
                   fabric_queue_fd (l->queue));
    ck_assert_int_eq (fabric_queue_step (l->queue), -EAGAIN);
  }
  ck_assert_int_eq (fabric_service_accept (request, donor, &l->service), 0);
  ck_assert_int_eq (queue_finish_connect (l->queue), 0);
}

void
lane_open (struct ends *e, struct lane *l)
{
  lane_open_between (e, e->borrower_domain, e->donor_domain, l);
}

void
lane_close (struct lane *l)
{
  if (l->queue)
    fabric_queue_free (l->queue);
  if (l->service)
    fabric_service_end (l->service);
  *l = (struct lane) { 0 };
}

struct fabric_op
ends_op (struct ends *e, enum fabric_type type, size_t local, size_t remote,
         uint32_t length)
{
  return (struct fabric_op) {
    .type = type,
    .region = e->local_region,
    .local = e->local + local,
    .length = length,
    .remote = fabric_region_address (e->region) + remote,
    .key = fabric_region_key (e->region),
  };
}

void
queue_wait (struct fabric_queue *q)
{
  ck_assert_int_eq (fabric_wait (&q, 1, fabric_now_ns () + ENDS_PATIENCE_NS),
                    0);
  ck_assert_uint_eq (q->outstanding, 0);
}

int
queue_run (struct fabric_queue *q, struct fabric_op *op)
{
  ck_assert_int_eq (fabric_queue_post (q, op), 0);
  queue_wait (q);
  ck_assert (op->done);
  return op->status;
}
