/* Does what is swapped out on a device fit back into memory?
 *
 * All of it must fit into what is available and what other swap areas have
 * free, less a reserve; and into the memory limit of each cgroup whose pages
 * may be among it, since swapoff brings pages back within the limits, and
 * where they do not fit the kernel kills a program of that cgroup.
 */

#ifndef ISW_CTL_ROOM_H
#define ISW_CTL_ROOM_H

#include <stdbool.h>
#include <stdint.h>

struct room_swap {
  bool active;                  /* the device is a swap area in use */
  int priority;
  uint64_t size_bytes, used_bytes;
  uint64_t others_free_bytes;   /* of all other areas */
};

/* From the text of /proc/swaps; device as in "/dev/nbd0". */
void room_parse_swaps (const char *text, const char *device,
                       struct room_swap *ret);

/* From the text of /proc/meminfo.  -EBADMSG. */
int room_parse_meminfo (const char *text, uint64_t *ret_total_bytes,
                        uint64_t *ret_available_bytes);

/* Where the kernel tells; tests have their own. */
struct room_paths {
  const char *swaps, *meminfo, *cgroups;
};
extern const struct room_paths room_system;

/* As it is now; an area that is not there is not active.  -errno. */
int room_get_swap (const struct room_paths *paths, const char *device,
                   struct room_swap *ret);

/* NULL if it fits, or nothing is swapped out there; else a newly allocated
 * line that says what is missing.
 */
char *room_check (const struct room_paths *paths, const char *device);

#endif /* ISW_CTL_ROOM_H */
