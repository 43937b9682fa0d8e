#include <stdbool.h>
#include <string.h>

#include "ctl/page.h"
#include "ctl/render.h"

static bool
is_nothing (const char *cell)
{
  return strcmp (cell, "-") == 0 || cell[0] == '\0';
}

static void
render_lock (struct page *p, JsonObject *lock)
{
  const char *flusher = page_text (p, lock, "io_flusher");

  page_line (p, "Lock", "%s, %s locked (mlock: %s%s%s)",
             page_text (p, lock, "mode"), page_size (p, lock, "locked_bytes"),
             page_text (p, lock, "mlock"),
             is_nothing (flusher) ? "" : ", I/O flusher: ",
             is_nothing (flusher) ? "" : flusher);
}

static void
render_device_head (struct page *p, JsonObject *document)
{
  JsonObject *device = page_object (document, "device");
  JsonObject *slabs = page_object (document, "slabs");
  JsonObject *behind = page_object (document, "write_behind");

  page_line (p, "Device", "%s in %s slabs of %s, id %s",
             page_size (p, device, "size_bytes"),
             page_text (p, device, "slabs"),
             page_size (p, device, "slab_size_bytes"),
             page_text (p, device, "id"));
  page_line (p, "Slabs", "%s mapped, %s mapping, %s draining, %s unmapped",
             page_text (p, slabs, "mapped"), page_text (p, slabs, "mapping"),
             page_text (p, slabs, "draining"),
             page_text (p, slabs, "unmapped"));
  page_line (p, "Write-behind", "%s of %s slots in use, limit %s, %s failed",
             page_text (p, behind, "in_use"), page_text (p, behind, "slots"),
             page_text (p, behind, "limit"), page_text (p, behind, "failed"));
  render_lock (p, page_object (document, "lock"));
}

static void
add_note (struct page *p, struct page_table *t, const char *what,
          const char *text)
{
  if (!is_nothing (text))
    page_table_note (t, page_format (p, "%s: %s", what, text));
}

static void
render_donors (struct page *p, JsonObject *document)
{
  g_autoptr (GPtrArray) donors = page_objects (document, "donors");
  struct page_table t;

  page_section (p, "Donors");
  page_table_begin (&t, "lllrrrr", "ADDRESS", "STATE", "FABRIC", "SLABS",
                    "FREE", "SESSION", "FAILURES");
  for (guint i = 0; i < donors->len; i++) {
    JsonObject *d = g_ptr_array_index (donors, i);

    page_table_row (&t, page_text (p, d, "address"),
                    page_text (p, d, "state"), page_text (p, d, "fabric"),
                    page_text (p, d, "slabs"), page_size (p, d, "free_bytes"),
                    page_seconds (p, d, "session_seconds"),
                    page_text (p, d, "failures"));
    add_note (p, &t, "last error", page_text (p, d, "last_error"));
    add_note (p, &t, "last refusal", page_text (p, d, "last_refusal"));
  }
  page_table_end (&t, p);
}

/* The busiest first, then in the order of the device. */
static gint
compare_slabs (gconstpointer a, gconstpointer b)
{
  JsonObject *const *slab_a = a, *const *slab_b = b;
  double activity_a = 0, activity_b = 0, index_a = 0, index_b = 0;

  page_number (*slab_a, "activity", &activity_a);
  page_number (*slab_b, "activity", &activity_b);
  page_number (*slab_a, "index", &index_a);
  page_number (*slab_b, "index", &index_b);
  if (activity_a != activity_b)
    return activity_a > activity_b ? -1 : 1;
  return (index_a > index_b) - (index_a < index_b);
}

static void
render_slabs (struct page *p, JsonObject *document)
{
  g_autoptr (GPtrArray) slabs =
    page_objects (page_object (document, "slabs"), "list");
  struct page_table t;

  if (slabs->len == 0)
    return;
  g_ptr_array_sort (slabs, compare_slabs);
  page_section (p, "Slabs, the busiest first (activity: pages per second)");
  page_table_begin (&t, "rllrrr", "SLAB", "STATE", "DONOR", "ACTIVITY",
                    "READS", "WRITES");
  for (guint i = 0; i < slabs->len && i < RENDER_SLABS_MAX; i++) {
    JsonObject *s = g_ptr_array_index (slabs, i);

    page_table_row (&t, page_text (p, s, "index"), page_text (p, s, "state"),
                    page_text (p, s, "donor"),
                    page_decimal (p, s, "activity"),
                    page_text (p, s, "reads"), page_text (p, s, "writes"));
  }
  page_table_end (&t, p);
  if (slabs->len > RENDER_SLABS_MAX)
    g_string_append_printf (p->text, "  and %u more: see --json\n",
                            slabs->len - RENDER_SLABS_MAX);
}

static void
render_donor_head (struct page *p, JsonObject *document)
{
  JsonObject *memory = page_object (document, "memory");
  JsonObject *slabs = page_object (document, "slabs");

  page_line (p, "Listening", "%s, fabrics: %s",
             page_text (p, document, "listen"),
             page_text (p, document, "fabrics"));
  page_line (p, "Node", "%s memory, %s available, %s used by others",
             page_size (p, memory, "total_bytes"),
             page_size (p, memory, "available_bytes"),
             page_size (p, memory, "used_by_others_bytes"));
  page_line (p, "Limits", "headroom %s, may hold %s",
             page_size (p, memory, "headroom_bytes"),
             page_size (p, memory, "limit_bytes"));
  page_line (p, "Lending", "%s, would lend %s now, holds %s",
             page_size (p, memory, "lent_bytes"),
             page_size (p, memory, "would_lend_bytes"),
             page_size (p, memory, "held_bytes"));
  page_line (p, "Slabs", "%s lent (%s being evicted), %s ready, of %s each",
             page_text (p, slabs, "lent"), page_text (p, slabs, "evicting"),
             page_text (p, slabs, "ready"),
             page_size (p, slabs, "slab_size_bytes"));
  render_lock (p, page_object (document, "lock"));
}

/* A device's id is long, and its beginning tells it from the others. */
static const char *
short_id (struct page *p, JsonObject *o, const char *name)
{
  const char *id = page_text (p, o, name);

  return g_utf8_strlen (id, -1) <= 16 ? id :
    page_format (p, "%.*s...", (int) (g_utf8_offset_to_pointer (id, 13) - id),
                 id);
}

static void
render_sessions (struct page *p, JsonObject *document)
{
  g_autoptr (GPtrArray) sessions = page_objects (document, "sessions");
  struct page_table t;

  page_section (p, "Sessions");
  page_table_begin (&t, "llllrrrr", "ID", "PEER", "DEVICE", "FABRIC", "LANES",
                    "SLABS", "AGE", "DEADLINE");
  for (guint i = 0; i < sessions->len; i++) {
    JsonObject *s = g_ptr_array_index (sessions, i);

    page_table_row (&t, page_text (p, s, "id"), page_text (p, s, "peer"),
                    short_id (p, s, "device"), page_text (p, s, "fabric"),
                    page_text (p, s, "lanes"), page_text (p, s, "slabs"),
                    page_seconds (p, s, "seconds"),
                    page_milliseconds (p, s, "deadline_ms"));
  }
  page_table_end (&t, p);
}

static void
render_counters_and_config (struct page *p, JsonObject *document)
{
  page_section (p, "Counters");
  page_counters (p, page_object (document, "counters"));
  page_section (p, "Configuration");
  page_assignments (p, page_object (document, "config"));
}

char *
render_status (const char *socket, JsonObject *document)
{
  struct page p;
  const char *kind, *version;

  page_begin (&p);
  kind = page_text (&p, document, "kind");
  version = page_text (&p, document, "version");
  if (strcmp (kind, "device") == 0) {
    g_string_append_printf (p.text, "%s: infiniswap device, version %s\n\n",
                            socket, version);
    render_device_head (&p, document);
    render_donors (&p, document);
    render_slabs (&p, document);
    render_counters_and_config (&p, document);
  }
  else if (strcmp (kind, "donor") == 0) {
    g_string_append_printf (p.text, "%s: infiniswap donor, version %s\n\n",
                            socket, version);
    render_donor_head (&p, document);
    render_sessions (&p, document);
    render_counters_and_config (&p, document);
  }
  else
    g_string_append_printf (p.text, "%s: unknown kind of program \"%s\", "
                            "version %s: see --json\n", socket, kind,
                            version);
  return page_end (&p);
}
