#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/time.h>
#include <unistd.h>

#include "fabric/preface.h"
#include "test/unit/fabric/ends.h"
#include "test/unit/fabric/raw.h"

static int
raw_socket (int family)
{
  const struct timeval patience = {
    .tv_sec = ENDS_PATIENCE_NS / 1000000000,
  };
  int fd = socket (family, SOCK_STREAM | SOCK_CLOEXEC, 0);

  ck_assert_int_ge (fd, 0);
  setsockopt (fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt (fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  return fd;
}

int
raw_connect (const struct sockaddr_storage *addr, socklen_t len)
{
  int fd = raw_socket (addr->ss_family);

  ck_assert_int_eq (connect (fd, (const struct sockaddr *) addr, len), 0);
  return fd;
}

int
raw_listen (int backlog, struct sockaddr_storage *addr, socklen_t *len)
{
  const int small = 4096;
  int fd;

  *len = ends_address (0, addr);
  fd = raw_socket (addr->ss_family);
  setsockopt (fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  ck_assert_int_eq (bind (fd, (struct sockaddr *) addr, *len), 0);
  ck_assert_int_eq (listen (fd, backlog), 0);
  ck_assert_int_eq (getsockname (fd, (struct sockaddr *) addr, len), 0);
  return fd;
}

int
raw_accept (int listener)
{
  int fd = accept4 (listener, NULL, NULL, SOCK_CLOEXEC);

  ck_assert_int_ge (fd, 0);
  return fd;
}

void
raw_send (int fd, const void *data, size_t len)
{
  ck_assert_int_eq (send (fd, data, len, MSG_NOSIGNAL), len);
}

void
raw_receive (int fd, void *buf, size_t len)
{
  ck_assert_int_eq (recv (fd, buf, len, MSG_WAITALL), len);
}

void
raw_send_preface (int fd, enum fabric_kind kind)
{
  struct wire_preface w;

  preface_encode (&(struct fabric_preface) { .kind = kind }, &w);
  raw_send (fd, &w, sizeof w);
}

void
raw_expect_end (int fd)
{
  char buf[4096];
  ssize_t r;

  while ((r = recv (fd, buf, sizeof buf, 0)) > 0)
    ;
  ck_assert (r == 0 || errno == ECONNRESET);
}

bool
raw_ended (int fd)
{
  char byte;
  ssize_t r = recv (fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);

  return r == 0 || (r < 0 && errno == ECONNRESET);
}

bool
raw_readable (int fd, int timeout_ms)
{
  struct pollfd pfd = { .fd = fd, .events = POLLIN };

  return poll (&pfd, 1, timeout_ms) > 0;
}

/* Through the kernel: to a sanitizer a load would be a race. */
unsigned char
raw_peek (const void *p)
{
  unsigned char value;
  int fd = open ("/proc/self/mem", O_RDONLY | O_CLOEXEC);

  ck_assert_int_ge (fd, 0);
  ck_assert_int_eq (pread (fd, &value, 1, (off_t) (uintptr_t) p), 1);
  close (fd);
  return value;
}
