/* What both commands ask programs with. */

#ifndef ISW_CTL_ASK_H
#define ISW_CTL_ASK_H

#include <json-glib/json-glib.h>
#include <stdint.h>
#include <stdio.h>

/* The answer to a request, an object, for json_node_unref; NULL after a
 * message to err.
 */
JsonNode *ask_socket (const char *path, const char *request,
                      int64_t timeout_ns, FILE *err);

#endif /* ISW_CTL_ASK_H */
