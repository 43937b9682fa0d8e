#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "conf/units.h"
#include "donor/grants.h"
#include "donor/log.h"

enum { PARKED_MAX = 64 };

/* How often a revocation that found an access inside is tried again. */
static const int64_t revoke_again_ns = 1000000;

struct grant {
  uint64_t id;
  uint64_t slab_index;          /* the borrower's name for it */
  struct slab *slab;
  struct fabric_region *region;

  bool unmapping;               /* on grants.unmapping: */
  uint64_t request;             /* UNMAP's, to be answered */
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
  GQueue unmapping;             /* struct grant *, also in by_id */
};

struct grants *
grants_new (const struct grants_session *session)
{
  struct grants *g = g_new0 (struct grants, 1);

  g->session = *session;
  g->shared = session->shared;
  g->by_id = g_hash_table_new (g_int64_hash, g_int64_equal);
  g->by_slab = g_hash_table_new (g_int64_hash, g_int64_equal);
  g_queue_init (&g->parked);
  g_queue_init (&g->unmapping);
  return g;
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
  g_queue_clear (&g->unmapping);
  g_hash_table_unref (g->by_slab);
  g_hash_table_iter_init (&iter, g->by_id);
  while (g_hash_table_iter_next (&iter, NULL, &value)) {
    struct grant *grant = value;

    fabric_region_remove (grant->region);
    lender_give_back (g->shared->lender, grant->slab, false);
    g_hash_table_iter_remove (&iter);
    g_free (grant);
  }
  g_hash_table_unref (g->by_id);
  g_free (g);
}

uint64_t
grants_count (const struct grants *g)
{
  return g_hash_table_size (g->by_id);
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
  const uint64_t left = slabs_left (g);

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

static const char *
grant_slab (struct grants *g, uint64_t request, uint64_t slab_index,
            struct slab *slab)
{
  char reason[MESSAGE_TEXT_MAX];
  struct fabric_region *region;
  struct grant *grant;
  int r;

  r = fabric_region_add (g->session.domain, slab->memory, slab->bytes, true,
                         &region);
  if (r < 0) {
    lender_give_back (g->shared->lender, slab, true);
    snprintf (reason, sizeof reason, "cannot register the slab: %s%s",
              strerror (-r), r == -ENOMEM ?
              " (the locked memory limit, ulimit -l, may be too low)" : "");
    donor_log ("peer %s: MAP refused: %s", g->session.peer, reason);
    return refuse (g, request, reason);
  }
  grant = g_new (struct grant, 1);
  *grant = (struct grant) {
    .id = ++g->shared->last_grant,
    .slab_index = slab_index,
    .slab = slab,
    .region = region,
  };
  g_hash_table_insert (g->by_id, &grant->id, grant);
  g_hash_table_insert (g->by_slab, &grant->slab_index, grant);
  return send_grant (g, request, grant);
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
  if (slab)
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
  p->expires_ns = fabric_now_ns () + g->session.deadline_ns / 2;
  return p;
}

static const char *
take_slab (struct grants *g, const struct message *m)
{
  struct parked *p = new_parked (g, m);
  char reason[MESSAGE_TEXT_MAX];
  struct slab *slab;

  switch (lender_take (g->shared->lender, &p->wait, &slab,
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

static const char *
finish_unmap (struct grants *g, struct grant *grant)
{
  const uint64_t request = grant->request, id = grant->id;

  g_queue_remove (&g->unmapping, grant);
  g_hash_table_remove (g->by_id, &grant->id);
  g_hash_table_remove (g->by_slab, &grant->slab_index);
  lender_give_back (g->shared->lender, grant->slab, false);
  g_free (grant);
  g->shared->counters.unmaps++;
  return send_done (g, request, id);
}

static const char *
fail_unmap (struct grants *g, const char *reason)
{
  g->shared->counters.messages_bad++;
  return reason;
}

/* A thread of the fabric may still be on its way out of an access that
 * the borrower has seen complete, so an access inside is not yet wrong.
 */
static const char *
try_unmap (struct grants *g, struct grant *grant, int64_t now_ns)
{
  const int r = fabric_region_remove (grant->region);

  if (r == 0)
    return finish_unmap (g, grant);
  if (r != -EBUSY)
    return "the fabric cannot revoke a slab";
  if (now_ns >= grant->give_up_ns)
    return fail_unmap (g, "UNMAP of a slab that it accesses");
  return NULL;
}

const char *
grants_unmap (struct grants *g, const struct message *m)
{
  const int64_t now_ns = fabric_now_ns ();
  struct grant *grant = g_hash_table_lookup (g->by_id, &m->unmap.grant);

  if (grant == NULL)
    return send_done (g, m->id, m->unmap.grant);
  if (grant->unmapping)
    return fail_unmap (g, "UNMAP of a grant that it has given back");
  grant->unmapping = true;
  grant->request = m->id;
  grant->give_up_ns = now_ns + g->session.deadline_ns / 4;
  g_queue_push_tail (&g->unmapping, grant);
  return try_unmap (g, grant, now_ns);
}

static const char *
run_unmapping (struct grants *g, int64_t now_ns, int64_t *next_ns)
{
  const char *failure = NULL;
  GList *link, *next;

  for (link = g->unmapping.head; failure == NULL && link; link = next) {
    next = link->next;
    failure = try_unmap (g, link->data, now_ns);
  }
  if (g->unmapping.length > 0)
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

  return failure ? failure : run_unmapping (g, now_ns, next_ns);
}
