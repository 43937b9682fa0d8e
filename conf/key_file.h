/* Key files: options of a program kept in a file.
 *
 *   [donor]
 *   # a comment
 *   listen = 10.0.0.2:9400
 */

#ifndef ISW_KEY_FILE_H
#define ISW_KEY_FILE_H

#include <glib.h>

struct key_file_entry {
  char *name;
  char *value;                  /* as written, without blanks around it */
  unsigned line;
};

/* The entries of the only group that the file may have, in the order of
 * the file: an array of struct key_file_entry * (frees its elements),
 * empty if the file is.  Which names and values there may be is for the
 * caller to say.  Another group and a name that is there twice are
 * errors: NULL with a message in *error (g_free) that names the file and
 * the line.
 */
GPtrArray *key_file_read (const char *path, const char *group, char **error);

#endif /* ISW_KEY_FILE_H */
