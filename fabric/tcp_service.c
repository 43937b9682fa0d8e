#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fabric/tcp.h"

/* Transfers go straight between socket and region, so the thread needs
 * little; all of it may be locked in memory.
 */
enum { STACK_BYTES = 128 << 10 };

/* A request and as much data as comes with most are received together: a
 * system call costs more than copying a page.
 */
enum { EARLY_BYTES = sizeof (struct wire_tcp_request) + 4096 };

struct tcp_service {
  struct fabric_service base;
  struct fabric_domain *domain;
  int fd;                       /* blocking */
  pthread_t thread;
  /* Shutting the connection down wakes the thread, but does not keep it
   * from reading what a peer has sent and goes on sending.
   */
  atomic_bool ending;

  uint8_t early[EARLY_BYTES];   /* the thread's: received and not used */
  size_t early_begin, early_end;
};

/* At least one byte into the empty buffer: 0 or -errno. */
static int
receive_early (struct tcp_service *s)
{
  ssize_t r;

  do
    r = recv (s->fd, s->early, sizeof s->early, 0);
  while (r < 0 && errno == EINTR);
  s->early_begin = 0;
  s->early_end = r > 0 ? r : 0;
  return r > 0 ? 0 : r == 0 ? -ECONNRESET : -errno;
}

static size_t
take_early (struct tcp_service *s, void *buf, size_t size)
{
  size_t n = s->early_end - s->early_begin;

  if (n > size)
    n = size;
  memcpy (buf, s->early + s->early_begin, n);
  s->early_begin += n;
  return n;
}

static int
receive_request (struct tcp_service *s, struct wire_tcp_request *request)
{
  size_t n = 0;
  int r = 0;

  while ((n += take_early (s, (uint8_t *) request + n, sizeof *request - n))
         < sizeof *request && r == 0)
    r = receive_early (s);
  return r;
}

/* What did not come with the request goes straight to its place. */
static int
receive_data (struct tcp_service *s, void *buf, size_t size)
{
  size_t n = take_early (s, buf, size);
  ssize_t r;

  while (n < size) {
    r = recv (s->fd, (uint8_t *) buf + n, size - n, MSG_WAITALL);
    if (r == 0)
      return -ECONNRESET;
    if (r < 0 && errno != EINTR)
      return -errno;
    if (r > 0)
      n += r;
  }
  return 0;
}

static int
respond (struct tcp_service *s, const struct wire_tcp_request *request,
         uint32_t status, void *data, uint32_t length)
{
  struct wire_tcp_response response = {
    .type = be32_from (TCP_RESPONSE),
    .tag = request->tag,
    .status = be32_from (status),
    .length = be32_from (length),
  };
  struct iovec parts[2] = {
    { .iov_base = &response, .iov_len = sizeof response },
    { .iov_base = data, .iov_len = length },
  };
  struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
  ssize_t r;

  while (parts[0].iov_len + parts[1].iov_len > 0) {
    r = sendmsg (s->fd, &message, MSG_NOSIGNAL);
    if (r < 0 && errno != EINTR)
      return -errno;
    if (r > 0)
      tcp_skip (parts, 2, r);
  }
  return 0;
}

/* The peer orders its accesses by the answers it has got, and may have got
 * one from whose sending this thread has not returned yet.  So accesses of
 * several lanes that are ordered can look like a race here.
 */
#ifdef __SANITIZE_THREAD__
void AnnotateIgnoreReadsBegin (const char *file, int line);
void AnnotateIgnoreReadsEnd (const char *file, int line);
void AnnotateIgnoreWritesBegin (const char *file, int line);
void AnnotateIgnoreWritesEnd (const char *file, int line);

static void
begin_access (void)
{
  AnnotateIgnoreReadsBegin (__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin (__FILE__, __LINE__);
}

static void
end_access (void)
{
  AnnotateIgnoreWritesEnd (__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd (__FILE__, __LINE__);
}
#else
static void begin_access (void) { }
static void end_access (void) { }
#endif

/* One request; -errno ends the lane. */
static int
serve_one (struct tcp_service *s)
{
  struct wire_tcp_request request;
  struct tcp_region *region = NULL;
  uint32_t type, length;
  void *addr;
  int r;

  r = receive_request (s, &request);
  if (r < 0)
    return r;
  type = be32_get (request.type);
  if (type != TCP_READ && type != TCP_WRITE)
    return -EBADMSG;
  length = be32_get (request.length);
  if (length >= 1 && length <= FABRIC_TRANSFER_MAX)
    region = tcp_pin (s->domain, be64_get (request.key),
                      be64_get (request.address), length, &addr);
  if (!region) {
    respond (s, &request, TCP_REFUSED, NULL, 0);
    return -EACCES;
  }

  begin_access ();
  if (type == TCP_READ)
    r = respond (s, &request, TCP_OK, addr, length);
  else
    r = receive_data (s, addr, length);
  end_access ();
  tcp_unpin (region);
  if (type == TCP_WRITE && r == 0)
    r = respond (s, &request, TCP_OK, NULL, 0);
  return r;
}

static void *
service_thread (void *arg)
{
  const struct be32 answer = be32_from (TCP_LANE_ACCEPTED);
  struct tcp_service *s = arg;

  tcp_send (s->fd, &answer, sizeof answer);
  while (!atomic_load (&s->ending) && serve_one (s) == 0)
    ;
  shutdown (s->fd, SHUT_RDWR);
  return NULL;
}

static int
start_thread (struct tcp_service *s)
{
  pthread_attr_t attr;
  sigset_t all, old;
  int r;

  r = pthread_attr_init (&attr);
  if (r != 0)
    return -r;
  pthread_attr_setstacksize (&attr, STACK_BYTES);
  /* Signals are for the program's own threads. */
  sigfillset (&all);
  pthread_sigmask (SIG_SETMASK, &all, &old);
  r = pthread_create (&s->thread, &attr, service_thread, s);
  pthread_sigmask (SIG_SETMASK, &old, NULL);
  pthread_attr_destroy (&attr);
  return -r;
}

int
tcp_service_accept (struct fabric_request *request, struct fabric_domain *d,
                    struct fabric_service **ret)
{
  struct tcp_service *s;
  int one = 1, fd, r;

  fd = tcp_request_take (request);
  s = calloc (1, sizeof *s);
  if (!s) {
    r = -ENOMEM;
    goto fail;
  }
  s->base.ops = &fabric_tcp;
  s->domain = d;
  s->fd = fd;
  if (setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0 ||
      fcntl (fd, F_SETFL, 0) < 0) {
    r = -errno;
    goto fail;
  }
  r = start_thread (s);
  if (r < 0)
    goto fail;
  *ret = &s->base;
  return 0;

fail:
  free (s);
  close (fd);
  return r;
}

void
tcp_service_end (struct fabric_service *base)
{
  struct tcp_service *s = (struct tcp_service *) base;

  atomic_store (&s->ending, true);
  shutdown (s->fd, SHUT_RDWR);
  pthread_join (s->thread, NULL);
  close (s->fd);
  free (s);
}
