#include "nbdkit-plugin/status.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "nbdkit-plugin/device.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"
#include "nbdkit-plugin/write_behind.h"

static void
add_string (JsonBuilder *b, const char *name, const char *value)
{
  json_builder_set_member_name (b, name);
  if (value)
    json_builder_add_string_value (b, value);
  else
    json_builder_add_null_value (b);
}

static void
add_int (JsonBuilder *b, const char *name, uint64_t value)
{
  json_builder_set_member_name (b, name);
  json_builder_add_int_value (b, value);
}

static void
begin (JsonBuilder *b, const char *name)
{
  json_builder_set_member_name (b, name);
  json_builder_begin_object (b);
}

static void
add_config (JsonBuilder *b, char *const *config)
{
  begin (b, "config");
  for (; *config; config += 2)
    add_string (b, config[0], config[1]);
  json_builder_end_object (b);
}

static void
add_device (JsonBuilder *b, const struct device *d, const uint8_t *id)
{
  char hex[2 * MESSAGE_DEVICE_ID_SIZE + 1];

  for (int i = 0; i < MESSAGE_DEVICE_ID_SIZE; i++)
    snprintf (hex + 2 * i, 3, "%02x", id[i]);
  begin (b, "device");
  add_int (b, "size_bytes", d->params.size_bytes);
  add_int (b, "slab_size_bytes", d->params.slab_size_bytes);
  add_int (b, "slabs", slab_table_slabs (d->slabs));
  add_string (b, "id", hex);
  json_builder_end_object (b);
}

static void
add_lock (JsonBuilder *b, const struct memory_lock_result *r)
{
  bool tried = r->mode != MEMORY_LOCK_NO;

  begin (b, "lock");
  add_string (b, "mode", memory_lock_mode_name (r->mode));
  add_int (b, "locked_bytes", memory_locked_bytes ());
  add_string (b, "mlock", !tried ? "not tried" : r->mlock_error ?
              strerror (-r->mlock_error) : "ok");
  add_string (b, "io_flusher", !tried ? "not tried" : r->flusher_error ?
              strerror (-r->flusher_error) : "ok");
  json_builder_end_object (b);
}

static void
add_slab (JsonBuilder *b, uint64_t index, const struct slab_info *info,
          const struct donor *owner)
{
  json_builder_begin_object (b);
  add_int (b, "index", index);
  add_string (b, "state", slab_state_name (info->state));
  add_string (b, "donor", owner ? owner->name : NULL);
  json_builder_set_member_name (b, "activity");
  json_builder_add_double_value (b, info->activity);
  add_int (b, "reads", info->pages_read);
  add_int (b, "writes", info->pages_written);
  json_builder_end_object (b);
}

static void
add_slabs (JsonBuilder *b, const struct device *d,
           const struct homes *homes)
{
  uint64_t in_state[4] = { 0 };
  struct slab_info info;

  begin (b, "slabs");
  json_builder_set_member_name (b, "list");
  json_builder_begin_array (b);
  for (uint64_t i = 0; i < slab_table_slabs (d->slabs); i++) {
    slab_table_info (d->slabs, i, &info);
    in_state[info.state]++;
    if (info.state != SLAB_UNMAPPED || info.activity > 0)
      add_slab (b, i, &info, homes->of[i].donor);
  }
  json_builder_end_array (b);
  for (enum slab_state s = SLAB_UNMAPPED; s <= SLAB_DRAINING; s++)
    add_int (b, slab_state_name (s), in_state[s]);
  json_builder_end_object (b);
}

static void
add_donors (JsonBuilder *b, const struct donor_pool *p)
{
  json_builder_set_member_name (b, "donors");
  json_builder_begin_array (b);
  for (guint i = 0; i < p->donors->len; i++) {
    const struct donor *d = p->donors->pdata[i];
    const struct session *s = d->session;

    json_builder_begin_object (b);
    add_string (b, "address", d->name);
    add_string (b, "state", d->leaving ? "leaving" :
                donor_state_name (d->state));
    add_string (b, "fabric", s ? session_fabric (s)->name : NULL);
    add_int (b, "slabs", d->slabs);
    add_int (b, "free_bytes", d->free_bytes);
    add_int (b, "session_seconds", s ? session_age_seconds (s) : 0);
    add_int (b, "failures", d->failures);
    add_string (b, "last_error", d->last_error);
    add_string (b, "last_refusal", d->last_refusal);
    json_builder_end_object (b);
  }
  json_builder_end_array (b);
}

static void
add_services (JsonBuilder *b, const struct donor_source *source)
{
  json_builder_set_member_name (b, "services");
  json_builder_begin_array (b);
  for (guint i = 0; i < donor_source_services (source); i++) {
    struct donor_source_service v;

    donor_source_get_service (source, i, &v);
    json_builder_begin_object (b);
    add_string (b, "name", v.name);
    add_int (b, "donors", v.donors);
    add_string (b, "error", v.error);
    json_builder_end_object (b);
  }
  json_builder_end_array (b);
}

static void
add_counters (JsonBuilder *b, const struct device *d,
              const struct homes_counters *h)
{
  const struct device_counters *c = &d->counters;

  begin (b, "counters");
  add_int (b, "pages_read_slots", atomic_load (&c->read_slots));
  add_int (b, "pages_read_donors", atomic_load (&c->read_donors));
  add_int (b, "pages_read_disk", atomic_load (&c->read_disk));
  add_int (b, "pages_read_zero", atomic_load (&c->read_zero));
  add_int (b, "pages_fetched_ahead", atomic_load (&c->fetched_ahead));
  add_int (b, "pages_read_ahead", atomic_load (&c->read_ahead));
  add_int (b, "pages_written", atomic_load (&c->written));
  add_int (b, "pages_written_donors", atomic_load (&c->written_donors));
  add_int (b, "pages_written_disk", atomic_load (&c->written_disk));
  add_int (b, "pages_promoted", atomic_load (&c->promoted));
  add_int (b, "pages_saved", atomic_load (&c->saved));
  add_int (b, "pages_trimmed", atomic_load (&c->trimmed));
  add_int (b, "pages_not_on_local_copy", slab_table_remote_only (d->slabs));
  add_int (b, "slabs_mapped", h->mapped);
  add_int (b, "slabs_lost", h->lost);
  add_int (b, "slabs_evicted", h->evicted);
  add_int (b, "slabs_dismissed", h->dismissed);
  add_int (b, "slabs_moved", h->moved);
  add_int (b, "slabs_returned", h->returned);
  add_int (b, "slabs_unmapped", h->unmapped);
  add_int (b, "deadlines_missed", atomic_load (&c->deadlines_missed));
  add_int (b, "io_errors", atomic_load (&c->io_errors));
  add_int (b, "backing_errors", write_behind_errors (d->writers));
  json_builder_end_object (b);
}

/* All since the start. */
static void
add_latencies (JsonBuilder *b, const struct device *d)
{
  static const char *const names[LATENCIES] = {
    [LATENCY_READ] = "read", [LATENCY_WRITE] = "write",
    [LATENCY_FLUSH] = "flush", [LATENCY_DISCARD] = "discard",
    [LATENCY_READ_SLOTS] = "read_slots",
    [LATENCY_READ_DONORS] = "read_donors",
    [LATENCY_READ_DISK] = "read_disk", [LATENCY_READ_ZERO] = "read_zero",
  };
  struct histogram_sums sums;

  begin (b, "latency");
  for (unsigned i = 0; i < LATENCIES; i++) {
    histogram_read (d->latencies[i], &sums);
    begin (b, names[i]);
    add_int (b, "count", sums.count);
    add_int (b, "p50_us", ceil (histogram_quantile_us (&sums, 0.5)));
    add_int (b, "p99_us", ceil (histogram_quantile_us (&sums, 0.99)));
    add_int (b, "sum_us", sums.sum_ns / 1000);
    json_builder_end_object (b);
  }
  json_builder_end_object (b);
}

static void
add_write_behind (JsonBuilder *b, const struct device *d)
{
  struct slot_pool_stats stats;

  slot_pool_stats (d->slots, &stats);
  begin (b, "write_behind");
  add_int (b, "slots", stats.slots);
  add_int (b, "in_use", stats.in_use);
  add_int (b, "limit", stats.limit);
  add_int (b, "failed", stats.failed);
  json_builder_end_object (b);
}

JsonNode *
status_report (const struct mapper_params *params, const uint8_t *device_id,
               const struct donor_source *source,
               const struct donor_pool *donors, const struct homes *homes)
{
  g_autoptr (JsonBuilder) b = json_builder_new ();

  json_builder_begin_object (b);
  add_string (b, "kind", "device");
  add_string (b, "version", ISW_VERSION);
  add_config (b, params->config);
  add_device (b, params->device, device_id);
  add_lock (b, &params->lock);
  add_slabs (b, params->device, homes);
  add_services (b, source);
  add_donors (b, donors);
  add_counters (b, params->device, &homes->counters);
  add_latencies (b, params->device);
  add_write_behind (b, params->device);
  json_builder_end_object (b);
  return json_builder_get_root (b);
}
