/* The NBD handshake: a connection to the server that the kernel can use. */

#ifndef ISW_CTL_HANDSHAKE_H
#define ISW_CTL_HANDSHAKE_H

#include <stdint.h>

struct handshake_export {
  uint64_t size_bytes;
  uint64_t flags;               /* NBD_FLAG_*, as far as the kernel knows */
};

/* Connect to the Unix socket and negotiate, within timeout_ns.  The
 * socket, past the handshake: nothing else reads from it, and it is the
 * caller's.  Or -errno, with a newly allocated line in *error.
 */
int handshake_connect (const char *path, int64_t timeout_ns,
                       struct handshake_export *ret, char **error);

#endif /* ISW_CTL_HANDSHAKE_H */
