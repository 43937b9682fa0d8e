#include <string.h>

#include <glib.h>
#include <json-glib/json-glib.h>

#include "ctl/ask.h"
#include "ctl/render.h"
#include "ctl/status.h"

static gint
compare_paths (gconstpointer a, gconstpointer b)
{
  return strcmp (*(char *const *) a, *(char *const *) b);
}

/* The sockets in folder, in order; NULL after a message. */
static GPtrArray *
find_sockets (const char *folder, FILE *err)
{
  GPtrArray *paths = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GError) wrong = NULL;
  g_autoptr (GDir) dir = g_dir_open (folder, 0, &wrong);
  const char *name;

  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL)
    if (g_str_has_suffix (name, ".sock"))
      g_ptr_array_add (paths, g_build_filename (folder, name, NULL));
  if (paths->len > 0) {
    g_ptr_array_sort (paths, compare_paths);
    return paths;
  }
  if (wrong != NULL && !g_error_matches (wrong, G_FILE_ERROR,
                                         G_FILE_ERROR_NOENT))
    fprintf (err, "infiniswapctl: %s; run as root, or name a socket: "
             "infiniswapctl status SOCKET\n", wrong->message);
  else
    fprintf (err, "infiniswapctl: there is no %s/*.sock; start the plugin "
             "with state=PATH or the donor with --state PATH, or name a "
             "socket: infiniswapctl status SOCKET\n", folder);
  g_ptr_array_unref (paths);
  return NULL;
}

static GPtrArray *
copy_sockets (char *const *sockets)
{
  GPtrArray *paths = g_ptr_array_new_with_free_func (g_free);

  for (; *sockets != NULL; sockets++)
    g_ptr_array_add (paths, g_strdup (*sockets));
  return paths;
}

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
  GPtrArray *paths = o->sockets != NULL && o->sockets[0] != NULL ?
    copy_sockets (o->sockets) : find_sockets (o->folder, err);
  int status;

  if (paths == NULL)
    return 1;
  status = o->json ? show_json (paths, o, out, err) :
    show_pages (paths, o, out, err);
  g_ptr_array_unref (paths);
  return status;
}
