/* Small files in which the kernel tells its figures. */

#ifndef ISW_KERNEL_FILE_H
#define ISW_KERNEL_FILE_H

#include <stddef.h>
#include <stdint.h>

enum { KERNEL_FILE_MAX = 16 << 10 };

/* Read the whole file into buf, terminated; longer files are cut.  0, or
 * -errno of opening or reading it.
 */
int kernel_file_read (const char *path, char buf[KERNEL_FILE_MAX]);

/* The text after `label` at the start of a line, or NULL. */
const char *kernel_file_find (const char *text, const char *label);

/* A decimal number, with blanks before it and a blank or the line's or
 * text's end behind, which *end gets (where end is not NULL).  -EBADMSG.
 */
int kernel_file_number (const char *text, uint64_t *ret, const char **end);

#endif /* ISW_KERNEL_FILE_H */
