/* Turning parts of a JSON document into cells, lines and tables of text.
 *
 * The document comes from another program and may lack anything or hold
 * something else than expected: then a cell is "-".  Text is printable
 * whatever is in it, for some of it comes from peers on the network.
 */

#ifndef ISW_CTL_PAGE_H
#define ISW_CTL_PAGE_H

#include <stdbool.h>

#include <glib.h>
#include <json-glib/json-glib.h>

enum { PAGE_COLUMNS = 80 };

struct page {
  GString *text;
  GStringChunk *cells;          /* every cell lives as long as the page */
};

void page_begin (struct page *p);
/* The text, newly allocated. */
char *page_end (struct page *p);

/* Members of an object, which may be NULL. */
JsonObject *page_object (JsonObject *parent, const char *name);
/* The objects in an array: what else it holds is left out. */
GPtrArray *page_objects (JsonObject *parent, const char *name);
/* false if it is no number. */
bool page_number (JsonObject *object, const char *name, double *ret);

/* Cells: as it is, in bytes, seconds or milliseconds, with one decimal;
 * page_text also takes a number, true or false, and an array of them.
 */
const char *page_text (struct page *p, JsonObject *o, const char *name);
const char *page_size (struct page *p, JsonObject *o, const char *name);
const char *page_seconds (struct page *p, JsonObject *o, const char *name);
const char *page_milliseconds (struct page *p, JsonObject *o,
                               const char *name);
const char *page_decimal (struct page *p, JsonObject *o, const char *name);
const char *page_bytes (struct page *p, double bytes);
const char *page_printable (struct page *p, const char *text);
const char *page_format (struct page *p, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));

/* A line "Label     ..." of the head of the page. */
void page_line (struct page *p, const char *label, const char *format, ...)
  __attribute__ ((format (printf, 3, 4)));

/* An empty line and a title. */
void page_section (struct page *p, const char *title);

/* Every member of an object: "name=value" in lines, or names without
 * underscores and values in two columns.
 */
void page_assignments (struct page *p, JsonObject *o);
void page_counters (struct page *p, JsonObject *o);

/* Rows of cells below titles, each column as wide as it must be. */
struct page_table {
  const char *align;            /* 'l' or 'r' for each column */
  GPtrArray *rows;
};

/* The arguments are the titles, one for each letter of align. */
void page_table_begin (struct page_table *t, const char *align, ...);
void page_table_row (struct page_table *t, ...);
/* A line of text below the last row. */
void page_table_note (struct page_table *t, const char *text);
void page_table_end (struct page_table *t, struct page *p);

#endif /* ISW_CTL_PAGE_H */
