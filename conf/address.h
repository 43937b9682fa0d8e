/* HOST:PORT addresses. */

#ifndef ISW_ADDRESS_H
#define ISW_ADDRESS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct address {
  char *host;                   /* name or number, without brackets */
  uint16_t port;
};

void address_free (struct address *a);

/* "10.0.0.2:9400", "[::1]:9400", "node7:9400" (port 1 to 65535).  NULL
 * with a message in *error (g_free it) that names the text and what is
 * allowed.
 */
struct address *address_parse (const char *text, char **error);

/* The same form back, newly allocated. */
char *address_to_string (const struct address *a);

/* One form for every way of writing an address, newly allocated, so that
 * duplicates are found.
 */
char *address_canonical (const struct address *a);

/* An address to listen on: ADDR:PORT of this machine, where port 0 means
 * any free one.  False if it is none; what is allowed then is below.  A
 * name is looked up, which may block.
 */
bool address_parse_listen (const char *text, struct sockaddr_storage *ret,
                           socklen_t *len);
extern const char address_listen_allowed[];

#endif /* ISW_ADDRESS_H */
