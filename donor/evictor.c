#include "donor/evictor.h"
#include "donor/session.h"
#include "donor/wake.h"

struct evictor {
  struct donor_shared *shared;
  const GPtrArray *sessions;
  GSource *source;
  void (*done) (void *data);    /* taking all, until it is called */
  void *data;
};

/* A grant that stands. */
struct candidate {
  uint64_t session;
  uint64_t grant;
};

/* A session may have ended since its id was noted. */
static struct session *
find_session (const struct evictor *e, uint64_t id)
{
  struct session_info info;
  unsigned i;

  for (i = 0; i < e->sessions->len; i++) {
    struct session *s = g_ptr_array_index (e->sessions, i);

    session_get_info (s, &info);
    if (info.active && info.id == id)
      return s;
  }
  return NULL;
}

static void
add_candidates (GArray *all, const struct session *s)
{
  struct session_info info;
  g_autofree uint64_t *grants = NULL;
  size_t i, n;

  session_get_info (s, &info);
  if (!info.active)
    return;
  grants = g_new (uint64_t, info.slabs);
  n = session_list_grants (s, grants);
  for (i = 0; i < n; i++) {
    struct candidate c = { .session = info.id, .grant = grants[i] };

    g_array_append_val (all, c);
  }
}

/* Those of one session are neighbours. */
static GArray *
list_candidates (const struct evictor *e)
{
  GArray *all = g_array_new (FALSE, FALSE, sizeof (struct candidate));
  unsigned i;

  for (i = 0; i < e->sessions->len; i++)
    add_candidates (all, g_ptr_array_index (e->sessions, i));
  return all;
}

static void
evict (struct evictor *e, const struct candidate *c)
{
  session_evict (find_session (e, c->session), c->grant);
}

static void
take_all (struct evictor *e)
{
  g_autoptr (GArray) all = list_candidates (e);
  void (*done) (void *data) = e->done;
  struct lender_memory memory;
  unsigned i;

  for (i = 0; i < all->len; i++)
    evict (e, &g_array_index (all, struct candidate, i));
  lender_get_memory (e->shared->lender, &memory);
  if (memory.slabs_lent > 0)
    return;
  e->done = NULL;
  done (e->data);
}

static gboolean
turn (gpointer data)
{
  struct evictor *e = data;

  if (e->done)
    take_all (e);
  return G_SOURCE_CONTINUE;
}

struct evictor *
evictor_new (struct donor_shared *shared, const GPtrArray *sessions)
{
  struct evictor *e = g_new0 (struct evictor, 1);

  e->shared = shared;
  e->sessions = sessions;
  e->source = wake_new (shared->context, -1, turn, e);
  return e;
}

void
evictor_free (struct evictor *e)
{
  if (e == NULL)
    return;
  wake_free (e->source);
  g_free (e);
}

void
evictor_wake (struct evictor *e)
{
  if (e)
    wake_at (e->source, 0);
}

void
evictor_take_all (struct evictor *e, void (*done) (void *data), void *data)
{
  e->done = done;
  e->data = data;
  evictor_wake (e);
}
