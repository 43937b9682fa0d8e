/* DNS in the hands of the test, in place of GLib's default resolver: it
 * answers questions for SRV records, whatever their name.  From any thread.
 */

#ifndef TEST_FAKE_RESOLVER_H
#define TEST_FAKE_RESOLVER_H

/* From now on, until the process ends; it knows no donors yet. */
void fake_resolver_start (void);

/* Answer with these: "HOST:PORT HOST:PORT ...", numbers without brackets. */
void fake_resolver_answer (const char *targets);
/* Answer with this error. */
void fake_resolver_fail (const char *error);
/* Do not answer until one of these two is called. */
void fake_resolver_hold (void);

/* Wait until it has been asked so many times from now on. */
void fake_resolver_wait_asked (unsigned times);
/* The name in the last question. */
const char *fake_resolver_name (void);

#endif /* TEST_FAKE_RESOLVER_H */
