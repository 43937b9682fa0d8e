#include <string.h>

#include "donor/evictor.h"
#include "donor/metrics.h"

static void
add_node (struct exposition *e, const struct donor_status *status,
          const struct lender_memory *memory)
{
  const struct memory_lock_result *lock = status->lock;

  exposition_family (e, EXPOSITION_GAUGE, "infiniswap_donor_build_info",
                     "1; its version is in the label.");
  exposition_sample (e, 1, "version", ISW_VERSION, NULL);
  exposition_gauge (e, "infiniswap_donor_locked",
                    "Whether its memory is locked.",
                    lock->mode != MEMORY_LOCK_NO && lock->mlock_error == 0);
  exposition_gauge (e, "infiniswap_donor_locked_bytes",
                    "Memory that is locked.", memory_locked_bytes ());
  exposition_gauge (e, "infiniswap_donor_node_bytes",
                    "Memory of the node.", memory->total_bytes);
  exposition_gauge (e, "infiniswap_donor_node_available_bytes",
                    "Memory of the node, or of the donor's cgroup, that is "
                    "available.", memory->available_bytes);
  exposition_gauge (e, "infiniswap_donor_used_by_others_bytes",
                    "What is neither available nor held, averaged.",
                    memory->used_by_others_bytes);
  exposition_counter (e, "infiniswap_donor_pressure_events_total",
                      "Times that tasks stalled for memory and the donor "
                      "gave way.", memory->pressure_events);
}

static void
add_lending (struct exposition *e, const struct donor_shared *shared,
             const struct lender_memory *memory)
{
  exposition_gauge (e, "infiniswap_donor_headroom_bytes",
                    "Free memory that is kept for the node.",
                    memory->headroom_bytes);
  exposition_gauge (e, "infiniswap_donor_limit_bytes",
                    "What the donor may hold now.", memory->limit_bytes);
  exposition_gauge (e, "infiniswap_donor_held_bytes",
                    "What it holds, lent or not.", memory->held_bytes);
  exposition_gauge (e, "infiniswap_donor_lent_bytes",
                    "What is lent.", memory->lent_bytes);
  exposition_gauge (e, "infiniswap_donor_would_lend_bytes",
                    "What it would lend beyond that.",
                    shared->stopping ? 0 : memory->would_lend_bytes);
  exposition_gauge (e, "infiniswap_donor_slab_size_bytes",
                    "Size of a slab.", shared->config->slab_size_bytes);
  exposition_gauge (e, "infiniswap_donor_slabs_ready",
                    "Slabs prepared and not lent.", memory->slabs_ready);
  exposition_gauge (e, "infiniswap_donor_slabs_lent",
                    "Slabs lent.", memory->slabs_lent);
  exposition_gauge (e, "infiniswap_donor_slabs_evicting",
                    "Slabs lent that are being taken back.",
                    evictor_going (shared->evictor));
}

/* ---- sessions ---- */

/* Without the port, which another session of the same peer has not. */
static char *
peer_host (const char *peer)
{
  const char *colon = strrchr (peer, ':');

  return colon != NULL ? g_strndup (peer, colon - peer) : g_strdup (peer);
}

static void
add_borrower (struct exposition *e, const struct session_info *info,
              double value)
{
  char device[2 * MESSAGE_DEVICE_ID_SIZE + 1];
  g_autofree char *peer = peer_host (info->peer);

  for (size_t i = 0; i < MESSAGE_DEVICE_ID_SIZE; i++)
    g_snprintf (device + 2 * i, 3, "%02x", info->device[i]);
  exposition_sample (e, value, "peer", peer, "device", device, "fabric",
                     info->fabric->name, NULL);
}

static double
slabs_of (const struct session_info *info)
{
  return info->slabs;
}

static double
lanes_of (const struct session_info *info)
{
  return info->lanes;
}

static double
age_of (const struct session_info *info)
{
  return (fabric_now_ns () - info->started_ns) / 1000000000;
}

/* Returns how many borrowers there are. */
static unsigned
add_borrowers (struct exposition *e, const GPtrArray *sessions,
               const char *name, const char *help,
               double (*value) (const struct session_info *info))
{
  struct session_info info;
  unsigned n = 0;

  exposition_family (e, EXPOSITION_GAUGE, name, help);
  for (guint i = 0; i < sessions->len; i++) {
    session_get_info (g_ptr_array_index (sessions, i), &info);
    if (info.active) {
      add_borrower (e, &info, value (&info));
      n++;
    }
  }
  return n;
}

static void
add_sessions (struct exposition *e, const GPtrArray *sessions)
{
  unsigned n;

  add_borrowers (e, sessions, "infiniswap_donor_borrower_lanes",
                 "Lanes of this borrower.", lanes_of);
  add_borrowers (e, sessions, "infiniswap_donor_borrower_session_age_seconds",
                 "How long this borrower's session has stood.", age_of);
  n = add_borrowers (e, sessions, "infiniswap_donor_borrower_slabs",
                     "Slabs lent to this borrower.", slabs_of);
  exposition_gauge (e, "infiniswap_donor_sessions",
                    "Borrowers that have a session.", n);
}

/* ---- counters ---- */

static void
add_counters (struct exposition *e, const struct donor_counters *c)
{
  const struct {
    const char *name, *help;
    uint64_t value;
  } counters[] = {
    { "infiniswap_donor_sessions_started_total",
      "Sessions that have begun.", c->sessions_started },
    { "infiniswap_donor_sessions_ended_total",
      "Sessions that have ended.", c->sessions_ended },
    { "infiniswap_donor_maps_total",
      "Slabs lent so far.", c->maps },
    { "infiniswap_donor_maps_refused_total",
      "Slabs asked for and refused.", c->maps_refused },
    { "infiniswap_donor_unmaps_total",
      "Slabs that borrowers gave back of their own accord.", c->unmaps },
    { "infiniswap_donor_messages_bad_total",
      "Messages malformed, unexpected or out of order.", c->messages_bad },
    { "infiniswap_donor_eviction_rounds_total",
      "Rounds of eviction.", c->eviction_rounds },
    { "infiniswap_donor_activity_unanswered_total",
      "Questions for activity not answered in time.",
      c->activity_unanswered },
    { "infiniswap_donor_evictions_asked_total",
      "Slabs asked back.", c->evictions_asked },
    { "infiniswap_donor_evictions_done_total",
      "Slabs asked back that borrowers let go of.", c->evictions_done },
    { "infiniswap_donor_evictions_unanswered_total",
      "Slabs asked back whose session ended first.",
      c->evictions_unanswered },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (counters); i++)
    exposition_counter (e, counters[i].name, counters[i].help,
                        counters[i].value);
}

static void
add_evictions (struct exposition *e, const struct histogram *durations)
{
  struct histogram_sums sums;

  histogram_read (durations, &sums);
  exposition_family (e, EXPOSITION_HISTOGRAM,
                     "infiniswap_donor_eviction_duration_seconds",
                     "From asking for a slab to the borrower's DONE.");
  exposition_histogram (e, &sums, NULL);
}

void
donor_metrics_report (struct exposition *e,
                      const struct donor_status *status)
{
  const struct donor_shared *shared = status->shared;
  struct lender_memory memory;

  lender_get_memory (shared->lender, &memory);
  add_node (e, status, &memory);
  add_lending (e, shared, &memory);
  add_sessions (e, status->sessions);
  add_counters (e, &shared->counters);
  add_evictions (e, shared->eviction_durations);
}
