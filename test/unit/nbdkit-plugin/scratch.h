/* A folder on a disk for each test, with whatever is in it removed after
 * the test.
 */

#ifndef TEST_SCRATCH_H
#define TEST_SCRATCH_H

/* As Check's setup and teardown functions. */
void scratch_setup (void);
void scratch_teardown (void);

/* The path of name in the folder; valid until the test ends. */
const char *scratch_path (const char *name);

#endif /* TEST_SCRATCH_H */
