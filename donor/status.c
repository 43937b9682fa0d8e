#include <inttypes.h>
#include <string.h>

#include "donor/evictor.h"
#include "donor/status.h"

static void
add_int (JsonBuilder *b, const char *name, uint64_t value)
{
  json_builder_set_member_name (b, name);
  json_builder_add_int_value (b, value);
}

static void
add_string (JsonBuilder *b, const char *name, const char *value)
{
  json_builder_set_member_name (b, name);
  json_builder_add_string_value (b, value);
}

static void
begin (JsonBuilder *b, const char *name)
{
  json_builder_set_member_name (b, name);
  json_builder_begin_object (b);
}

static void
add_config (JsonBuilder *b, const struct donor_config *config)
{
  const char *name, *value;
  size_t i;

  begin (b, "config");
  for (i = 0; (name = donor_config_option (config, i, &value)); i++)
    add_string (b, name, value);
  json_builder_end_object (b);
}

static void
add_fabrics (JsonBuilder *b, const struct donor_status *status)
{
  size_t i;

  json_builder_set_member_name (b, "fabrics");
  json_builder_begin_array (b);
  for (i = 0; status->fabrics[i]; i++)
    json_builder_add_string_value (b, status->fabrics[i]);
  json_builder_end_array (b);
}

static void
add_memory (JsonBuilder *b, const struct lender_memory *memory,
            const struct donor_shared *shared)
{
  begin (b, "memory");
  add_int (b, "total_bytes", memory->total_bytes);
  add_int (b, "available_bytes", memory->available_bytes);
  add_int (b, "used_by_others_bytes", memory->used_by_others_bytes);
  add_int (b, "headroom_bytes", memory->headroom_bytes);
  add_int (b, "limit_bytes", memory->limit_bytes);
  add_int (b, "held_bytes", memory->held_bytes);
  add_int (b, "lent_bytes", memory->lent_bytes);
  add_int (b, "would_lend_bytes",
           shared->stopping ? 0 : memory->would_lend_bytes);
  add_int (b, "pressure_events", memory->pressure_events);
  json_builder_end_object (b);
}

static void
add_lock (JsonBuilder *b, const struct memory_lock_result *lock)
{
  begin (b, "lock");
  add_string (b, "mode", memory_lock_mode_name (lock->mode));
  add_int (b, "locked_bytes", memory_locked_bytes ());
  add_string (b, "mlock", lock->mode == MEMORY_LOCK_NO ? "not tried"
              : lock->mlock_error ? strerror (-lock->mlock_error) : "ok");
  add_string (b, "io_flusher", "not used");
  json_builder_end_object (b);
}

static void
add_slabs (JsonBuilder *b, const struct lender_memory *memory,
           const struct donor_shared *shared)
{
  begin (b, "slabs");
  add_int (b, "slab_size_bytes", shared->config->slab_size_bytes);
  add_int (b, "ready", memory->slabs_ready);
  add_int (b, "reserved", memory->slabs_reserved);
  add_int (b, "lent", memory->slabs_lent);
  add_int (b, "evicting", evictor_going (shared->evictor));
  json_builder_end_object (b);
}

static void
add_session (JsonBuilder *b, const struct session_info *info)
{
  char device[2 * MESSAGE_DEVICE_ID_SIZE + 1], id[17];
  size_t i;

  for (i = 0; i < MESSAGE_DEVICE_ID_SIZE; i++)
    g_snprintf (device + 2 * i, 3, "%02x", info->device[i]);
  g_snprintf (id, sizeof id, "%016" PRIx64, info->id);
  json_builder_begin_object (b);
  add_string (b, "id", id);
  add_string (b, "peer", info->peer);
  add_string (b, "device", device);
  add_string (b, "fabric", info->fabric->name);
  add_int (b, "lanes", info->lanes);
  add_int (b, "slabs", info->slabs);
  add_int (b, "seconds",
           (fabric_now_ns () - info->started_ns) / 1000000000);
  add_int (b, "deadline_ms", info->deadline_ns / 1000000);
  json_builder_end_object (b);
}

static void
add_sessions (JsonBuilder *b, const GPtrArray *sessions)
{
  struct session_info info;
  unsigned i;

  json_builder_set_member_name (b, "sessions");
  json_builder_begin_array (b);
  for (i = 0; i < sessions->len; i++) {
    session_get_info (g_ptr_array_index (sessions, i), &info);
    if (info.active)
      add_session (b, &info);
  }
  json_builder_end_array (b);
}

static void
add_counters (JsonBuilder *b, const struct donor_shared *shared)
{
  const struct donor_counters *counters = &shared->counters;

  begin (b, "counters");
  add_int (b, "sessions_started", counters->sessions_started);
  add_int (b, "sessions_ended", counters->sessions_ended);
  add_int (b, "maps", counters->maps);
  add_int (b, "maps_refused", counters->maps_refused);
  add_int (b, "unmaps", counters->unmaps);
  add_int (b, "messages_bad", counters->messages_bad);
  add_int (b, "eviction_rounds", counters->eviction_rounds);
  add_int (b, "activity_unanswered", counters->activity_unanswered);
  add_int (b, "evictions_asked", counters->evictions_asked);
  add_int (b, "evictions_done", counters->evictions_done);
  add_int (b, "evictions_unanswered", counters->evictions_unanswered);
  /* From EVICT to DONE, of the latest. */
  add_int (b, "eviction_us_median", recent_median (&shared->eviction_ns)
           / 1000);
  add_int (b, "eviction_us_greatest", recent_greatest (&shared->eviction_ns)
           / 1000);
  json_builder_end_object (b);
}

JsonNode *
donor_status_new (const struct donor_status *status)
{
  g_autoptr (JsonBuilder) b = json_builder_new ();
  struct lender_memory memory;

  lender_get_memory (status->shared->lender, &memory);
  json_builder_begin_object (b);
  add_string (b, "kind", "donor");
  add_string (b, "version", ISW_VERSION);
  add_config (b, status->shared->config);
  add_fabrics (b, status);
  add_string (b, "listen", status->listen);
  add_memory (b, &memory, status->shared);
  add_lock (b, status->lock);
  add_slabs (b, &memory, status->shared);
  add_sessions (b, status->sessions);
  add_counters (b, status->shared);
  json_builder_end_object (b);
  return json_builder_get_root (b);
}
