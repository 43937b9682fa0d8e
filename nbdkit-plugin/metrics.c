#include "nbdkit-plugin/metrics.h"

#include <stdatomic.h>

#include "nbdkit-plugin/device.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"
#include "nbdkit-plugin/write_behind.h"

static bool
is_locked (const struct memory_lock_result *r)
{
  return r->mode != MEMORY_LOCK_NO && r->mlock_error == 0 &&
    r->flusher_error == 0;
}

static void
add_device (struct exposition *e, const struct mapper_params *params)
{
  const struct device_params *p = &params->device->params;

  exposition_family (e, EXPOSITION_GAUGE, "infiniswap_device_build_info",
                     "1; its version is in the label.");
  exposition_sample (e, 1, "version", ISW_VERSION, NULL);
  exposition_gauge (e, "infiniswap_device_size_bytes",
                    "Size of the device.", p->size_bytes);
  exposition_gauge (e, "infiniswap_device_slab_size_bytes",
                    "Size of a slab.", p->slab_size_bytes);
  exposition_gauge (e, "infiniswap_device_locked",
                    "Whether its memory is locked and PR_SET_IO_FLUSHER is "
                    "set.", is_locked (&params->lock));
  exposition_gauge (e, "infiniswap_device_locked_bytes",
                    "Memory that is locked.", memory_locked_bytes ());
}

static void
add_slabs (struct exposition *e, struct slab_table *slabs)
{
  uint64_t in_state[SLAB_DRAINING + 1] = { 0 };
  struct slab_info info;

  for (uint64_t i = 0; i < slab_table_slabs (slabs); i++) {
    slab_table_info (slabs, i, &info);
    in_state[info.state]++;
  }
  exposition_family (e, EXPOSITION_GAUGE, "infiniswap_device_slabs",
                     "Slabs by state; those mapped are on a donor.");
  for (enum slab_state s = SLAB_UNMAPPED; s <= SLAB_DRAINING; s++)
    exposition_sample (e, in_state[s], "state", slab_state_name (s), NULL);
}

/* ---- donors ---- */

static double
is_up (const struct donor *d)
{
  return d->state == DONOR_CONNECTED;
}

static double
slabs_of (const struct donor *d)
{
  return d->slabs;
}

static double
free_bytes (const struct donor *d)
{
  return d->free_bytes;
}

static double
session_age (const struct donor *d)
{
  return d->session ? session_age_seconds (d->session) : 0;
}

static double
failures (const struct donor *d)
{
  return d->failures;
}

static const struct {
  enum exposition_type type;
  const char *name, *help;
  double (*value) (const struct donor *d);
} donor_families[] = {
  { EXPOSITION_GAUGE, "infiniswap_device_donor_up",
    "Whether there is a session with this donor.", is_up },
  { EXPOSITION_GAUGE, "infiniswap_device_donor_slabs",
    "Slabs of this device on this donor.", slabs_of },
  { EXPOSITION_GAUGE, "infiniswap_device_donor_free_bytes",
    "What this donor would lend, as last heard.", free_bytes },
  { EXPOSITION_GAUGE, "infiniswap_device_donor_session_age_seconds",
    "How long the session with this donor has stood; 0 without one.",
    session_age },
  { EXPOSITION_COUNTER, "infiniswap_device_donor_failures_total",
    "Sessions with this donor that failed or could not be had.", failures },
};

static void
add_donor_states (struct exposition *e, const GPtrArray *donors)
{
  unsigned in_state[DONOR_ENDED + 1] = { 0 };

  for (guint i = 0; i < donors->len; i++)
    in_state[((const struct donor *) donors->pdata[i])->state]++;
  exposition_family (e, EXPOSITION_GAUGE, "infiniswap_device_donors",
                     "Known donors by the state of their sessions.");
  for (enum donor_state s = DONOR_WAITING; s <= DONOR_ENDED; s++)
    exposition_sample (e, in_state[s], "state", donor_state_name (s), NULL);
}

/* A connected donor has a session, and so a fabric. */
static void
add_donor_fabrics (struct exposition *e, const GPtrArray *donors)
{
  exposition_family (e, EXPOSITION_GAUGE, "infiniswap_device_donor_info",
                     "1; how a connected donor is reached is in the label.");
  for (guint i = 0; i < donors->len; i++) {
    const struct donor *d = donors->pdata[i];

    if (d->state == DONOR_CONNECTED)
      exposition_sample (e, 1, "donor", d->name, "fabric",
                         session_fabric (d->session)->name, NULL);
  }
}

static void
add_donors (struct exposition *e, const GPtrArray *donors)
{
  add_donor_states (e, donors);
  add_donor_fabrics (e, donors);
  for (size_t f = 0; f < G_N_ELEMENTS (donor_families); f++) {
    exposition_family (e, donor_families[f].type, donor_families[f].name,
                       donor_families[f].help);
    for (guint i = 0; i < donors->len; i++) {
      const struct donor *d = donors->pdata[i];

      exposition_sample (e, donor_families[f].value (d), "donor", d->name,
                         NULL);
    }
  }
}

/* ---- counters ---- */

static void
add_pages (struct exposition *e, const struct device *d)
{
  const struct device_counters *c = &d->counters;

  exposition_family (e, EXPOSITION_COUNTER,
                     "infiniswap_device_pages_read_total",
                     "Pages read, by where their content came from.");
  exposition_sample (e, atomic_load (&c->read_slots), "source", "slot", NULL);
  exposition_sample (e, atomic_load (&c->read_donors), "source", "donor",
                     NULL);
  exposition_sample (e, atomic_load (&c->read_disk), "source", "disk", NULL);
  exposition_sample (e, atomic_load (&c->read_zero), "source", "zero", NULL);
  exposition_counter (e, "infiniswap_device_pages_fetched_ahead_total",
                      "Pages fetched from donors ahead of reads.",
                      atomic_load (&c->fetched_ahead));
  exposition_counter (e, "infiniswap_device_pages_read_ahead_total",
                      "Pages read from donors that had been fetched so.",
                      atomic_load (&c->read_ahead));
  exposition_family (e, EXPOSITION_COUNTER,
                     "infiniswap_device_pages_written_total",
                     "Pages written, by where they went: a donor and the "
                     "local copy, or that alone.");
  exposition_sample (e, atomic_load (&c->written_donors), "destination",
                     "donor", NULL);
  exposition_sample (e, atomic_load (&c->written_disk), "destination",
                     "disk", NULL);
  exposition_counter (e, "infiniswap_device_pages_promoted_total",
                      "Pages read from disk and then written to a donor.",
                      atomic_load (&c->promoted));
  exposition_counter (e, "infiniswap_device_pages_saved_total",
                      "Pages that the local copy refused and has now.",
                      atomic_load (&c->saved));
  exposition_counter (e, "infiniswap_device_pages_discarded_total",
                      "Pages trimmed or zeroed.", atomic_load (&c->trimmed));
  exposition_gauge (e, "infiniswap_device_pages_not_on_local_copy",
                    "Pages that only a donor has, as the local copy refused "
                    "them.", slab_table_remote_only (d->slabs));
}

static void
add_slab_counters (struct exposition *e, const struct homes_counters *h)
{
  exposition_counter (e, "infiniswap_device_slabs_mapped_total",
                      "Slabs placed on a donor.", h->mapped);
  exposition_counter (e, "infiniswap_device_slabs_lost_total",
                      "Slabs lost with the session of their donor.", h->lost);
  exposition_counter (e, "infiniswap_device_slabs_evicted_total",
                      "Slabs that their donor wanted back.", h->evicted);
  exposition_counter (e, "infiniswap_device_slabs_moved_total",
                      "Evicted slabs that moved straight to another donor.",
                      h->moved);
  exposition_counter (e, "infiniswap_device_slabs_returned_total",
                      "Idle slabs given back.", h->returned);
  exposition_counter (e, "infiniswap_device_slabs_unmapped_total",
                      "Slabs that have left a donor, for whatever reason.",
                      h->unmapped);
}

static void
add_errors (struct exposition *e, const struct device *d)
{
  exposition_counter (e, "infiniswap_device_deadlines_missed_total",
                      "Remote operations that did not end in time.",
                      atomic_load (&d->counters.deadlines_missed));
  exposition_counter (e, "infiniswap_device_io_errors_total",
                      "Reads and writes answered with an error.",
                      atomic_load (&d->counters.io_errors));
  exposition_counter (e, "infiniswap_device_backing_errors_total",
                      "Writes that the local copy refused for good.",
                      write_behind_errors (d->writers));
}

static void
add_write_behind (struct exposition *e, const struct device *d)
{
  struct slot_pool_stats stats;

  slot_pool_stats (d->slots, &stats);
  exposition_gauge (e, "infiniswap_device_write_behind_bytes",
                    "Memory for writes on their way to the local copy.",
                    (double) stats.slots * PAGE_SIZE_BYTES);
  exposition_gauge (e, "infiniswap_device_write_behind_limit_bytes",
                    "How much of it may be in use, as the disk drains it.",
                    (double) stats.limit * PAGE_SIZE_BYTES);
  exposition_gauge (e, "infiniswap_device_write_behind_used_bytes",
                    "How much of it is in use.",
                    (double) stats.in_use * PAGE_SIZE_BYTES);
  exposition_gauge (e, "infiniswap_device_write_behind_failed_bytes",
                    "How much of it the local copy has refused.",
                    (double) stats.failed * PAGE_SIZE_BYTES);
}

/* ---- latencies ---- */

static void
add_latency (struct exposition *e, const struct device *d,
             enum device_latency what, const char *label, const char *value)
{
  struct histogram_sums sums;

  histogram_read (d->latencies[what], &sums);
  exposition_histogram (e, &sums, label, value, NULL);
}

static void
add_latencies (struct exposition *e, const struct device *d)
{
  static const char *const operations[] = {
    [LATENCY_READ] = "read", [LATENCY_WRITE] = "write",
    [LATENCY_FLUSH] = "flush", [LATENCY_DISCARD] = "discard",
  };
  static const char *const sources[] = {
    [LATENCY_READ_SLOTS] = "slot", [LATENCY_READ_DONORS] = "donor",
    [LATENCY_READ_DISK] = "disk", [LATENCY_READ_ZERO] = "zero",
  };

  exposition_family (e, EXPOSITION_HISTOGRAM,
                     "infiniswap_device_request_duration_seconds",
                     "Requests, by operation.");
  for (unsigned i = LATENCY_READ; i <= LATENCY_DISCARD; i++)
    add_latency (e, d, i, "operation", operations[i]);
  exposition_family (e, EXPOSITION_HISTOGRAM,
                     "infiniswap_device_page_read_duration_seconds",
                     "Page reads, by where the content came from.");
  for (unsigned i = LATENCY_READ_SLOTS; i <= LATENCY_READ_ZERO; i++)
    add_latency (e, d, i, "source", sources[i]);
}

void
metrics_report (struct exposition *e, const struct mapper_params *params,
                const struct donor_pool *donors, const struct homes *homes)
{
  const struct device *d = params->device;

  add_device (e, params);
  add_slabs (e, d->slabs);
  add_donors (e, donors->donors);
  add_pages (e, d);
  add_slab_counters (e, &homes->counters);
  add_errors (e, d);
  add_write_behind (e, d);
  add_latencies (e, d);
}
