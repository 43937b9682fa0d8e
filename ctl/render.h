/* A status document as a page for people. */

#ifndef ISW_CTL_RENDER_H
#define ISW_CTL_RENDER_H

#include <json-glib/json-glib.h>

enum { RENDER_SLABS_MAX = 20 };

/* The page for the document that the program at socket has sent, newly
 * allocated.  Whatever the document holds, there is a page.
 */
char *render_status (const char *socket, JsonObject *document);

#endif /* ISW_CTL_RENDER_H */
