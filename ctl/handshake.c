#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>

#include <glib.h>
#include <libnbd.h>
#include <linux/nbd.h>

#include "ctl/handshake.h"

/* The kernel knows neither structured replies nor TLS. */
static bool
prepare (struct nbd_handle *h)
{
  return nbd_set_request_structured_replies (h, false) == 0 &&
    nbd_set_tls (h, LIBNBD_TLS_DISABLE) == 0;
}

/* -errno, or 0 when requests may be sent. */
static int
negotiate (struct nbd_handle *h, int64_t end_us)
{
  while (nbd_aio_is_ready (h) != 1) {
    int64_t left_ms = (end_us - g_get_monotonic_time ()) / 1000;
    int r = left_ms > 0 ? nbd_poll (h, left_ms) : 0;

    if (r == 0)
      return -ETIMEDOUT;
    if (r == -1 || nbd_aio_is_dead (h) == 1)
      return nbd_get_errno () != 0 ? -nbd_get_errno () : -ECONNRESET;
  }
  return 0;
}

/* Of what libnbd was told, what the kernel must know. */
static uint64_t
get_flags (struct nbd_handle *h)
{
  uint64_t flags = NBD_FLAG_HAS_FLAGS;

  if (nbd_is_read_only (h) == 1)
    flags |= NBD_FLAG_READ_ONLY;
  if (nbd_can_flush (h) == 1)
    flags |= NBD_FLAG_SEND_FLUSH;
  if (nbd_can_fua (h) == 1)
    flags |= NBD_FLAG_SEND_FUA;
  if (nbd_can_trim (h) == 1)
    flags |= NBD_FLAG_SEND_TRIM;
  if (nbd_can_multi_conn (h) == 1)
    flags |= NBD_FLAG_CAN_MULTI_CONN;
  return flags;
}

int
handshake_connect (const char *path, int64_t timeout_ns,
                   struct handshake_export *ret, char **error)
{
  const int64_t end_us = g_get_monotonic_time () + timeout_ns / 1000;
  struct nbd_handle *h = nbd_create ();
  int r = h != NULL && prepare (h) ? 0 : -ENOMEM, fd = -1;

  if (r == 0 && nbd_aio_connect_unix (h, path) == -1)
    r = nbd_get_errno () != 0 ? -nbd_get_errno () : -EIO;
  if (r == 0)
    r = negotiate (h, end_us);
  if (r == 0) {
    ret->size_bytes = nbd_get_size (h);
    ret->flags = get_flags (h);
    /* Closing the handle closes its descriptor, and says nothing on it. */
    fd = fcntl (nbd_aio_get_fd (h), F_DUPFD_CLOEXEC, 0);
    if (fd == -1)
      r = -errno;
  }
  if (r < 0)
    *error = g_strdup_printf ("no NBD handshake on %s: %s", path,
                              g_strerror (-r));
  nbd_close (h);
  return r < 0 ? r : fd;
}
