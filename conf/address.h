/* HOST:PORT addresses, and lists and files of them. */

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

/* "A,B,C": an array of struct address * (frees its elements).  Empty
 * items and duplicates are errors.
 */
GPtrArray *address_parse_list (const char *text, char **error);

/* A file with one address a line; # starts a comment; blank lines are
 * skipped.  Errors name the file and the line.  No address at all is
 * allowed (an empty array).
 */
GPtrArray *address_read_file (const char *path, char **error);

#endif /* ISW_ADDRESS_H */
