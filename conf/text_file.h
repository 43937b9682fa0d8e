/* Small text files that users write. */

#ifndef ISW_TEXT_FILE_H
#define ISW_TEXT_FILE_H

/* The whole of a regular file of at most 1 MiB, UTF-8, newly allocated.
 * NULL with a message in *error (g_free it) that names the file.  Never
 * waits on a FIFO or a device.
 */
char *text_file_read (const char *path, char **error);

#endif /* ISW_TEXT_FILE_H */
