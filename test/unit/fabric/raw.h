/* Plain sockets on loopback: the peers that break the tcp fabric's rules.
 * They block, but no longer than ENDS_PATIENCE_NS.  Whatever fails in
 * here fails the test.
 */

#ifndef ISW_RAW_H
#define ISW_RAW_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "fabric/fabric.h"

int raw_connect (const struct sockaddr_storage *addr, socklen_t len);

/* On a free port; takes few bytes that are not read. */
int raw_listen (int backlog, struct sockaddr_storage *addr, socklen_t *len);
int raw_accept (int listener);

void raw_send (int fd, const void *data, size_t len);
void raw_receive (int fd, void *buf, size_t len);
void raw_send_preface (int fd, enum fabric_kind kind);

/* Read whatever comes until the peer has closed or reset. */
void raw_expect_end (int fd);
/* Has the peer closed or reset, with nothing left to read? */
bool raw_ended (int fd);

/* Sleep until fd is readable or the time is over; is it? */
bool raw_readable (int fd, int timeout_ms);

/* The byte at p, which another thread may be changing. */
unsigned char raw_peek (const void *p);

#endif /* ISW_RAW_H */
