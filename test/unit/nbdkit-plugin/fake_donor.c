/* What donors answer, and the test's hold on them. */

#include "fake_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct grant *
fake_grant_find (struct fake_donor *d, uint64_t key)
{
  for (int i = 0; i < GRANTS; i++)
    if (d->grants[i].session && d->grants[i].key == key)
      return &d->grants[i];
  return NULL;
}

void
fake_session_end (struct session *s)
{
  struct fake_donor *d = s->donor;

  if (s->ended)
    return;
  s->ended = true;
  for (int i = 0; i < GRANTS; i++)
    if (d->grants[i].session == s) {
      free (d->grants[i].memory);
      d->grants[i] = (struct grant) { 0 };
    }
  fake_queues_break (s);
  if (s->channel)
    fake_channel_end (s->channel, -ECONNRESET);
  pthread_cond_broadcast (&fake.changed);
}

static void
say (struct session *s, const struct message *m)
{
  struct channel *c = s->channel;
  int len;

  if (!c || s->ended)
    return;
  must (c->count < INBOX);
  unsigned at = (c->first + c->count++) % INBOX;
  len = message_encode (m, c->inbox[at].bytes, FABRIC_MESSAGE_MAX);
  must (len > 0);
  c->inbox[at].len = len;
  fake_kick (c->fd);
}

static void
refuse (struct session *s, const struct message *m, const char *reason)
{
  struct message r = { .type = MESSAGE_REFUSED, .id = m->id };

  strncpy (r.refused.reason, reason, sizeof r.refused.reason - 1);
  say (s, &r);
}

static void
answer_hello (struct session *s, const struct message *m)
{
  struct fake_donor *d = s->donor;
  struct message r = {
    .type = MESSAGE_WELCOME, .id = m->id,
    .welcome = { .session = s->id, .token = s->token,
                 .slab_size_bytes = d->script.slab_size_bytes,
                 .free_bytes = d->script.free_bytes },
  };

  if (d->script.refuse_hello) {
    refuse (s, m, d->script.refuse_hello);
    return;
  }
  /* A borrower has one session: its old one ends, lanes first. */
  memcpy (s->device_id, m->hello.device_id, sizeof s->device_id);
  for (struct session *o = d->sessions; o; o = o->next)
    if (o != s && o->welcomed &&
        memcmp (o->device_id, s->device_id, sizeof s->device_id) == 0)
      fake_session_end (o);
  s->welcomed = true;
  say (s, &r);
}

static unsigned
lent (const struct fake_donor *d)
{
  unsigned n = 0;

  for (int i = 0; i < GRANTS; i++)
    n += d->grants[i].session != NULL;
  return n;
}

static void
answer_map (struct session *s, const struct message *m)
{
  struct fake_donor *d = s->donor;
  struct message r = { .type = MESSAGE_MR_INFO, .id = m->id };
  struct grant *g = d->grants;

  if (lent (d) >= d->script.slabs) {
    refuse (s, m, "no slab to lend");
    return;
  }
  while (g->session)
    g++;
  *g = (struct grant) {
    .session = s, .id = fake.next_id++, .key = fake.next_id++ << 20,
    .address = fake.next_id++ << 40, .length = d->script.slab_size_bytes,
    .memory = calloc (1, d->script.slab_size_bytes),
  };
  r.mr_info.grant = g->id;
  r.mr_info.key = g->key;
  r.mr_info.address = g->address;
  r.mr_info.length_bytes = d->script.mr_info_length_bytes ?
    d->script.mr_info_length_bytes : g->length;
  say (s, &r);
}

static void
end_grant (struct session *s, uint64_t id)
{
  for (int i = 0; i < GRANTS; i++) {
    struct grant *g = &s->donor->grants[i];
    if (g->session == s && g->id == id) {
      free (g->memory);
      *g = (struct grant) { 0 };
    }
  }
}

static void
answer_unmap (struct session *s, const struct message *m)
{
  struct message r = {
    .type = MESSAGE_DONE, .id = m->id, .done = { .grant = m->unmap.grant },
  };

  end_grant (s, m->unmap.grant);
  say (s, &r);
}

static void
answer (struct session *s, const struct message *m)
{
  struct message r = { .type = MESSAGE_FREE_MEM, .id = m->id };

  switch (m->type) {
  case MESSAGE_HELLO:
    answer_hello (s, m);
    break;
  case MESSAGE_QUERY_MEM:
    r.free_mem.free_bytes = s->donor->script.free_bytes;
    r.free_mem.slabs_lent = lent (s->donor);
    say (s, &r);
    break;
  case MESSAGE_MAP:
    answer_map (s, m);
    break;
  case MESSAGE_UNMAP:
    answer_unmap (s, m);
    break;
  case MESSAGE_DONE:
    end_grant (s, m->done.grant);
    break;
  case MESSAGE_PING:
    r.type = MESSAGE_PONG;
    say (s, &r);
    break;
  default:
    break;
  }
}

void
fake_donor_hear (struct session *s, const struct message *m)
{
  struct fake_donor *d = s->donor;

  d->heard[m->type]++;
  d->last[m->type] = *m;
  pthread_cond_broadcast (&fake.changed);
  if (s->ended || (d->script.ignore & FAKE_BIT (m->type)))
    return;
  if (d->script.hold & FAKE_BIT (m->type)) {
    must (d->n_held < HELD_MESSAGES);
    d->held[d->n_held].session = s;
    d->held[d->n_held++].m = *m;
    return;
  }
  answer (s, m);
}

void
fake_donor_chat (struct session *s)
{
  const struct message m = { .type = s->donor->script.chatter };

  if (m.type && s->welcomed)
    say (s, &m);
}

void
fake_donor_free (struct fake_donor *d)
{
  while (d->sessions) {
    struct session *s = d->sessions;

    d->sessions = s->next;
    free (s);
  }
  free (d);
}

/* ---- for the test ---- */

struct fake_donor *
fake_donor_new (unsigned i, uint64_t slab_size_bytes)
{
  struct fake_donor *d = calloc (1, sizeof *d);

  d->script = (struct fake_script) {
    .slab_size_bytes = slab_size_bytes, .slabs = GRANTS,
    .free_bytes = GRANTS * slab_size_bytes,
  };
  pthread_mutex_lock (&fake.lock);
  fake.donors[i] = d;
  pthread_mutex_unlock (&fake.lock);
  return d;
}

struct fake_script
fake_donor_script (struct fake_donor *d)
{
  struct fake_script s;

  pthread_mutex_lock (&fake.lock);
  s = d->script;
  pthread_mutex_unlock (&fake.lock);
  return s;
}

void
fake_donor_follow (struct fake_donor *d, const struct fake_script *s)
{
  pthread_mutex_lock (&fake.lock);
  d->script = *s;
  pthread_mutex_unlock (&fake.lock);
}

void
fake_donor_answer (struct fake_donor *d)
{
  pthread_mutex_lock (&fake.lock);
  for (unsigned i = 0; i < d->n_held; i++)
    if (!d->held[i].session->ended)
      answer (d->held[i].session, &d->held[i].m);
  d->n_held = 0;
  pthread_mutex_unlock (&fake.lock);
}

void
fake_donor_end_sessions (struct fake_donor *d)
{
  pthread_mutex_lock (&fake.lock);
  for (struct session *s = d->sessions; s; s = s->next)
    fake_session_end (s);
  pthread_mutex_unlock (&fake.lock);
}

void
fake_donor_say (struct fake_donor *d, const struct message *m)
{
  pthread_mutex_lock (&fake.lock);
  ck_assert_ptr_nonnull (d->sessions);
  say (d->sessions, m);
  pthread_mutex_unlock (&fake.lock);
}

/* The newest of a session (NULL: of any), or 0. */
static uint64_t
newest_grant (struct fake_donor *d, const struct session *s)
{
  uint64_t newest = 0;

  for (int i = 0; i < GRANTS; i++) {
    const struct grant *g = &d->grants[i];
    if (g->session && (!s || g->session == s) && g->id > newest)
      newest = g->id;
  }
  return newest;
}

void
fake_donor_evict (struct fake_donor *d)
{
  struct message m = { .type = MESSAGE_EVICT, .grants = { .count = 1 } };

  pthread_mutex_lock (&fake.lock);
  if (d->sessions && !d->sessions->ended) {
    m.id = fake.next_id++;
    m.grants.grants[0] = newest_grant (d, d->sessions);
    if (m.grants.grants[0])
      say (d->sessions, &m);
  }
  pthread_mutex_unlock (&fake.lock);
}

unsigned
fake_donor_heard (struct fake_donor *d, enum message_type type)
{
  unsigned n;

  pthread_mutex_lock (&fake.lock);
  n = d->heard[type];
  pthread_mutex_unlock (&fake.lock);
  return n;
}

void
fake_donor_wait_heard (struct fake_donor *d, enum message_type type,
                       unsigned count)
{
  pthread_mutex_lock (&fake.lock);
  fake_wait_count (&d->heard[type], count);
  pthread_mutex_unlock (&fake.lock);
}

struct message
fake_donor_last (struct fake_donor *d, enum message_type type)
{
  struct message m;

  pthread_mutex_lock (&fake.lock);
  m = d->last[type];
  pthread_mutex_unlock (&fake.lock);
  return m;
}

static unsigned
open_channels (const struct fake_donor *d)
{
  unsigned n = 0;

  for (const struct session *s = d->sessions; s; s = s->next)
    n += s->channel != NULL;
  return n;
}

void
fake_donor_wait_let_go (struct fake_donor *d)
{
  struct timespec until = fake_patience ();

  pthread_mutex_lock (&fake.lock);
  while (open_channels (d) > 0)
    ck_assert_int_eq (pthread_cond_timedwait (&fake.changed, &fake.lock,
                                              &until), 0);
  pthread_mutex_unlock (&fake.lock);
}

unsigned
fake_donor_lent (struct fake_donor *d)
{
  unsigned n;

  pthread_mutex_lock (&fake.lock);
  n = lent (d);
  pthread_mutex_unlock (&fake.lock);
  return n;
}

uint64_t
fake_donor_newest_grant (struct fake_donor *d)
{
  uint64_t newest;

  pthread_mutex_lock (&fake.lock);
  newest = newest_grant (d, NULL);
  pthread_mutex_unlock (&fake.lock);
  return newest;
}

bool
fake_grant_copy (uint64_t key, uint64_t offset, void *buf, size_t len)
{
  struct grant *g = NULL;

  pthread_mutex_lock (&fake.lock);
  for (int i = 0; i < FAKE_DONORS_MAX && !g; i++)
    if (fake.donors[i])
      g = fake_grant_find (fake.donors[i], key);
  if (g)
    memcpy (buf, g->memory + offset, len);
  pthread_mutex_unlock (&fake.lock);
  return g != NULL;
}

void
fake_donor_decide (struct fake_donor *d, fake_fate_f decide, void *data)
{
  pthread_mutex_lock (&fake.lock);
  d->decide = decide;
  d->decide_data = data;
  pthread_mutex_unlock (&fake.lock);
}

unsigned
fake_donor_posted (struct fake_donor *d)
{
  unsigned n;

  pthread_mutex_lock (&fake.lock);
  n = d->posted;
  pthread_mutex_unlock (&fake.lock);
  return n;
}

unsigned
fake_donor_late (struct fake_donor *d)
{
  unsigned n;

  pthread_mutex_lock (&fake.lock);
  n = d->late;
  pthread_mutex_unlock (&fake.lock);
  return n;
}
