/* Condition variables whose time-outs are moments of fabric_now_ns. */

#ifndef ISW_MONOTONIC_COND_H
#define ISW_MONOTONIC_COND_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

void monotonic_cond_init (pthread_cond_t *cond);

/* Wait for cond, until_ns at the latest; false if that has come. */
bool monotonic_cond_wait (pthread_cond_t *cond, pthread_mutex_t *lock,
                          int64_t until_ns);

#endif /* ISW_MONOTONIC_COND_H */
