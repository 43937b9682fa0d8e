/* Lists and files of donors: HOST:PORT addresses, and names of services
 * under which DNS knows more of them.
 */

#ifndef ISW_DONOR_LIST_H
#define ISW_DONOR_LIST_H

#include <glib.h>

#include "conf/address.h"

struct donor_list {
  GPtrArray *addresses;         /* struct address * */
  GPtrArray *services;          /* char *: "_infiniswap._tcp.example.org" */
};

/* "A,B,srv:_SERVICE._tcp.DOMAIN,...".  Empty items and duplicates are
 * errors.  NULL with a message in *error (g_free it) that names the item
 * and what is allowed.
 */
struct donor_list *donor_list_parse (const char *text, char **error);

/* A file with one item a line; # starts a comment; blank lines are
 * skipped.  Errors name the file and the line.  No item at all is allowed.
 */
struct donor_list *donor_list_read_file (const char *path, char **error);

void donor_list_free (struct donor_list *l);

/* In the form that donor_list_parse takes, newly allocated. */
char *donor_list_to_string (const struct donor_list *l);

#endif /* ISW_DONOR_LIST_H */
