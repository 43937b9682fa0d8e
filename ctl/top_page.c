#include <string.h>

#include "ctl/page.h"
#include "ctl/top_page.h"

static const double page_bytes_each = 4096;

/* A line of the table of pages: what is counted, and its latency. */
struct flow {
  const char *label;
  const char *const *counters;  /* summed; ends with NULL */
  const char *latency;          /* NULL: not measured */
};

static const char *const all_reads[] = {
  "pages_read_slots", "pages_read_donors", "pages_read_disk",
  "pages_read_zero", NULL
};
static const char *const from_slots[] = { "pages_read_slots", NULL };
static const char *const from_donors[] = { "pages_read_donors", NULL };
static const char *const from_disk[] = { "pages_read_disk", NULL };
static const char *const from_nowhere[] = { "pages_read_zero", NULL };
static const char *const all_writes[] = { "pages_written", NULL };
static const char *const to_donors[] = { "pages_written_donors", NULL };
static const char *const to_disk[] = { "pages_written_disk", NULL };

static const struct flow flows[] = {
  { "read", all_reads, "read" },
  { "  from slots", from_slots, "read_slots" },
  { "  from donors", from_donors, "read_donors" },
  { "  from disk", from_disk, "read_disk" },
  { "  zeros", from_nowhere, "read_zero" },
  { "written", all_writes, "write" },
  { "  to donors", to_donors, NULL },
  { "  to disk", to_disk, NULL },
};

/* false if none of them is known. */
static bool
sum_rates (const struct rates *r, const char *const *names, double *ret)
{
  bool any = false;
  double rate;

  *ret = 0;
  for (; *names != NULL; names++)
    if (rates_counter (r, *names, &rate)) {
      *ret += rate;
      any = true;
    }
  return any;
}

static const char *
rate_text (struct page *p, bool known, double rate)
{
  return !known ? "-" : page_format (p, rate > 0 && rate < 9.95 ? "%.1f" :
                                     "%.0f", rate);
}

static const char *
megabytes_text (struct page *p, bool known, double pages)
{
  return !known ? "-" : page_format (p, "%.1f", pages * page_bytes_each / 1e6);
}

static const char *
microseconds_text (struct page *p, bool known, double us)
{
  if (!known || us < 0)
    return "-";
  return us < 999.5 ? page_format (p, "%.0fus", us) :
    us < 9995 ? page_format (p, "%.1fms", us / 1e3) :
    us < 999500 ? page_format (p, "%.0fms", us / 1e3) :
    page_format (p, "%.1fs", us / 1e6);
}

static const char *
quantile (struct page *p, const struct rates *r, const struct flow *f,
          const char *name)
{
  JsonObject *latency = page_object (r->now, "latency");
  JsonObject *o = f->latency != NULL ? page_object (latency, f->latency) :
    NULL;
  double count = 0, us = 0;
  bool known = page_number (o, "count", &count) && count > 0 &&
    page_number (o, name, &us);

  return microseconds_text (p, known, us);
}

static void
add_flow (struct page *p, struct page_table *t, const struct rates *r,
          const struct flow *f)
{
  double rate, mean = 0;
  bool known = sum_rates (r, f->counters, &rate);
  bool timed = f->latency != NULL && rates_mean_us (r, f->latency, &mean);

  page_table_row (t, f->label, rate_text (p, known, rate),
                  megabytes_text (p, known, rate),
                  microseconds_text (p, timed, mean),
                  quantile (p, r, f, "p50_us"), quantile (p, r, f, "p99_us"));
}

static const char *
counter_text (struct page *p, const struct rates *r, const char *name)
{
  double rate;
  const char *total = page_text (p, page_object (r->now, "counters"), name);

  return rates_counter (r, name, &rate) && rate > 0 ?
    page_format (p, "%s (%s/s)", total, rate_text (p, true, rate)) : total;
}

static void
add_donors (struct page *p, JsonObject *document)
{
  g_autoptr (GPtrArray) donors = page_objects (document, "donors");
  struct page_table t;

  page_table_begin (&t, "lllrr", "DONOR", "STATE", "FABRIC", "SLABS", "FREE");
  for (guint i = 0; i < donors->len; i++) {
    JsonObject *d = g_ptr_array_index (donors, i);

    page_table_row (&t, page_text (p, d, "address"), page_text (p, d, "state"),
                    page_text (p, d, "fabric"), page_text (p, d, "slabs"),
                    page_size (p, d, "free_bytes"));
  }
  page_table_end (&t, p);
}

static void
add_device (struct page *p, const struct top_program *program)
{
  const struct rates *r = &program->rates;
  JsonObject *device = page_object (r->now, "device");
  JsonObject *slabs = page_object (r->now, "slabs");
  JsonObject *behind = page_object (r->now, "write_behind");
  struct page_table t;

  g_string_append_printf (p->text, "device of %s, %s of %s slabs mapped, "
                          "write-behind %s of %s\n",
                          page_size (p, device, "size_bytes"),
                          page_text (p, slabs, "mapped"),
                          page_text (p, device, "slabs"),
                          page_text (p, behind, "in_use"),
                          page_text (p, behind, "slots"));
  page_table_begin (&t, "lrrrrr", "", "PAGES/s", "MB/s", "MEAN", "P50 EVER",
                    "P99 EVER");
  for (size_t i = 0; i < G_N_ELEMENTS (flows); i++)
    add_flow (p, &t, r, &flows[i]);
  page_table_end (&t, p);
  g_string_append_printf (p->text, "  slabs evicted %s, lost %s, moved %s; "
                          "I/O errors %s, deadlines missed %s\n",
                          counter_text (p, r, "slabs_evicted"),
                          counter_text (p, r, "slabs_lost"),
                          counter_text (p, r, "slabs_moved"),
                          counter_text (p, r, "io_errors"),
                          counter_text (p, r, "deadlines_missed"));
  add_donors (p, r->now);
}

static void
add_sessions (struct page *p, JsonObject *document)
{
  g_autoptr (GPtrArray) sessions = page_objects (document, "sessions");
  struct page_table t;

  if (sessions->len == 0)
    return;
  page_table_begin (&t, "lllrr", "BORROWER", "DEVICE", "FABRIC", "LANES",
                    "SLABS");
  for (guint i = 0; i < sessions->len; i++) {
    JsonObject *s = g_ptr_array_index (sessions, i);

    page_table_row (&t, page_text (p, s, "peer"), page_text (p, s, "device"),
                    page_text (p, s, "fabric"), page_text (p, s, "lanes"),
                    page_text (p, s, "slabs"));
  }
  page_table_end (&t, p);
}

static void
add_donor (struct page *p, const struct top_program *program)
{
  const struct rates *r = &program->rates;
  JsonObject *memory = page_object (r->now, "memory");
  JsonObject *slabs = page_object (r->now, "slabs");

  g_string_append_printf (p->text, "donor on %s\n",
                          page_text (p, r->now, "listen"));
  g_string_append_printf (p->text, "  lends %s in %s slabs, %s ready, %s being "
                          "evicted; would lend %s\n",
                          page_size (p, memory, "lent_bytes"),
                          page_text (p, slabs, "lent"),
                          page_text (p, slabs, "ready"),
                          page_text (p, slabs, "evicting"),
                          page_size (p, memory, "would_lend_bytes"));
  g_string_append_printf (p->text, "  slabs mapped %s, given back %s, evicted "
                          "%s, not answered %s\n",
                          counter_text (p, r, "maps"),
                          counter_text (p, r, "unmaps"),
                          counter_text (p, r, "evictions_done"),
                          counter_text (p, r, "evictions_unanswered"));
  g_string_append_printf (p->text, "  node of %s: %s available, %s used by "
                          "others, headroom %s\n",
                          page_size (p, memory, "total_bytes"),
                          page_size (p, memory, "available_bytes"),
                          page_size (p, memory, "used_by_others_bytes"),
                          page_size (p, memory, "headroom_bytes"));
  add_sessions (p, r->now);
}

static const char *
kind_of (struct page *p, const struct top_program *program)
{
  return program->rates.now == NULL ? "" :
    page_text (p, program->rates.now, "kind");
}

/* Without the socket's path, which is at the beginning of most. */
static const char *
problem_text (struct page *p, const struct top_program *program)
{
  const char *problem = program->problem;
  size_t len = strlen (program->socket);

  if (strncmp (problem, program->socket, len) == 0 &&
      g_str_has_prefix (problem + len, ": "))
    problem += len + 2;
  return page_printable (p, problem);
}

static void
add_program (struct page *p, const struct top_program *program)
{
  const char *kind = kind_of (p, program);

  g_string_append_printf (p->text, "\n%s: ",
                          page_printable (p, program->socket));
  if (program->problem != NULL) {
    g_string_append_printf (p->text, "gone: %s\n",
                            problem_text (p, program));
    return;
  }
  if (program->restarted)
    g_string_append (p->text, "restarted; ");
  if (program->rates.now == NULL)
    g_string_append (p->text, "not asked yet\n");
  else if (strcmp (kind, "device") == 0)
    add_device (p, program);
  else if (strcmp (kind, "donor") == 0)
    add_donor (p, program);
  else
    g_string_append_printf (p->text, "unknown kind of program \"%s\"\n", kind);
}

/* ---- sums ---- */

struct sums {
  unsigned devices, donors, gone;
  double read, written, from[4];
  double slabs_lent, lent_bytes, evicted;
};

static void
add_to (struct sums *s, const struct top_program *program, const char *kind)
{
  const struct rates *r = &program->rates;
  double n;

  if (program->problem != NULL)
    s->gone++;
  else if (strcmp (kind, "device") == 0) {
    s->devices++;
    for (int i = 0; i < 4; i++)
      if (rates_counter (r, all_reads[i], &n)) {
        s->from[i] += n;
        s->read += n;
      }
    if (rates_counter (r, "pages_written", &n))
      s->written += n;
  }
  else if (strcmp (kind, "donor") == 0) {
    s->donors++;
    if (page_number (page_object (r->now, "slabs"), "lent", &n))
      s->slabs_lent += n;
    if (page_number (page_object (r->now, "memory"), "lent_bytes", &n))
      s->lent_bytes += n;
    if (rates_counter (r, "evictions_done", &n))
      s->evicted += n;
  }
}

static void
add_device_sums (struct page *p, const struct sums *s)
{
  page_line (p, s->devices == 1 ? "1 device" : page_format
             (p, "%u devices", s->devices),
             "read %s pages/s (%s MB/s), written %s (%s MB/s)",
             rate_text (p, true, s->read), megabytes_text (p, true, s->read),
             rate_text (p, true, s->written),
             megabytes_text (p, true, s->written));
  if (s->read > 0)
    page_line (p, "", "reads: %.0f%% slots, %.0f%% donors, %.0f%% disk, "
               "%.0f%% zeros", 100 * s->from[0] / s->read,
               100 * s->from[1] / s->read, 100 * s->from[2] / s->read,
               100 * s->from[3] / s->read);
}

static void
add_sums (struct page *p, const struct top_program *programs, size_t n)
{
  struct sums s = { 0 };

  for (size_t i = 0; i < n; i++)
    add_to (&s, &programs[i], kind_of (p, &programs[i]));
  if (s.devices > 0)
    add_device_sums (p, &s);
  if (s.donors > 0)
    page_line (p, s.donors == 1 ? "1 donor" : page_format
               (p, "%u donors", s.donors),
               "%.0f slabs lent (%s), %s slabs/s evicted", s.slabs_lent,
               page_bytes (p, s.lent_bytes), rate_text (p, true, s.evicted));
  if (s.gone > 0)
    page_line (p, page_format (p, "%u gone", s.gone), "%s", "");
}

char *
top_page (const struct top_program *programs, size_t n)
{
  struct page p;

  page_begin (&p);
  add_sums (&p, programs, n);
  for (size_t i = 0; i < n; i++)
    add_program (&p, &programs[i]);
  return page_end (&p);
}
