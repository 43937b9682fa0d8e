#include <string.h>

#include "conf/units.h"
#include "donor/demand.h"
#include "donor/evictor.h"

static JsonNode *
take_object (JsonObject *o)
{
  JsonNode *node = json_node_new (JSON_NODE_OBJECT);

  json_node_take_object (node, o);
  return node;
}

static JsonNode *
refuse (const char *reason)
{
  JsonObject *o = json_object_new ();

  json_object_set_string_member (o, "error", reason);
  return take_object (o);
}

JsonNode *
demand_answer (struct donor_shared *shared, const char *count)
{
  const struct donor_counters *counters = &shared->counters;
  JsonObject *o;
  uint64_t slabs;

  if (strcmp (count, "all") == 0)
    slabs = UINT64_MAX;
  else if (units_parse_uint (count, &slabs) < 0 || slabs == 0)
    return refuse ("evict takes a number of slabs above 0, or all");
  if (shared->stopping)
    return refuse ("the donor is stopping, and asks for all slabs itself");
  slabs = evictor_demand (shared->evictor, slabs);
  o = json_object_new ();
  json_object_set_int_member (o, "slabs", slabs);
  json_object_set_int_member (o, "until", evictor_going (shared->evictor)
                              + counters->evictions_done
                              + counters->evictions_unanswered);
  return take_object (o);
}
