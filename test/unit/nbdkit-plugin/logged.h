/* What a test's program logs, instead of on standard error. */

#ifndef TEST_LOGGED_H
#define TEST_LOGGED_H

void logged_begin (void);
void logged_end (void);

/* The lines logged since the last call; good until the next one. */
const char *logged (void);

#endif /* TEST_LOGGED_H */
