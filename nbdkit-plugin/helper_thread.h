/* Threads of the plugin's own. */

#ifndef ISW_HELPER_THREAD_H
#define ISW_HELPER_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* Start one that gets no signals: they are nbdkit's main thread's.  Its stack
 * is locked memory; stack_bytes is 0 for that of nbdkit's workers.  0 or
 * -errno.
 */
int helper_thread_start (pthread_t *thread, size_t stack_bytes,
                         void *(*run) (void *data), void *data);

#endif /* ISW_HELPER_THREAD_H */
