/* One connection to the device, with several requests in flight, each
 * checked against the model when it is answered.
 */

#ifndef CHAOS_CLIENT_H
#define CHAOS_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include <libnbd.h>

#include "test/chaos/model.h"

enum { CLIENT_DEPTH_MAX = 16, REQUEST_MAX = 3 << 20 };

enum request_type {
  REQUEST_READ, REQUEST_WRITE, REQUEST_TRIM, REQUEST_ZERO, REQUEST_FLUSH,
};

/* What all clients share; constant. */
struct client_params {
  const char *uri;
  const char *copy;             /* the local copy */
  struct model *model;
  int64_t limit_ns;             /* for a request that waits on peers */
  int64_t disk_limit_ns;        /* for one that waits for the disk */
};

struct client;

/* What was answered, and how; of one client. */
struct client_counts {
  uint64_t reads, writes, discards, flushes;
  uint64_t errors;              /* that were right */
  uint64_t copy_pages;          /* found on the local copy after a flush */
  int64_t worst_ns;             /* of requests without trouble at the disk */
  int64_t worst_disk_ns;        /* of the others */
};

/* Connect.  `p` must outlive the client; one thread uses it at a time,
 * but the counts may be read any time.
 */
struct client *client_new (const struct client_params *p);
void client_free (struct client *c);
void client_add_counts (const struct client *c, struct client_counts *to);
unsigned client_in_flight (const struct client *c);

/* Send a request; false if the model does not take it now.  `seed` is of
 * what is written, `fua` of writes and discards alone.
 */
bool client_send (struct client *c, enum request_type type, uint64_t offset,
                  uint32_t len, uint64_t seed, bool fua);

/* Let answers come, 100 ms at most.  An answer that is wrong, late or an
 * error that should not be ends the program, and says why.
 */
void client_poll (struct client *c);

/* One request after all others: true if it was answered without error. */
bool client_do (struct client *c, enum request_type type, uint64_t offset,
                uint32_t len, uint64_t seed);

/* End the program, saying so. */
void client_fail (const char *format, ...)
  __attribute__ ((format (printf, 1, 2), noreturn));

#endif /* CHAOS_CLIENT_H */
