#include <glib.h>
#include <json-glib/json-glib.h>

#include "ctl/ask.h"
#include "ctl/render.h"
#include "ctl/sockets.h"
#include "ctl/status.h"

static void
print_json (JsonNode *node, FILE *out)
{
  g_autofree char *text = json_to_string (node, TRUE);

  fprintf (out, "%s\n", text);
}

static void
add_socket_member (JsonNode *node, const char *path)
{
  g_autofree char *valid = g_utf8_make_valid (path, -1);

  json_object_set_string_member (json_node_get_object (node), "socket",
                                 valid);
}

static int
show_json (GPtrArray *paths, const struct status_options *o, FILE *out,
           FILE *err)
{
  JsonArray *all = json_array_new ();
  JsonNode *node = json_node_new (JSON_NODE_ARRAY);
  guint answers;

  for (guint i = 0; i < paths->len; i++) {
    const char *path = g_ptr_array_index (paths, i);
    JsonNode *answer = ask_socket (path, "status", o->timeout_ns, err);

    if (answer != NULL) {
      add_socket_member (answer, path);
      json_array_add_element (all, answer);
    }
  }
  answers = json_array_get_length (all);
  json_node_take_array (node, all);
  if (paths->len > 1)
    print_json (node, out);
  else if (answers == 1)
    print_json (json_array_get_element (all, 0), out);
  json_node_unref (node);
  return answers < paths->len;
}

static int
show_pages (GPtrArray *paths, const struct status_options *o, FILE *out,
            FILE *err)
{
  guint answers = 0;

  for (guint i = 0; i < paths->len; i++) {
    const char *path = g_ptr_array_index (paths, i);
    JsonNode *answer = ask_socket (path, "status", o->timeout_ns, err);
    g_autofree char *page = NULL;

    if (answer == NULL)
      continue;
    page = render_status (path, json_node_get_object (answer));
    fprintf (out, "%s%s", answers > 0 ? "\n" : "", page);
    json_node_unref (answer);
    answers++;
  }
  return answers < paths->len;
}

int
status_run (const struct status_options *o, FILE *out, FILE *err)
{
  GPtrArray *paths = sockets_find (o->sockets, o->folder, "status", err);
  int status;

  if (paths == NULL)
    return 1;
  status = o->json ? show_json (paths, o, out, err) :
    show_pages (paths, o, out, err);
  g_ptr_array_unref (paths);
  return status;
}
