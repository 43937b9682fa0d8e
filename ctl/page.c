#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "conf/units.h"
#include "ctl/page.h"

enum { LABEL_COLUMNS = 14, COUNTER_COLUMNS = 36 };

static const char nothing[] = "-";

void
page_begin (struct page *p)
{
  p->text = g_string_new (NULL);
  p->cells = g_string_chunk_new (4096);
}

char *
page_end (struct page *p)
{
  g_string_chunk_free (p->cells);
  return g_string_free (p->text, FALSE);
}

JsonObject *
page_object (JsonObject *parent, const char *name)
{
  JsonNode *node = parent != NULL ? json_object_get_member (parent, name) :
    NULL;

  return node != NULL && JSON_NODE_HOLDS_OBJECT (node) ?
    json_node_get_object (node) : NULL;
}

GPtrArray *
page_objects (JsonObject *parent, const char *name)
{
  JsonNode *node = parent != NULL ? json_object_get_member (parent, name) :
    NULL;
  GPtrArray *objects = g_ptr_array_new ();
  JsonArray *array;

  if (node == NULL || !JSON_NODE_HOLDS_ARRAY (node))
    return objects;
  array = json_node_get_array (node);
  for (guint i = 0; i < json_array_get_length (array); i++) {
    JsonNode *element = json_array_get_element (array, i);

    if (JSON_NODE_HOLDS_OBJECT (element))
      g_ptr_array_add (objects, json_node_get_object (element));
  }
  return objects;
}

static bool
node_number (JsonNode *node, double *ret)
{
  GType type = node != NULL && JSON_NODE_HOLDS_VALUE (node) ?
    json_node_get_value_type (node) : G_TYPE_INVALID;

  if (type == G_TYPE_INT64)
    *ret = json_node_get_int (node);
  else if (type == G_TYPE_DOUBLE && isfinite (json_node_get_double (node)))
    *ret = json_node_get_double (node);
  else
    return false;
  return true;
}

bool
page_number (JsonObject *object, const char *name, double *ret)
{
  return object != NULL &&
    node_number (json_object_get_member (object, name), ret);
}

static const char *
keep (struct page *p, char *text)
{
  const char *cell = g_string_chunk_insert (p->cells, text);

  g_free (text);
  return cell;
}

const char *
page_printable (struct page *p, const char *text)
{
  g_autofree char *valid = g_utf8_make_valid (text, -1);
  GString *cell = g_string_new (NULL);

  for (const char *c = valid; *c != '\0'; c = g_utf8_next_char (c)) {
    gunichar u = g_utf8_get_char (c);

    g_string_append_unichar (cell, g_unichar_isprint (u) ? u : '?');
  }
  return keep (p, g_string_free (cell, FALSE));
}

static const char *node_text (struct page *p, JsonNode *node);

static const char *
array_text (struct page *p, JsonArray *array)
{
  GString *text = g_string_new (NULL);

  for (guint i = 0; i < json_array_get_length (array); i++) {
    JsonNode *element = json_array_get_element (array, i);

    if (JSON_NODE_HOLDS_VALUE (element))
      g_string_append_printf (text, "%s%s", text->len > 0 ? ", " : "",
                              node_text (p, element));
  }
  if (text->len == 0)
    g_string_append (text, nothing);
  return keep (p, g_string_free (text, FALSE));
}

static const char *
node_text (struct page *p, JsonNode *node)
{
  double number;

  if (node == NULL)
    return nothing;
  if (JSON_NODE_HOLDS_ARRAY (node))
    return array_text (p, json_node_get_array (node));
  if (!JSON_NODE_HOLDS_VALUE (node))
    return nothing;
  if (json_node_get_value_type (node) == G_TYPE_STRING)
    return page_printable (p, json_node_get_string (node));
  if (json_node_get_value_type (node) == G_TYPE_BOOLEAN)
    return json_node_get_boolean (node) ? "true" : "false";
  if (json_node_get_value_type (node) == G_TYPE_INT64)
    return keep (p, g_strdup_printf ("%" G_GINT64_FORMAT,
                                     json_node_get_int (node)));
  return node_number (node, &number) ?
    keep (p, g_strdup_printf ("%g", number)) : nothing;
}

const char *
page_text (struct page *p, JsonObject *o, const char *name)
{
  return o != NULL ? node_text (p, json_object_get_member (o, name)) :
    nothing;
}

/* To one decimal: unlike what users write, memory is rarely round. */
const char *
page_bytes (struct page *p, double bytes)
{
  static const char *const units[] = { "", "K", "M", "G", "T", "P", "E" };
  g_autofree char *number = NULL;
  int i = 0;

  if (!(bytes >= 0 && bytes < 0x1p64))
    return nothing;
  for (; bytes >= 1023.95; i++)
    bytes /= 1024;
  number = g_strdup_printf ("%.1f", bytes);
  if (g_str_has_suffix (number, ".0"))
    number[strlen (number) - 2] = '\0';
  return keep (p, g_strconcat (number, units[i], NULL));
}

const char *
page_size (struct page *p, JsonObject *o, const char *name)
{
  double bytes;

  return page_number (o, name, &bytes) ? page_bytes (p, bytes) : nothing;
}

const char *
page_seconds (struct page *p, JsonObject *o, const char *name)
{
  double number;
  guint64 s;

  if (!page_number (o, name, &number) || number < 0 || number >= 0x1p63)
    return nothing;
  s = number;
  if (s < 60)
    return keep (p, g_strdup_printf ("%us", (unsigned) s));
  if (s < 3600)
    return keep (p, g_strdup_printf ("%um%02us", (unsigned) s / 60,
                                     (unsigned) s % 60));
  if (s < 86400)
    return keep (p, g_strdup_printf ("%uh%02um", (unsigned) s / 3600,
                                     (unsigned) s / 60 % 60));
  return keep (p, g_strdup_printf ("%" G_GUINT64_FORMAT "d%02uh", s / 86400,
                                   (unsigned) (s / 3600 % 24)));
}

const char *
page_milliseconds (struct page *p, JsonObject *o, const char *name)
{
  char text[UNITS_TEXT_MAX];
  double ms;

  if (!page_number (o, name, &ms) || ms < 0 || ms >= 0x1p43)
    return nothing;
  return keep (p, g_strdup (units_format_duration (ms * 1e6, text)));
}

const char *
page_decimal (struct page *p, JsonObject *o, const char *name)
{
  double number;

  return page_number (o, name, &number) ?
    keep (p, g_strdup_printf (fabs (number) < 1e15 ? "%.1f" : "%g", number)) :
    nothing;
}

const char *
page_format (struct page *p, const char *format, ...)
{
  va_list args;
  char *text;

  va_start (args, format);
  text = g_strdup_vprintf (format, args);
  va_end (args);
  return keep (p, text);
}

void
page_line (struct page *p, const char *label, const char *format, ...)
{
  va_list args;

  g_string_append_printf (p->text, "%-*s", LABEL_COLUMNS, label);
  va_start (args, format);
  g_string_append_vprintf (p->text, format, args);
  va_end (args);
  g_string_append_c (p->text, '\n');
}

void
page_section (struct page *p, const char *title)
{
  g_string_append_printf (p->text, "\n%s\n", title);
}

static const char *
quoted (struct page *p, const char *text)
{
  return strchr (text, ' ') != NULL ? page_format (p, "\"%s\"", text) : text;
}

void
page_assignments (struct page *p, JsonObject *o)
{
  GList *names = o != NULL ? json_object_get_members (o) : NULL;
  size_t column = 0;

  for (GList *l = names; l != NULL; l = l->next) {
    const char *name = page_printable (p, l->data);
    const char *value = quoted (p, page_text (p, o, l->data));
    size_t len = g_utf8_strlen (name, -1) + 1 + g_utf8_strlen (value, -1);

    if (column > 0 && column + 1 + len > PAGE_COLUMNS) {
      g_string_append_c (p->text, '\n');
      column = 0;
    }
    g_string_append_printf (p->text, "%s%s=%s", column == 0 ? "  " : " ",
                            name, value);
    column += (column == 0 ? 2 : 1) + len;
  }
  g_string_append (p->text, names != NULL ? "\n" : "  -\n");
  g_list_free (names);
}

static void
pad (GString *text, size_t columns)
{
  for (; columns > 0; columns--)
    g_string_append_c (text, ' ');
}

static size_t
missing (const char *cell, size_t width)
{
  size_t len = g_utf8_strlen (cell, -1);

  return len < width ? width - len : 0;
}

static void
append_counter (struct page *p, const char *name, const char *value)
{
  g_autofree char *words = g_strdelimit (g_strdup (name), "_", ' ');
  size_t len = g_utf8_strlen (words, -1) + 1;

  g_string_append_printf (p->text, "  %s ", words);
  pad (p->text, missing (value, len < COUNTER_COLUMNS ?
                         COUNTER_COLUMNS - len : 0));
  g_string_append (p->text, value);
}

void
page_counters (struct page *p, JsonObject *o)
{
  GList *names = o != NULL ? json_object_get_members (o) : NULL;
  bool left = true;

  for (GList *l = names; l != NULL; l = l->next, left = !left) {
    append_counter (p, page_printable (p, l->data), page_text (p, o, l->data));
    g_string_append (p->text, left && l->next != NULL ? "  " : "\n");
  }
  if (names == NULL)
    g_string_append (p->text, "  -\n");
  g_list_free (names);
}

/* A row of cells, or a note where cells is NULL. */
struct row {
  const char **cells;
  const char *note;
};

static void
free_row (gpointer data)
{
  struct row *r = data;

  g_free (r->cells);
  g_free (r);
}

static void
add_row (struct page_table *t, va_list cells)
{
  struct row *r = g_new0 (struct row, 1);
  size_t n = strlen (t->align);

  r->cells = g_new (const char *, n);
  for (size_t i = 0; i < n; i++)
    r->cells[i] = va_arg (cells, const char *);
  g_ptr_array_add (t->rows, r);
}

void
page_table_begin (struct page_table *t, const char *align, ...)
{
  va_list titles;

  t->align = align;
  t->rows = g_ptr_array_new_with_free_func (free_row);
  va_start (titles, align);
  add_row (t, titles);
  va_end (titles);
}

void
page_table_row (struct page_table *t, ...)
{
  va_list cells;

  va_start (cells, t);
  add_row (t, cells);
  va_end (cells);
}

void
page_table_note (struct page_table *t, const char *text)
{
  struct row *r = g_new0 (struct row, 1);

  r->note = text;
  g_ptr_array_add (t->rows, r);
}

static size_t
column_width (const struct page_table *t, size_t column)
{
  size_t width = 0;

  for (guint i = 0; i < t->rows->len; i++) {
    const struct row *r = g_ptr_array_index (t->rows, i);

    if (r->cells != NULL)
      width = MAX (width, (size_t) g_utf8_strlen (r->cells[column], -1));
  }
  return width;
}

static void
append_row (GString *text, const char *align, const char *const *cells,
            const size_t *widths)
{
  for (size_t i = 0; align[i] != '\0'; i++) {
    size_t blank = missing (cells[i], widths[i]);

    g_string_append (text, "  ");
    if (align[i] == 'r')
      pad (text, blank);
    g_string_append (text, cells[i]);
    if (align[i] == 'l' && align[i + 1] != '\0')
      pad (text, blank);
  }
  g_string_append_c (text, '\n');
}

void
page_table_end (struct page_table *t, struct page *p)
{
  size_t n = strlen (t->align);
  g_autofree size_t *widths = g_new (size_t, n);

  for (size_t i = 0; i < n; i++)
    widths[i] = column_width (t, i);
  for (guint i = 0; i < t->rows->len; i++) {
    const struct row *r = g_ptr_array_index (t->rows, i);

    if (r->cells != NULL)
      append_row (p->text, t->align, r->cells, widths);
    else
      g_string_append_printf (p->text, "    %s\n", r->note);
  }
  g_ptr_array_unref (t->rows);
}
