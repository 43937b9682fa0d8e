#include "nbdkit-plugin/slab_table.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "placement/activity.h"

struct slab {
  pthread_mutex_t lock;         /* guards the next block */
  enum slab_state state;
  unsigned pins;
  bool has_zero;                /* may have PAGE_ZERO pages */
  bool emptied;                 /* a discard has left nothing on the donor */
  uint64_t remote;              /* pages in PAGE_REMOTE */
  uint64_t remote_only;         /* pages in PAGE_REMOTE_ONLY */
  struct slab_home home;
  unsigned former_pins;         /* of the home before the last move */
  uint64_t *copied;             /* during a move: a bit a page; or NULL */

  _Atomic uint64_t pages_now;   /* read and written in this second */
  _Atomic uint64_t pages_to_hot; /* pages_now from which the slab is hot */
  _Atomic uint64_t pages_read, pages_written;
  atomic_bool written;          /* since it was last at rest */
  double activity;              /* the mapper's, like the next */
  unsigned cold_seconds;
};

enum { BITS = 2, PER_WORD = 64 / BITS };
static const uint64_t LOW_BITS = UINT64_C (0x5555555555555555);

struct slab_table {
  uint64_t pages, slab_pages, slabs; /* constant, like the next two */
  double smoothing, hot, cold;
  void (*drained) (void *data);
  void *data;
  struct slab *slab;
  uint64_t *states;             /* BITS a page; guarded by the slab's lock */
  _Atomic uint64_t remote_only;
};

const char *
slab_state_name (enum slab_state state)
{
  static const char *const names[] = {
    [SLAB_UNMAPPED] = "unmapped", [SLAB_MAPPING] = "mapping",
    [SLAB_MAPPED] = "mapped", [SLAB_DRAINING] = "draining",
  };
  return names[state];
}

struct slab_table *
slab_table_new (const struct slab_table_params *params)
{
  const uint64_t pages = params->pages, slab_pages = params->slab_pages;
  struct slab_table *t = calloc (1, sizeof *t);

  /* Slabs must not share a word of page states. */
  assert (slab_pages % PER_WORD == 0);
  if (!t)
    return NULL;
  t->pages = pages;
  t->slab_pages = slab_pages;
  t->slabs = (pages + slab_pages - 1) / slab_pages;
  t->smoothing = params->smoothing;
  t->hot = params->hot_pages_per_second;
  t->cold = params->cold_pages_per_second;
  t->drained = params->drained;
  t->data = params->data;
  t->slab = calloc (t->slabs, sizeof *t->slab);
  t->states = calloc ((pages + PER_WORD - 1) / PER_WORD, sizeof *t->states);
  if (!t->slab || !t->states) {
    slab_table_free (t);
    return NULL;
  }
  for (uint64_t i = 0; i < t->slabs; i++) {
    pthread_mutex_init (&t->slab[i].lock, NULL);
    t->slab[i].pages_to_hot =
      activity_pages_to_hot (0, t->hot, t->smoothing);
  }
  return t;
}

void
slab_table_free (struct slab_table *t)
{
  if (!t)
    return;
  free (t->slab);
  free (t->states);
  free (t);
}

uint64_t
slab_table_slabs (const struct slab_table *t)
{
  return t->slabs;
}

uint64_t
slab_table_slab_of (const struct slab_table *t, uint64_t page)
{
  return page / t->slab_pages;
}

uint64_t
slab_table_first_page (const struct slab_table *t, uint64_t slab)
{
  return slab * t->slab_pages;
}

uint64_t
slab_table_slab_pages (const struct slab_table *t, uint64_t slab)
{
  uint64_t left = t->pages - slab * t->slab_pages;

  return left < t->slab_pages ? left : t->slab_pages;
}

static enum page_state
get_state (const struct slab_table *t, uint64_t page)
{
  return t->states[page / PER_WORD] >> (page % PER_WORD * BITS) & 3;
}

static void
set_state (struct slab_table *t, uint64_t page, enum page_state state)
{
  unsigned shift = page % PER_WORD * BITS;
  uint64_t *word = &t->states[page / PER_WORD];

  *word = (*word & ~(UINT64_C (3) << shift)) | (uint64_t) state << shift;
}

/* Under the slab's lock: can remote memory be used? */
static bool
is_reachable (const struct slab *s)
{
  return s->state == SLAB_MAPPED && !atomic_load (s->home.session_ended);
}

static enum page_source
source_of (enum page_state state, bool reachable)
{
  switch (state) {
  case PAGE_ZERO:
    return SOURCE_ZERO;
  case PAGE_REMOTE:
    return reachable ? SOURCE_DONOR : SOURCE_DISK;
  case PAGE_REMOTE_ONLY:
    return reachable ? SOURCE_DONOR : SOURCE_LOST;
  default:
    return SOURCE_DISK;
  }
}

enum page_source
slab_table_route (struct slab_table *t, uint64_t page, uint32_t n,
                  bool use_donor, uint32_t *count, struct slab_home *home)
{
  struct slab *s = &t->slab[slab_table_slab_of (t, page)];
  enum page_source source;
  uint32_t i;

  pthread_mutex_lock (&s->lock);
  bool reachable = use_donor && is_reachable (s);
  source = source_of (get_state (t, page), reachable);
  for (i = 1; i < n; i++)
    if ((page + i) % t->slab_pages == 0 ||
        source_of (get_state (t, page + i), reachable) != source)
      break;
  if (source == SOURCE_DONOR) {
    s->pins++;
    *home = s->home;
  }
  pthread_mutex_unlock (&s->lock);
  *count = i;
  return source;
}

bool
slab_table_pin (struct slab_table *t, uint64_t slab, struct slab_home *home)
{
  struct slab *s = &t->slab[slab];
  bool reachable;

  pthread_mutex_lock (&s->lock);
  reachable = is_reachable (s);
  if (reachable) {
    s->pins++;
    *home = s->home;
  }
  pthread_mutex_unlock (&s->lock);
  return reachable;
}

static bool
is_home (const struct slab *s, const struct slab_home *home)
{
  return home->session == s->home.session && home->grant == s->home.grant;
}

void
slab_table_unpin (struct slab_table *t, uint64_t slab,
                  const struct slab_home *home)
{
  struct slab *s = &t->slab[slab];
  bool last = false;

  pthread_mutex_lock (&s->lock);
  if (is_home (s, home))
    last = --s->pins == 0 && s->state == SLAB_DRAINING;
  else
    s->former_pins--;
  pthread_mutex_unlock (&s->lock);
  if (last)
    t->drained (t->data);
}

static void
count_remote_only (struct slab_table *t, struct slab *s, int by)
{
  s->remote_only += by;
  atomic_fetch_add (&t->remote_only, by);
}

/* What was copied before is old now. */
static void
forget_copied (struct slab *s, uint64_t first, uint64_t n)
{
  for (uint64_t i = first; i < first + n; i++)
    s->copied[i / 64] &= ~(UINT64_C (1) << i % 64);
}

/* After pages have changed their state to this one. */
static void
note_emptied (struct slab *s, uint64_t remote_before, enum page_state state)
{
  if (s->remote + s->remote_only > 0)
    s->emptied = false;
  else if (state == PAGE_ZERO && remote_before > 0)
    s->emptied = true;
}

/* Under the slab's lock. */
static bool
set_pages (struct slab_table *t, struct slab *s, uint64_t page, uint64_t n,
           enum page_state state)
{
  const uint64_t remote_before = s->remote + s->remote_only;
  bool local_is_old = false;

  if (state == PAGE_ZERO)
    s->has_zero = true;
  for (uint64_t i = page; i < page + n; i++) {
    enum page_state before = get_state (t, i);

    if (before == PAGE_REMOTE_ONLY)
      count_remote_only (t, s, -1);
    s->remote += (state == PAGE_REMOTE) - (before == PAGE_REMOTE);
    local_is_old |= before == PAGE_REMOTE_ONLY || before == PAGE_ZERO;
    set_state (t, i, state);
  }
  if (s->copied)
    forget_copied (s, page % t->slab_pages, n);
  note_emptied (s, remote_before, state);
  return local_is_old;
}

bool
slab_table_set_pages (struct slab_table *t, uint64_t page, uint64_t n,
                      enum page_state state)
{
  struct slab *s = &t->slab[slab_table_slab_of (t, page)];
  bool local_is_old;

  pthread_mutex_lock (&s->lock);
  if (state == PAGE_REMOTE && !is_reachable (s))
    state = PAGE_LOCAL;
  local_is_old = set_pages (t, s, page, n, state);
  pthread_mutex_unlock (&s->lock);
  return local_is_old;
}

/* How many of n pages are in this state, in a row. */
static uint64_t
run_in_state (const struct slab_table *t, uint64_t page, uint64_t n,
              enum page_state state)
{
  uint64_t i = 0;

  while (i < n && get_state (t, page + i) == state)
    i++;
  return i;
}

void
slab_table_land (struct slab_table *t, uint64_t page, uint64_t n,
                 const struct slab_home *home)
{
  struct slab *s = &t->slab[slab_table_slab_of (t, page)];
  const uint64_t end = page + n;

  pthread_mutex_lock (&s->lock);
  if (is_reachable (s) && is_home (s, home))
    for (; page < end; page += n > 0 ? n : 1) {
      n = run_in_state (t, page, end - page, PAGE_LOCAL);
      if (n > 0)
        set_pages (t, s, page, n, PAGE_REMOTE);
    }
  pthread_mutex_unlock (&s->lock);
}

bool
slab_table_is_reachable (struct slab_table *t, uint64_t slab)
{
  struct slab *s = &t->slab[slab];
  bool reachable;

  pthread_mutex_lock (&s->lock);
  reachable = is_reachable (s);
  pthread_mutex_unlock (&s->lock);
  return reachable;
}

bool
slab_table_keep_remote (struct slab_table *t, uint64_t page)
{
  struct slab *s = &t->slab[slab_table_slab_of (t, page)];
  bool kept;

  pthread_mutex_lock (&s->lock);
  kept = is_reachable (s) && get_state (t, page) == PAGE_REMOTE;
  if (kept) {
    set_state (t, page, PAGE_REMOTE_ONLY);
    s->remote--;
    count_remote_only (t, s, 1);
  }
  pthread_mutex_unlock (&s->lock);
  return kept;
}

/* Under the slab's lock: false if no page is in this state for certain. */
static bool
may_have (const struct slab *s, enum page_state state)
{
  return state == PAGE_ZERO ? s->has_zero :
    state == PAGE_REMOTE ? s->remote > 0 :
    state == PAGE_REMOTE_ONLY ? s->remote_only > 0 : true;
}

uint64_t
slab_table_next (struct slab_table *t, uint64_t slab, enum page_state state,
                 uint64_t *page, uint64_t n)
{
  struct slab *s = &t->slab[slab];
  uint64_t end = slab * t->slab_pages + slab_table_slab_pages (t, slab);
  uint64_t from = *page, to;

  pthread_mutex_lock (&s->lock);
  if (may_have (s, state)) {
    while (from < end && get_state (t, from) != state)
      from++;
    if (state == PAGE_ZERO && from == end && *page == slab * t->slab_pages)
      s->has_zero = false;
  }
  else
    from = end;
  for (to = from; to < end && to < from + n; to++)
    if (get_state (t, to) != state)
      break;
  pthread_mutex_unlock (&s->lock);
  *page = from;
  return to - from;
}

bool
slab_table_touch (struct slab_table *t, uint64_t slab, uint32_t n,
                  bool write)
{
  struct slab *s = &t->slab[slab];
  uint64_t hot = atomic_load (&s->pages_to_hot);
  uint64_t before_now = atomic_fetch_add (&s->pages_now, n);

  atomic_fetch_add (write ? &s->pages_written : &s->pages_read, n);
  if (t->hot == 0)
    return write && !atomic_load (&s->written) &&
      !atomic_exchange (&s->written, true);
  return before_now < hot && before_now + n >= hot;
}

uint64_t
slab_table_remote_only (const struct slab_table *t)
{
  return atomic_load (&t->remote_only);
}

void
slab_table_info (struct slab_table *t, uint64_t slab, struct slab_info *ret)
{
  struct slab *s = &t->slab[slab];

  pthread_mutex_lock (&s->lock);
  *ret = (struct slab_info) {
    .state = s->state,
    .ended = s->state == SLAB_MAPPED && !is_reachable (s),
    .pins = s->pins,
    .remote_only = s->remote_only,
    .home = s->home,
  };
  pthread_mutex_unlock (&s->lock);
  ret->activity = s->activity;
  ret->pages_read = atomic_load (&s->pages_read);
  ret->pages_written = atomic_load (&s->pages_written);
}

void
slab_table_tick (struct slab_table *t)
{
  for (uint64_t i = 0; i < t->slabs; i++) {
    struct slab *s = &t->slab[i];
    uint64_t pages = atomic_exchange (&s->pages_now, 0);

    if (s->activity < t->cold)
      s->cold_seconds++;
    if (pages == 0 && s->activity == 0)
      continue;
    s->activity = activity_step (s->activity, pages, t->smoothing);
    if (s->activity < 1e-3)
      s->activity = 0;
    if (s->activity >= t->cold)
      s->cold_seconds = 0;
    atomic_store (&s->pages_to_hot,
                  activity_pages_to_hot (s->activity, t->hot, t->smoothing));
  }
}

double
slab_table_activity (const struct slab_table *t, uint64_t slab)
{
  const struct slab *s = &t->slab[slab];
  double now = activity_step (s->activity, atomic_load (&s->pages_now),
                              t->smoothing);

  return now > s->activity ? now : s->activity;
}

bool
slab_table_is_busy (struct slab_table *t, uint64_t slab)
{
  struct slab *s = &t->slab[slab];

  if (t->hot == 0)
    return atomic_load (&s->written);
  return s->activity >= t->hot ||
    atomic_load (&s->pages_now) >= atomic_load (&s->pages_to_hot);
}

bool
slab_table_is_hot (struct slab_table *t, uint64_t slab)
{
  struct slab *s = &t->slab[slab];
  bool free;

  /* Few are, and those that are not need no lock to tell. */
  if (!slab_table_is_busy (t, slab))
    return false;
  pthread_mutex_lock (&s->lock);
  free = s->state == SLAB_UNMAPPED && s->remote_only == 0;
  pthread_mutex_unlock (&s->lock);
  return free;
}

bool
slab_table_is_idle (struct slab_table *t, uint64_t slab)
{
  struct slab *s = &t->slab[slab];
  bool movable, emptied;

  pthread_mutex_lock (&s->lock);
  movable = s->state == SLAB_MAPPED && s->remote_only == 0;
  emptied = s->emptied;
  pthread_mutex_unlock (&s->lock);
  if (emptied && (t->hot == 0 || s->activity < t->hot))
    return movable;
  return movable && s->cold_seconds >= SLAB_COLD_SECONDS;
}

void
slab_table_rest (struct slab_table *t, uint64_t slab)
{
  atomic_store (&t->slab[slab].written, false);
}

static void
set_slab_state (struct slab *s, enum slab_state from, enum slab_state to)
{
  pthread_mutex_lock (&s->lock);
  assert (s->state == from);
  s->state = to;
  pthread_mutex_unlock (&s->lock);
}

void
slab_table_begin_mapping (struct slab_table *t, uint64_t slab)
{
  set_slab_state (&t->slab[slab], SLAB_UNMAPPED, SLAB_MAPPING);
}

void
slab_table_abandon_mapping (struct slab_table *t, uint64_t slab)
{
  set_slab_state (&t->slab[slab], SLAB_MAPPING, SLAB_UNMAPPED);
}

void
slab_table_map (struct slab_table *t, uint64_t slab,
                const struct slab_home *home)
{
  struct slab *s = &t->slab[slab];

  pthread_mutex_lock (&s->lock);
  assert (s->state == SLAB_MAPPING && s->pins == 0);
  s->state = SLAB_MAPPED;
  s->home = *home;
  pthread_mutex_unlock (&s->lock);
  s->cold_seconds = 0;
}

/* All PAGE_REMOTE -> PAGE_LOCAL, a word at a time. */
static void
forget_remote (struct slab_table *t, uint64_t slab)
{
  uint64_t first = slab * t->slab_pages / PER_WORD;
  uint64_t words =
    (slab_table_slab_pages (t, slab) + PER_WORD - 1) / PER_WORD;

  t->slab[slab].remote = 0;
  _Static_assert (PAGE_LOCAL == 0 && PAGE_REMOTE == 1, "the encoding below");
  for (uint64_t *w = &t->states[first]; w < &t->states[first + words]; w++)
    *w &= ~(*w & ~(*w >> 1) & LOW_BITS);
}

uint64_t
slab_table_drain (struct slab_table *t, uint64_t slab, bool saved)
{
  struct slab *s = &t->slab[slab];
  uint64_t lost;

  pthread_mutex_lock (&s->lock);
  assert (s->state == SLAB_MAPPED);
  lost = s->remote_only;
  if (lost == 0 || !saved) {
    s->state = SLAB_DRAINING;
    forget_remote (t, slab);
    s->emptied = false;
  }
  pthread_mutex_unlock (&s->lock);
  return lost;
}

bool
slab_table_unmap (struct slab_table *t, uint64_t slab)
{
  struct slab *s = &t->slab[slab];
  bool drained;

  pthread_mutex_lock (&s->lock);
  assert (s->state == SLAB_DRAINING);
  drained = s->pins == 0;
  if (drained) {
    s->state = SLAB_UNMAPPED;
    s->home = (struct slab_home) { 0 };
  }
  pthread_mutex_unlock (&s->lock);
  return drained;
}

void
slab_table_begin_move (struct slab_table *t, uint64_t slab, uint64_t *copied)
{
  struct slab *s = &t->slab[slab];

  pthread_mutex_lock (&s->lock);
  s->copied = copied;
  pthread_mutex_unlock (&s->lock);
}

void
slab_table_abandon_move (struct slab_table *t, uint64_t slab)
{
  slab_table_begin_move (t, slab, NULL);
}

/* Under the slab's lock. */
static bool
is_to_copy (struct slab_table *t, uint64_t slab, enum page_state state,
            uint64_t page)
{
  uint64_t i = page - slab * t->slab_pages;

  return get_state (t, page) == state &&
    !(t->slab[slab].copied[i / 64] >> i % 64 & 1);
}

/* Under the slab's lock: from `page` on; the end of the slab if none is. */
static uint64_t
find_to_copy (struct slab_table *t, uint64_t slab, enum page_state state,
              uint64_t page)
{
  uint64_t end = slab * t->slab_pages + slab_table_slab_pages (t, slab);

  while (page < end && !is_to_copy (t, slab, state, page))
    page++;
  return page;
}

uint64_t
slab_table_next_to_copy (struct slab_table *t, uint64_t slab,
                         enum page_state state, uint64_t *page, uint64_t n)
{
  struct slab *s = &t->slab[slab];
  uint64_t end = slab * t->slab_pages + slab_table_slab_pages (t, slab);
  uint64_t to;

  pthread_mutex_lock (&s->lock);
  *page = find_to_copy (t, slab, state, *page);
  for (to = *page; to < end && to < *page + n; to++)
    if (!is_to_copy (t, slab, state, to))
      break;
  pthread_mutex_unlock (&s->lock);
  return to - *page;
}

void
slab_table_note_copied (struct slab_table *t, uint64_t slab, uint64_t page,
                        uint64_t n)
{
  struct slab *s = &t->slab[slab];
  uint64_t first = page - slab * t->slab_pages;

  pthread_mutex_lock (&s->lock);
  for (uint64_t i = first; i < first + n; i++)
    s->copied[i / 64] |= UINT64_C (1) << i % 64;
  pthread_mutex_unlock (&s->lock);
}

static void
exchange_home (struct slab *s, const struct slab_home *home)
{
  assert (s->former_pins == 0);
  s->former_pins = s->pins;
  s->pins = 0;
  s->home = *home;
}

int
slab_table_move (struct slab_table *t, uint64_t slab,
                 const struct slab_home *home)
{
  struct slab *s = &t->slab[slab];
  uint64_t page = slab * t->slab_pages;
  uint64_t end = page + slab_table_slab_pages (t, slab);
  int r = 0;

  pthread_mutex_lock (&s->lock);
  if (s->state != SLAB_MAPPED)
    r = -ECONNRESET;
  else if (find_to_copy (t, slab, PAGE_REMOTE_ONLY, page) < end)
    r = -EAGAIN;
  else {
    exchange_home (s, home);
    while ((page = find_to_copy (t, slab, PAGE_REMOTE, page)) < end) {
      set_state (t, page, PAGE_LOCAL);
      s->remote--;
    }
    s->copied = NULL;
  }
  pthread_mutex_unlock (&s->lock);
  return r;
}

bool
slab_table_has_moved (struct slab_table *t, uint64_t slab)
{
  struct slab *s = &t->slab[slab];
  bool moved;

  pthread_mutex_lock (&s->lock);
  moved = s->former_pins == 0;
  pthread_mutex_unlock (&s->lock);
  return moved;
}
