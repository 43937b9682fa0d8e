#include <string.h>

#include <glib.h>

#include "conf/units.h"
#include "ctl/ask.h"
#include "ctl/evict.h"
#include "ctl/page.h"

enum { POLL_US = 20000 };

/* What the donor says of its evictions, in slabs. */
struct progress {
  double evicting;
  double back;                  /* ever */
};

struct run {
  const struct evict_options *o;
  FILE *out, *err;
  int64_t end_us;
};

bool
evict_check_count (const char *count)
{
  uint64_t n;

  return strcmp (count, "all") == 0
    || (units_parse_uint (count, &n) == 0 && n > 0);
}

static int64_t
left_ns (const struct run *r)
{
  return MAX (r->end_us - g_get_monotonic_time (), 1) * 1000;
}

/* Numbers of an object in the document; false after a message. */
static bool
read_number (const struct run *r, JsonObject *o, const char *name,
             double *ret)
{
  if (page_number (o, name, ret))
    return true;
  fprintf (r->err, "infiniswapctl: %s: the answer lacks \"%s\"; is the donor "
           "of another version?\n", r->o->socket, name);
  return false;
}

static bool
check_kind (const struct run *r, JsonObject *document)
{
  JsonNode *kind = json_object_get_member (document, "kind");
  const char *name = kind && JSON_NODE_HOLDS_VALUE (kind)
    ? json_node_get_string (kind) : NULL;

  if (name && strcmp (name, "donor") == 0)
    return true;
  fprintf (r->err, "infiniswapctl: %s: this is no donor, and only donors "
           "evict slabs\n", r->o->socket);
  return false;
}

static bool
read_progress (const struct run *r, struct progress *ret)
{
  JsonNode *node = ask_socket (r->o->socket, "status", left_ns (r), r->err);
  JsonObject *document, *counters;
  double unanswered = 0;
  bool ok;

  if (node == NULL)
    return false;
  document = json_node_get_object (node);
  counters = page_object (document, "counters");
  ok = check_kind (r, document)
    && read_number (r, page_object (document, "slabs"), "evicting",
                    &ret->evicting)
    && read_number (r, counters, "evictions_done", &ret->back)
    && read_number (r, counters, "evictions_unanswered", &unanswered);
  ret->back += unanswered;
  json_node_unref (node);
  return ok;
}

/* How many slabs that will be, and what progress.back is then. */
static bool
demand (const struct run *r, double *slabs, double *until)
{
  g_autofree char *request = g_strdup_printf ("evict %s", r->o->count);
  JsonNode *node = ask_socket (r->o->socket, request, left_ns (r), r->err);
  JsonObject *answer;
  bool ok;

  if (node == NULL)
    return false;
  answer = json_node_get_object (node);
  ok = read_number (r, answer, "slabs", slabs)
    && read_number (r, answer, "until", until);
  json_node_unref (node);
  return ok;
}

/* Slabs that their borrower gives back by itself meanwhile are not
 * evicted, so there may be fewer in the end.
 */
static int
wait_for (const struct run *r, double slabs, double until)
{
  struct progress p;
  double evicted;
  bool over;

  do {
    if (!read_progress (r, &p))
      return 1;
    evicted = CLAMP (slabs - (until - p.back), 0, slabs);
    over = p.back >= until || p.evicting == 0;
    if (!over && g_get_monotonic_time () < r->end_us)
      g_usleep (POLL_US);
  } while (!over && g_get_monotonic_time () < r->end_us);
  fprintf (r->out, "%s: evicted %.0f slab%s\n", r->o->socket, evicted,
           evicted == 1 ? "" : "s");
  if (over)
    return 0;
  fprintf (r->err, "infiniswapctl: %s: %.0f more are on their way; wait "
           "longer with --timeout\n", r->o->socket, slabs - evicted);
  return 1;
}

int
evict_run (const struct evict_options *o, FILE *out, FILE *err)
{
  const struct run r = {
    .o = o,
    .out = out,
    .err = err,
    .end_us = g_get_monotonic_time () + o->timeout_ns / 1000,
  };
  struct progress p;
  double slabs, until;

  /* A device would not know the command. */
  if (!read_progress (&r, &p) || !demand (&r, &slabs, &until))
    return 1;
  return wait_for (&r, slabs, until);
}
