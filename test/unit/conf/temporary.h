/* A folder of its own for each test. */

#ifndef TEST_TEMPORARY_H
#define TEST_TEMPORARY_H

#include <stddef.h>

/* As Check's setup and teardown functions. */
void temporary_setup (void);
void temporary_teardown (void);

/* The path of name in the folder; g_free it. */
char *temporary_path (const char *name);

/* Create a file with len bytes; its path, which the caller frees. */
char *temporary_file (const char *name, const char *text, size_t len);

#endif /* TEST_TEMPORARY_H */
