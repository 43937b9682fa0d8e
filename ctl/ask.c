#include "conf/state_socket.h"
#include "ctl/ask.h"

JsonNode *
ask_socket (const char *path, const char *request, int64_t timeout_ns,
            FILE *err)
{
  g_autofree char *error = NULL;
  JsonNode *node = state_socket_ask (path, request, timeout_ns, &error);

  if (node == NULL) {
    fprintf (err, "infiniswapctl: %s\n", error);
    return NULL;
  }
  if (!JSON_NODE_HOLDS_OBJECT (node)) {
    fprintf (err, "infiniswapctl: %s: the answer is no status document; is "
             "it the socket of another program?\n", path);
    json_node_unref (node);
    return NULL;
  }
  return node;
}
