/* HOST:PORT addresses. */

#ifndef ISW_ADDRESS_H
#define ISW_ADDRESS_H

#include <glib.h>
#include <stdint.h>

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

#endif /* ISW_ADDRESS_H */
