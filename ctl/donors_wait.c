#include <string.h>

#include <glib.h>
#include <json-glib/json-glib.h>

#include "conf/state_socket.h"
#include "ctl/donors_wait.h"
#include "ctl/page.h"

enum { POLL_US = 50000, TROUBLES_MAX = 3 };

static const int64_t ANSWER_NS = 2000000000;

static const char *
member (JsonObject *donor, const char *name)
{
  JsonNode *node = json_object_get_member (donor, name);

  return node != NULL && JSON_NODE_HOLDS_VALUE (node) ?
    json_node_get_string (node) : NULL;
}

static bool
is_connected (JsonObject *donor)
{
  const char *state = member (donor, "state");

  return state != NULL && strcmp (state, "connected") == 0;
}

static void
add_trouble (GString *troubles, JsonObject *donor)
{
  const char *address = member (donor, "address");
  const char *error = member (donor, "last_error");

  g_string_append_printf (troubles, "%s%s: %s",
                          troubles->len > 0 ? "; " : "",
                          address != NULL ? address : "?",
                          error != NULL ? error : "no answer yet");
}

/* Is there one?  Else why not, in troubles. */
static bool
find_donor (const char *state_path, GString *troubles)
{
  g_autofree char *error = NULL;
  JsonNode *node = state_socket_ask (state_path, "status", ANSWER_NS, &error);
  GPtrArray *donors;
  bool found = false;

  g_string_truncate (troubles, 0);
  if (node == NULL) {
    g_string_append (troubles, error);
    return false;
  }
  donors = page_objects (JSON_NODE_HOLDS_OBJECT (node) ?
                         json_node_get_object (node) : NULL, "donors");
  for (guint i = 0; i < donors->len; i++) {
    found |= is_connected (donors->pdata[i]);
    if (i < TROUBLES_MAX)
      add_trouble (troubles, donors->pdata[i]);
  }
  if (donors->len > TROUBLES_MAX)
    g_string_append (troubles, "; ...");
  g_ptr_array_unref (donors);
  json_node_unref (node);
  return found;
}

bool
donors_wait (const char *state_path, int64_t timeout_ns,
             bool (*interrupted) (char **error), char **error)
{
  const int64_t end_us = g_get_monotonic_time () + timeout_ns / 1000;
  GString *troubles = g_string_new (NULL);
  bool found, stopped = false;

  while (!(found = find_donor (state_path, troubles)) &&
         g_get_monotonic_time () < end_us &&
         !(stopped = interrupted (error)))
    g_usleep (POLL_US);
  if (!found && !stopped)
    *error = g_strdup_printf ("no donor is connected (%s); start one, correct "
                              "donors=, or say allow=donors", troubles->str);
  g_string_free (troubles, TRUE);
  return found;
}
