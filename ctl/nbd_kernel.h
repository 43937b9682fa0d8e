/* The kernel's nbd driver: giving it connections, over generic netlink.
 *
 * A device that we make carries an identity (Linux 5.14 shows it in sysfs),
 * and is given new connections only with that, so that nobody else's can be
 * mistaken for ours.
 */

#ifndef ISW_CTL_NBD_KERNEL_H
#define ISW_CTL_NBD_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nbd_kernel;

struct nbd_kernel_device {
  int index;                    /* of /dev/nbdN; -1: the first free one */
  uint64_t size_bytes;
  uint64_t flags;               /* NBD_FLAG_*, of the server */
  uint64_t dead_timeout_s;      /* how long I/O waits for a new connection */
  const char *identity;
};

/* NULL with a newly allocated line in *error, as where the driver is not
 * loaded.
 */
struct nbd_kernel *nbd_kernel_open (char **error);
void nbd_kernel_close (struct nbd_kernel *k);

/* Attach a device to n connected sockets, past the handshake.  The kernel
 * takes references of its own.  The index of the device; -errno with
 * *error.
 */
int nbd_kernel_connect (struct nbd_kernel *k,
                        const struct nbd_kernel_device *d, const int *fds,
                        size_t n, char **error);

/* Replace dead connections by these; those that are not needed are not
 * taken.  0 or -errno.
 */
int nbd_kernel_reconnect (struct nbd_kernel *k, int index,
                          const char *identity, const int *fds, size_t n);

/* 0 or -errno.  The device stays in use while somebody has it open. */
int nbd_kernel_disconnect (struct nbd_kernel *k, int index);

/* Readable when connections of any device have died since. */
int nbd_kernel_events_fd (const struct nbd_kernel *k);
/* How many of this device's have; -1 if that is not known because too many
 * have died at once.  Does not block.
 */
int nbd_kernel_read_events (struct nbd_kernel *k, int index);

/* From sysfs: has somebody attached it, and with this identity?  Where
 * the kernel does not show any, it is taken to be the one.
 */
bool nbd_kernel_in_use (int index);
bool nbd_kernel_is (int index, const char *identity);
/* The index of the device with this identity; -1: none, or not shown. */
int nbd_kernel_find (const char *identity);
/* Until nobody has it, at most so long.  false then. */
bool nbd_kernel_await_free (int index, int64_t timeout_ns);

#endif /* ISW_CTL_NBD_KERNEL_H */
