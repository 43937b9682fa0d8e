/* Waiting for the first donor that answers. */

#ifndef ISW_CTL_DONORS_WAIT_H
#define ISW_CTL_DONORS_WAIT_H

#include <stdbool.h>
#include <stdint.h>

/* Ask the plugin behind its state socket until it is connected to a donor,
 * at most so long, or until interrupted returns true, having set *error.
 * false with a newly allocated line in *error that says what each donor's
 * trouble is.
 */
bool donors_wait (const char *state_path, int64_t timeout_ns,
                  bool (*interrupted) (char **error), char **error);

#endif /* ISW_CTL_DONORS_WAIT_H */
