#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "conf/log.h"
#include "conf/units.h"
#include "donor/ahead.h"
#include "donor/evictions.h"
#include "donor/evictor.h"
#include "donor/grants.h"

enum { PARKED_MAX = 64 };

/* How often a revocation that found an access inside is tried again. */
static const int64_t revoke_again_ns = 1000000;

static const char stopping[] = "the donor is stopping";

/* It stands until it is asked back by EVICT, or the borrower gives it
 * back: by UNMAP, by DONE in answer to EVICT, or, where they cross, both.
 */
struct grant {
  uint64_t id;
  uint64_t slab_index;          /* the borrower's name for it */
  struct slab *slab;
  struct fabric_region *region;

  bool evicted;                 /* asked back, or to be */
  struct eviction eviction;     /* evicted and not leaving: on the list */

  bool leaving;                 /* on grants.leaving: given back */
  bool unmapped;                /* by an UNMAP, to be answered: */
  uint64_t request;
  int64_t give_up_ns;
};

/* A MAP that waits for a slab. */
struct parked {
  struct lender_wait wait;      /* first: cast to and fro */
  struct grants *grants;
  uint64_t request;
  uint64_t slab_index;
  int64_t expires_ns;
};

struct grants {
  struct grants_session session;
  struct donor_shared *shared;
  GHashTable *by_id;            /* &grant->id -> struct grant * */
  GHashTable *by_slab;          /* &slab_index -> its grant or parked */
  GQueue parked;                /* struct parked *, next to expire first */
  struct evictions evictions;   /* of grants that are also in by_id */
  GQueue leaving;               /* struct grant *, also in by_id */
  struct ahead ahead;
};

static void
ahead_failed (void *data)
{
  struct grants *g = data;

  g->session.failed (g->session.data,
                     "it accesses a slab that it was not given");
}

struct grants *
grants_new (const struct grants_session *session)
{
  struct grants *g = g_new0 (struct grants, 1);

  g->session = *session;
  g->shared = session->shared;
  g->by_id = g_hash_table_new (g_int64_hash, g_int64_equal);
  g->by_slab = g_hash_table_new (g_int64_hash, g_int64_equal);
  g_queue_init (&g->parked);
  g_queue_init (&g->leaving);
  ahead_begin (&g->ahead, g->shared->lender, session->domain, ahead_failed,
               g);
  return g;
}

static void
count_end (struct grants *g, const struct grant *grant)
{
  struct donor_counters *counters = &g->shared->counters;

  if (grant->evicted && grant->leaving)
    counters->evictions_done++;
  else if (grant->evicted)
    counters->evictions_unanswered++;
}

void
grants_free (struct grants *g)
{
  struct parked *p;
  GHashTableIter iter;
  gpointer value;

  while ((p = g_queue_pop_head (&g->parked))) {
    lender_cancel (g->shared->lender, &p->wait);
    g_free (p);
  }
  ahead_end (&g->ahead);
  g_queue_clear (&g->leaving);
  g_hash_table_unref (g->by_slab);
  g_hash_table_iter_init (&iter, g->by_id);
  while (g_hash_table_iter_next (&iter, NULL, &value)) {
    struct grant *grant = value;

    fabric_region_remove (grant->region);
    lender_give_back (g->shared->lender, grant->slab, false);
    count_end (g, grant);
    g_hash_table_iter_remove (&iter);
    g_free (grant);
  }
  g_hash_table_unref (g->by_id);
  evictor_wake (g->shared->evictor);
  g_free (g);
}

uint64_t
grants_count (const struct grants *g)
{
  return g_hash_table_size (g->by_id);
}

uint64_t
grants_going (const struct grants *g)
{
  return evictions_count (&g->evictions) + g->leaving.length;
}

static bool
stands (const struct grant *grant)
{
  return !grant->evicted && !grant->leaving;
}

size_t
grants_list (const struct grants *g, uint64_t *ids)
{
  GHashTableIter iter;
  gpointer value;
  size_t n = 0;

  g_hash_table_iter_init (&iter, g->by_id);
  while (g_hash_table_iter_next (&iter, NULL, &value)) {
    const struct grant *grant = value;

    if (stands (grant))
      ids[n++] = grant->id;
  }
  return n;
}

bool
grants_stands (const struct grants *g, uint64_t id)
{
  const struct grant *grant = g_hash_table_lookup (g->by_id, &id);

  return grant && stands (grant);
}

static uint64_t
slabs_left (const struct grants *g)
{
  const struct donor_config *config = g->shared->config;
  const uint64_t most = config->max_per_borrower_bytes
    / config->slab_size_bytes;
  const uint64_t has = g_hash_table_size (g->by_slab);

  return most > has ? most - has : 0;
}

uint64_t
grants_would_lend_bytes (const struct grants *g)
{
  const uint64_t slab_bytes = g->shared->config->slab_size_bytes;
  const uint64_t bytes = lender_would_lend_bytes (g->shared->lender);
  const uint64_t left = g->shared->stopping ? 0 : slabs_left (g);

  return left < bytes / slab_bytes ? left * slab_bytes : bytes;
}

static const char *
send_message (struct grants *g, const struct message *m)
{
  return g->session.send (g->session.data, m);
}

static const char *
refuse (struct grants *g, uint64_t request, const char *reason)
{
  struct message m = { .type = MESSAGE_REFUSED, .id = request };

  g->shared->counters.maps_refused++;
  g_strlcpy (m.refused.reason, reason, sizeof m.refused.reason);
  return send_message (g, &m);
}

static const char *
send_grant (struct grants *g, uint64_t request, const struct grant *grant)
{
  struct message m = { .type = MESSAGE_MR_INFO, .id = request };

  g->shared->counters.maps++;
  m.mr_info.grant = grant->id;
  m.mr_info.address = fabric_region_address (grant->region);
  m.mr_info.key = fabric_region_key (grant->region);
  m.mr_info.length_bytes = grant->slab->bytes;
  return send_message (g, &m);
}

static void
say (const struct grants *g, const struct grant *grant, const char *what)
{
  log_limited (LOG_LEVEL_INFO, "peer %s: slab %llu %s (grant %llu)",
               g->session.peer, (unsigned long long) grant->slab_index, what,
               (unsigned long long) grant->id);
}

/* It takes a slab that is registered, and tells the borrower first. */
static const char *
add_grant (struct grants *g, uint64_t request, uint64_t slab_index,
           struct slab *slab, struct fabric_region *region)
{
  struct grant *grant = g_new (struct grant, 1);
  const char *failure;

  *grant = (struct grant) {
    .id = ++g->shared->last_grant,
    .slab_index = slab_index,
    .slab = slab,
    .region = region,
  };
  g_hash_table_insert (g->by_id, &grant->id, grant);
  g_hash_table_insert (g->by_slab, &grant->slab_index, grant);
  failure = send_grant (g, request, grant);
  say (g, grant, "lent");
  return failure;
}

static const char *
grant_slab (struct grants *g, uint64_t request, uint64_t slab_index,
            struct slab *slab)
{
  struct fabric_region *region = ahead_take_region (&g->ahead);
  char reason[MESSAGE_TEXT_MAX];
  int r = 0;

  if (region == NULL)
    r = fabric_region_add (g->session.domain, slab->memory, slab->bytes,
                           true, &region);
  if (r == 0)
    return add_grant (g, request, slab_index, slab, region);
  lender_give_back (g->shared->lender, slab, true);
  snprintf (reason, sizeof reason, "cannot register the slab: %s%s",
            strerror (-r), r == -ENOMEM ?
            " (the locked memory limit, ulimit -l, may be too low)" : "");
  log_limited (LOG_LEVEL_WARNING, "peer %s: slab %llu refused: %s",
               g->session.peer, (unsigned long long) slab_index, reason);
  return refuse (g, request, reason);
}

static void
forget_parked (struct grants *g, struct parked *p)
{
  g_queue_remove (&g->parked, p);
  g_hash_table_remove (g->by_slab, &p->slab_index);
  g_free (p);
}

/* The lender's answer to a parked MAP. */
static void
deliver (struct lender_wait *w, struct slab *slab, const char *reason)
{
  struct parked *p = (struct parked *) w;
  struct grants *g = p->grants;
  const uint64_t request = p->request, slab_index = p->slab_index;
  const char *failure;

  forget_parked (g, p);
  if (slab && g->shared->stopping) {
    lender_give_back (g->shared->lender, slab, true);
    failure = refuse (g, request, stopping);
  }
  else if (slab)
    failure = grant_slab (g, request, slab_index, slab);
  else
    failure = refuse (g, request, reason);
  if (failure)
    g->session.failed (g->session.data, failure);
}

static struct parked *
new_parked (struct grants *g, const struct message *m)
{
  struct parked *p = g_new0 (struct parked, 1);

  p->wait.deliver = deliver;
  p->grants = g;
  p->request = m->id;
  p->slab_index = m->map.slab;
  p->expires_ns = fabric_now_ns () + g->session.patience_ns / 2;
  return p;
}

static const char *
take_slab (struct grants *g, const struct message *m)
{
  struct parked *p = new_parked (g, m);
  char reason[MESSAGE_TEXT_MAX];
  struct slab *slab;

  ahead_put_off (&g->ahead);
  switch (lender_take (g->shared->lender, &p->wait, &g->ahead.reserve, &slab,
                       reason, sizeof reason)) {
  case LENDER_WAIT:
    g_queue_push_tail (&g->parked, p);
    g_hash_table_insert (g->by_slab, &p->slab_index, p);
    return NULL;
  case LENDER_READY:
    g_free (p);
    return grant_slab (g, m->id, m->map.slab, slab);
  default:
    g_free (p);
    return refuse (g, m->id, reason);
  }
}

const char *
grants_map (struct grants *g, const struct message *m)
{
  char reason[MESSAGE_TEXT_MAX], text[UNITS_TEXT_MAX];

  if (g->shared->stopping)
    return refuse (g, m->id, stopping);
  if (g_hash_table_contains (g->by_slab, &m->map.slab))
    return refuse (g, m->id, "this slab is mapped already");
  if (g->parked.length >= PARKED_MAX)
    return refuse (g, m->id, "too many MAPs wait already");
  if (slabs_left (g) == 0) {
    units_format_size (g->shared->config->max_per_borrower_bytes, text);
    snprintf (reason, sizeof reason,
              "at most %s for one borrower (--max-per-borrower)", text);
    return refuse (g, m->id, reason);
  }
  return take_slab (g, m);
}

static const char *
send_done (struct grants *g, uint64_t request, uint64_t grant)
{
  struct message m = { .type = MESSAGE_DONE, .id = request };

  m.done.grant = grant;
  return send_message (g, &m);
}

/* The borrower breaks the protocol. */
static const char *
fail_bad (struct grants *g, const char *reason)
{
  g->shared->counters.messages_bad++;
  return reason;
}

static const char *
finish (struct grants *g, struct grant *grant)
{
  const bool unmapped = grant->unmapped;
  const uint64_t request = grant->request, id = grant->id;

  g_queue_remove (&g->leaving, grant);
  g_hash_table_remove (g->by_id, &grant->id);
  g_hash_table_remove (g->by_slab, &grant->slab_index);
  lender_give_back (g->shared->lender, grant->slab, false);
  count_end (g, grant);
  say (g, grant, grant->evicted ? "evicted" : "given back");
  g_free (grant);
  evictor_wake (g->shared->evictor);
  if (!unmapped)
    return NULL;
  g->shared->counters.unmaps++;
  return send_done (g, request, id);
}

/* A thread of the fabric may still be on its way out of an access that
 * the borrower has seen complete, so an access inside is not yet wrong.
 */
static const char *
try_revoke (struct grants *g, struct grant *grant, int64_t now_ns)
{
  const int r = fabric_region_remove (grant->region);

  if (r == 0)
    return finish (g, grant);
  if (r != -EBUSY)
    return "the fabric cannot revoke a slab";
  if (now_ns >= grant->give_up_ns)
    return fail_bad (g, "it accesses a slab that it has given back");
  return NULL;
}

static const char *
take_back (struct grants *g, struct grant *grant)
{
  const int64_t now_ns = fabric_now_ns ();

  grant->leaving = true;
  grant->give_up_ns = now_ns + g->session.deadline_ns / 4;
  if (grant->evicted) {
    grant->give_up_ns = MIN (grant->give_up_ns, grant->eviction.expires_ns);
    evictions_remove (&g->evictions, &grant->eviction);
  }
  g_queue_push_tail (&g->leaving, grant);
  return try_revoke (g, grant, now_ns);
}

const char *
grants_unmap (struct grants *g, const struct message *m)
{
  struct grant *grant = g_hash_table_lookup (g->by_id, &m->unmap.grant);

  if (grant == NULL)
    return send_done (g, m->id, m->unmap.grant);
  if (grant->unmapped)
    return fail_bad (g, "UNMAP of a grant that it has given back");
  grant->unmapped = true;
  grant->request = m->id;
  return grant->leaving ? NULL : take_back (g, grant);
}

void
grants_evict (struct grants *g, uint64_t id)
{
  struct grant *grant = g_hash_table_lookup (g->by_id, &id);

  grant->evicted = true;
  grant->eviction.grant = id;
  evictions_add (&g->evictions, &grant->eviction,
                 fabric_now_ns () + g->session.deadline_ns);
  g->shared->counters.evictions_asked++;
  say (g, grant, "asked for");
}

/* An UNMAP that crossed EVICT may have ended the grant already, and a
 * second DONE finds it gone: both are late, and harmless.
 */
const char *
grants_done (struct grants *g, const struct message *m)
{
  const uint64_t id = m->done.grant;
  struct grant *grant = g_hash_table_lookup (g->by_id, &id);
  int64_t took_ns;

  if (!evictions_sent (&g->evictions, m->id))
    return fail_bad (g, "DONE without an EVICT");
  if (id == 0 || id > g->shared->last_grant)
    return fail_bad (g, "DONE of a grant that nobody has had");
  if (grant == NULL || grant->leaving)
    return NULL;
  if (grant->eviction.request != m->id)
    return fail_bad (g, "DONE of a grant that EVICT did not name");
  took_ns = fabric_now_ns () - grant->eviction.asked_ns;
  recent_note (&g->shared->eviction_ns, took_ns);
  histogram_note (g->shared->eviction_durations, took_ns, 1);
  return take_back (g, grant);
}

static const char *
run_evictions (struct grants *g, int64_t now_ns, int64_t *next_ns)
{
  const char *failure = NULL;
  struct message m;

  if (now_ns >= evictions_expire_ns (&g->evictions))
    return "EVICT is not answered";
  while (failure == NULL && evictions_next (&g->evictions, now_ns, &m))
    failure = send_message (g, &m);
  *next_ns = MIN (*next_ns, evictions_expire_ns (&g->evictions));
  return failure;
}

static const char *
run_leaving (struct grants *g, int64_t now_ns, int64_t *next_ns)
{
  const char *failure = NULL;
  GList *link, *next;

  for (link = g->leaving.head; failure == NULL && link; link = next) {
    next = link->next;
    failure = try_revoke (g, link->data, now_ns);
  }
  if (g->leaving.length > 0)
    *next_ns = MIN (*next_ns, now_ns + revoke_again_ns);
  return failure;
}

static const char *
run_parked (struct grants *g, int64_t now_ns, int64_t *next_ns)
{
  const char *failure = NULL;
  struct parked *p;
  uint64_t request;

  while ((p = g_queue_peek_head (&g->parked)) && p->expires_ns <= now_ns) {
    request = p->request;
    lender_cancel (g->shared->lender, &p->wait);
    forget_parked (g, p);
    failure = refuse (g, request, "no slab ready in time");
    if (failure)
      return failure;
  }
  if (p)
    *next_ns = MIN (*next_ns, p->expires_ns);
  return NULL;
}

const char *
grants_run (struct grants *g, int64_t now_ns, int64_t *next_ns)
{
  const char *failure = run_parked (g, now_ns, next_ns);

  if (failure == NULL)
    failure = run_evictions (g, now_ns, next_ns);
  if (failure == NULL)
    failure = run_leaving (g, now_ns, next_ns);
  if (failure == NULL && slabs_left (g) > 0)
    ahead_run (&g->ahead, now_ns, next_ns);
  return failure;
}
