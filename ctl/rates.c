#include <string.h>

#include "ctl/page.h"
#include "ctl/rates.h"

/* These only ever grow. */
static const char *const counters[] = {
  "pages_read_slots", "pages_read_donors", "pages_read_disk",
  "pages_read_zero", "pages_written", "pages_written_donors",
  "pages_written_disk", "slabs_mapped", "slabs_lost", "slabs_evicted",
  "slabs_unmapped", "sessions_started", "sessions_ended", "maps", "unmaps",
  "evictions_asked", "evictions_done",
};

static bool
same_text (JsonObject *a, JsonObject *b, const char *name)
{
  JsonNode *x = a != NULL ? json_object_get_member (a, name) : NULL;
  JsonNode *y = b != NULL ? json_object_get_member (b, name) : NULL;

  if (x == NULL || y == NULL || json_node_get_value_type (x) != G_TYPE_STRING
      || json_node_get_value_type (y) != G_TYPE_STRING)
    return (x == NULL) == (y == NULL);
  return strcmp (json_node_get_string (x), json_node_get_string (y)) == 0;
}

bool
rates_restarted (JsonObject *before, JsonObject *now)
{
  JsonObject *old = page_object (before, "counters");
  JsonObject *new = page_object (now, "counters");
  double a, b;

  if (!same_text (before, now, "kind") ||
      !same_text (page_object (before, "device"), page_object (now, "device"),
                  "id"))
    return true;
  for (size_t i = 0; i < G_N_ELEMENTS (counters); i++)
    if (page_number (old, counters[i], &a) &&
        page_number (new, counters[i], &b) && b < a)
      return true;
  return false;
}

static bool
growth (JsonObject *before, JsonObject *now, const char *name, double *ret)
{
  double a, b;

  if (!page_number (before, name, &a) || !page_number (now, name, &b) ||
      b < a)
    return false;
  *ret = b - a;
  return true;
}

bool
rates_counter (const struct rates *r, const char *name, double *ret)
{
  if (r->seconds <= 0 ||
      !growth (page_object (r->before, "counters"),
               page_object (r->now, "counters"), name, ret))
    return false;
  *ret /= r->seconds;
  return true;
}

bool
rates_mean_us (const struct rates *r, const char *name, double *ret)
{
  JsonObject *before = page_object (page_object (r->before, "latency"), name);
  JsonObject *now = page_object (page_object (r->now, "latency"), name);
  double count, sum;

  if (!growth (before, now, "count", &count) || count <= 0 ||
      !growth (before, now, "sum_us", &sum))
    return false;
  *ret = sum / count;
  return true;
}
