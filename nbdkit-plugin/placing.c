#include "nbdkit-plugin/placing.h"

#include <errno.h>
#include <sys/random.h>

#include "placement/choose.h"

enum step { PLACING_PROBE, PLACING_MAP, PLACING_LANES };

struct probe {
  struct donor *donor;          /* NULL once it has failed */
  uint64_t slabs;               /* of the device, that it had when drawn */
  bool answered;
  uint64_t request;
  uint64_t free_bytes;
};

struct placing {
  const struct placing_params *params;
  uint64_t slab;
  enum step step;
  GSource *timer;
  GPtrArray *excluded;          /* donors that did not take it */
  const struct donor *avoid;    /* not yet asked; or NULL */
  bool urgent;

  /* Each donor in here counts this slab among those it is asked about. */
  struct probe probes[PROBES_MAX];
  size_t n_probes;

  struct donor *target;         /* in MAP and LANES */
  uint64_t request;
  struct slab_home home;        /* in LANES */
};

static void probe (struct placing *p);

static uint64_t
next_random (void *state)
{
  uint64_t r;

  (void) state;
  if (getrandom (&r, sizeof r, GRND_NONBLOCK) != sizeof r)
    r = (uint64_t) g_random_int () << 32 | g_random_int ();
  return r;
}

static struct choose_random system_random = { next_random, NULL };

static void
stop_timer (struct placing *p)
{
  if (p->timer) {
    g_source_destroy (p->timer);
    g_source_unref (p->timer);
    p->timer = NULL;
  }
}

static void
start_timer (struct placing *p, int64_t ns, GSourceFunc f)
{
  stop_timer (p);
  p->timer = g_timeout_source_new (ns / 1000000);
  g_source_set_callback (p->timer, f, p, NULL);
  g_source_attach (p->timer, p->params->context);
}

static bool
is_candidate (const struct placing *p, struct donor *d)
{
  return donor_is_usable (d) && d != p->avoid &&
    d->slabs < p->params->max_slabs_per_donor &&
    !g_ptr_array_find (p->excluded, d, NULL);
}

static bool
may_be_asked (const struct placing *p, const struct donor *d)
{
  return p->urgent || d->asked < ASKED_MAX;
}

static void
drop_probe (struct probe *probe)
{
  if (probe->donor)
    probe->donor->asked--;
  probe->donor = NULL;
}

static void
drop_probes (struct placing *p)
{
  for (size_t i = 0; i < p->n_probes; i++)
    drop_probe (&p->probes[i]);
  p->n_probes = 0;
}

static void
drop_target (struct placing *p)
{
  if (p->target)
    p->target->asked--;
  p->target = NULL;
}

static void
finish (struct placing *p, struct donor *donor, const struct slab_home *home)
{
  stop_timer (p);
  drop_probes (p);
  drop_target (p);
  p->params->done (p->params->data, p->slab, donor, home);
  placing_free (p);
}

/* Draw donors; 0 if none is a candidate that may be asked now. */
static size_t
draw_once (struct placing *p)
{
  GPtrArray *donors = p->params->donors->donors;
  g_autofree struct choose_donor *c = g_new (struct choose_donor,
                                             donors->len + 1);
  size_t drawn[PROBES_MAX];

  drop_probes (p);
  for (guint i = 0; i < donors->len; i++) {
    struct donor *d = donors->pdata[i];
    c[i] = (struct choose_donor) {
      .usable = is_candidate (p, d) && may_be_asked (p, d),
      .slabs = d->slabs,
    };
  }
  p->n_probes = choose_probes (c, donors->len, p->params->probes,
                               &system_random, drawn);
  for (size_t i = 0; i < p->n_probes; i++) {
    struct donor *d = donors->pdata[drawn[i]];

    p->probes[i] = (struct probe) { .donor = d, .slabs = d->slabs };
    d->asked++;
  }
  return p->n_probes;
}

static bool
any_candidate (const struct placing *p)
{
  GPtrArray *donors = p->params->donors->donors;

  for (guint i = 0; i < donors->len; i++)
    if (is_candidate (p, donors->pdata[i]))
      return true;
  return false;
}

static size_t
draw (struct placing *p)
{
  if (draw_once (p) == 0 && p->avoid && !any_candidate (p)) {
    p->avoid = NULL;
    draw_once (p);
  }
  return p->n_probes;
}

static gboolean
on_map_timeout (gpointer data)
{
  struct placing *p = data;

  stop_timer (p);
  /* A missed deadline; the end of the session brings us on. */
  session_end (p->target->session, -ETIMEDOUT);
  return G_SOURCE_REMOVE;
}

static void
ask_for_slab (struct placing *p, struct donor *d)
{
  struct message map = { .type = MESSAGE_MAP, .map = { .slab = p->slab } };

  p->step = PLACING_MAP;
  p->target = d;
  d->asked++;
  d->slabs++;
  drop_probes (p);
  start_timer (p, p->params->deadline_ns, on_map_timeout);
  p->request = session_send (d->session, &map);
  session_connect_lanes (d->session);
}

/* While the probes were under way the donor has got a slab of this device:
 * it was drawn as one without, and perhaps as the only one.
 */
static bool
is_outdated (const struct probe *chosen)
{
  return chosen->slabs == 0 && chosen->donor->slabs > 0;
}

static void
exclude_probed (struct placing *p)
{
  for (size_t i = 0; i < p->n_probes; i++)
    if (p->probes[i].donor)
      g_ptr_array_add (p->excluded, p->probes[i].donor);
}

/* What the donor answered, less what it was asked for since: the probes of
 * slabs that become hot together would all name the same donor.
 */
static uint64_t
free_bytes_now (const struct placing *p, const struct probe *b)
{
  uint64_t asked = b->donor->slabs > b->slabs ?
    (b->donor->slabs - b->slabs) * p->params->slab_size_bytes : 0;

  return b->free_bytes > asked ? b->free_bytes - asked : 0;
}

static void
choose (struct placing *p)
{
  uint64_t free_bytes[PROBES_MAX];
  ssize_t best;

  stop_timer (p);
  for (size_t i = 0; i < p->n_probes; i++) {
    const struct probe *b = &p->probes[i];
    bool ok = b->answered && b->donor && is_candidate (p, b->donor);
    free_bytes[i] = ok ? free_bytes_now (p, b) : 0;
  }
  best = choose_most_free (free_bytes, p->n_probes,
                           p->params->slab_size_bytes, &system_random);
  if (best == -1) {
    exclude_probed (p);
    probe (p);
  }
  else if (is_outdated (&p->probes[best]))
    probe (p);
  else
    ask_for_slab (p, p->probes[best].donor);
}

/* Who did not answer in time is not asked again for this slab: to wait for
 * each draw of it would add up to more than a deadline.
 */
static gboolean
on_probe_timeout (gpointer data)
{
  struct placing *p = data;

  for (size_t i = 0; i < p->n_probes; i++)
    if (p->probes[i].donor && !p->probes[i].answered) {
      g_ptr_array_add (p->excluded, p->probes[i].donor);
      drop_probe (&p->probes[i]);
    }
  choose (p);
  return G_SOURCE_REMOVE;
}

static void
send_probes (struct placing *p)
{
  p->step = PLACING_PROBE;
  drop_target (p);
  start_timer (p, p->params->deadline_ns / 4, on_probe_timeout);
  for (size_t i = 0; i < p->n_probes; i++) {
    struct message query = { .type = MESSAGE_QUERY_MEM };
    p->probes[i].request = session_send (p->probes[i].donor->session, &query);
  }
}

static void
probe (struct placing *p)
{
  if (draw (p) > 0)
    send_probes (p);
  else
    finish (p, NULL, NULL);
}

struct placing *
placing_start (const struct placing_params *params, uint64_t slab,
               const struct donor *avoid, bool urgent)
{
  struct placing *p = g_new0 (struct placing, 1);

  p->params = params;
  p->slab = slab;
  p->avoid = avoid;
  p->urgent = urgent;
  p->excluded = g_ptr_array_new ();
  if (draw (p) == 0) {
    placing_free (p);
    return NULL;
  }
  send_probes (p);
  return p;
}

void
placing_free (struct placing *p)
{
  stop_timer (p);
  drop_probes (p);
  drop_target (p);
  g_ptr_array_unref (p->excluded);
  g_free (p);
}

static bool
all_answered (const struct placing *p)
{
  for (size_t i = 0; i < p->n_probes; i++)
    if (p->probes[i].donor && !p->probes[i].answered)
      return false;
  return true;
}

static bool
on_free_mem (struct placing *p, struct donor *d, const struct message *m)
{
  for (size_t i = 0; i < p->n_probes; i++)
    if (p->probes[i].donor == d && p->probes[i].request == m->id) {
      p->probes[i].answered = true;
      p->probes[i].free_bytes = m->free_mem.free_bytes;
      d->free_bytes = m->free_mem.free_bytes;
      if (all_answered (p))
        choose (p);
      return true;
    }
  return false;
}

static void
on_mr_info (struct placing *p, const struct message *m)
{
  stop_timer (p);
  p->home = (struct slab_home) {
    .session = p->target->session,
    .session_ended = session_ended (p->target->session),
    .grant = m->mr_info.grant, .address = m->mr_info.address,
    .key = m->mr_info.key,
  };
  p->step = PLACING_LANES;
  if (m->mr_info.length_bytes < p->params->slab_size_bytes)
    session_end (p->target->session, -EPROTO);
  else if (session_lanes_ready (p->target->session))
    finish (p, p->target, &p->home);
}

static void
on_refused (struct placing *p, const struct message *m)
{
  donor_note_refusal (p->target, m->refused.reason);
  p->target->slabs--;
  g_ptr_array_add (p->excluded, p->target);
  stop_timer (p);
  probe (p);
}

bool
placing_message (struct placing *p, struct donor *d, const struct message *m)
{
  if (p->step == PLACING_PROBE && m->type == MESSAGE_FREE_MEM)
    return on_free_mem (p, d, m);
  if (p->step != PLACING_MAP || d != p->target || m->id != p->request)
    return false;
  if (m->type == MESSAGE_MR_INFO)
    on_mr_info (p, m);
  else if (m->type == MESSAGE_REFUSED)
    on_refused (p, m);
  else
    return false;
  return true;
}

void
placing_lanes_ready (struct placing *p, struct donor *d)
{
  if (p->step == PLACING_LANES && p->target == d)
    finish (p, d, &p->home);
}

bool
placing_evicted (struct placing *p, struct donor *d, uint64_t grant)
{
  if (p->step != PLACING_LANES || p->target != d || p->home.grant != grant)
    return false;
  d->slabs--;
  g_ptr_array_add (p->excluded, d);
  probe (p);
  return true;
}

void
placing_donor_ended (struct placing *p, struct donor *d)
{
  if (p->avoid == d)
    p->avoid = NULL;
  if (p->step != PLACING_PROBE) {
    if (p->target == d) {
      d->slabs--;
      probe (p);
    }
    return;
  }
  for (size_t i = 0; i < p->n_probes; i++)
    if (p->probes[i].donor == d) {
      drop_probe (&p->probes[i]);
      if (all_answered (p)) {
        choose (p);
        return;
      }
    }
}
