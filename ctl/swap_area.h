/* The swap area on a device: what the device holds, making the area,
 * using it, and giving it up.
 */

#ifndef ISW_CTL_SWAP_AREA_H
#define ISW_CTL_SWAP_AREA_H

#include <stdbool.h>
#include <sys/types.h>

/* May a swap area be made there?  Yes if the device is blank, or holds an
 * area that swap_area_make made; its content is worth nothing once it is
 * not in use.  Anything else may be somebody's data: false then, with a
 * newly allocated line in *error.
 */
bool swap_area_check (const char *device, char **error);

/* mkswap(8), from PATH.  false with *error. */
bool swap_area_make (const char *device, char **error);

/* swapon(2).  false with *error. */
bool swap_area_on (const char *device, unsigned priority, bool discard,
                   char **error);

/* Begin swapoff(2) in a process of its own, whose exit status will be 0 or
 * an errno; SIGTERM makes it give up.  The kernel's OOM killer kills
 * first whoever calls swapoff, whatever its oom_score_adj is: that must not
 * be the supervisor.  Either way an area that is not given up stays in use.
 * The process; -errno.
 */
pid_t swap_area_off_begin (const char *device);
/* What that status (of waitpid) means; NULL if the area is given up. */
char *swap_area_off_explain (const char *device, int status);

/* Is nobody else using the device (mounted, say)?  Also writes to it what
 * the kernel's cache still has.  false with *error.
 */
bool swap_area_settle (const char *device, char **error);

#endif /* ISW_CTL_SWAP_AREA_H */
