/* The sockets that a command asks. */

#ifndef ISW_CTL_SOCKETS_H
#define ISW_CTL_SOCKETS_H

#include <stdio.h>

#include <glib.h>

/* Those that were named (ends with NULL), or where none was, those in
 * folder, in order: an array of paths (frees them).  NULL after a message,
 * which names the command, to err if that is not NULL.
 */
GPtrArray *sockets_find (char *const *named, const char *folder,
                         const char *command, FILE *err);

#endif /* ISW_CTL_SOCKETS_H */
