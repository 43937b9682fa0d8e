#include "nbdkit-plugin/read_ahead.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "nbdkit-plugin/helper_thread.h"
#include "nbdkit-plugin/monotonic_cond.h"
#include "nbdkit-plugin/sequences.h"

enum {
  READS_MIN = 3,                /* in a row: they will go on */
  STACK_BYTES = 64 << 10,       /* locked memory, so small */
};

enum window_state {
  WINDOW_EMPTY,
  WINDOW_ASKED,                 /* for the thread to fetch */
  WINDOW_FETCHING,
  WINDOW_READY,
};

struct window {
  enum window_state state;
  bool stale;                   /* its pages changed while it is fetched */
  uint64_t first;
  uint32_t n;
  uint32_t readers;             /* its memory stays as it is for them */
  uint64_t turn;                /* when it was asked for; 0: it is empty */
  const struct sequence *of;    /* whose it is */
  char *content;
};

struct read_ahead {
  struct read_ahead_params params;
  pthread_t thread;
  bool started;
  struct window *windows;
  /* Those that are not empty; changed under the lock.  To see it as 0 without
   * is to know nothing of windows just asked for: their fetch will see what
   * the caller did to page states before.
   */
  atomic_uint in_use;

  pthread_mutex_t lock;         /* guards all below, and the windows */
  pthread_cond_t asked;         /* there is something to fetch, or to end */
  pthread_cond_t fetched;
  struct sequences sequences;
  uint64_t turn;
  bool stopped;
};

static void
set_state (struct read_ahead *a, struct window *w, enum window_state state)
{
  if (w->state == WINDOW_EMPTY && state != WINDOW_EMPTY)
    atomic_fetch_add (&a->in_use, 1);
  if (w->state != WINDOW_EMPTY && state == WINDOW_EMPTY)
    atomic_fetch_sub (&a->in_use, 1);
  w->state = state;
  if (state == WINDOW_EMPTY)
    w->turn = 0;
}

/* Its pages have changed, or nobody will want them. */
static void
drop (struct read_ahead *a, struct window *w)
{
  if (w->state == WINDOW_FETCHING)
    w->stale = true;
  else
    set_state (a, w, WINDOW_EMPTY);
}

/* The window that is asked for longest. */
static struct window *
next_asked (struct read_ahead *a)
{
  struct window *next = NULL;

  for (struct window *w = a->windows; w < a->windows + a->params.windows; w++)
    if (w->state == WINDOW_ASKED && (!next || w->turn < next->turn))
      next = w;
  return next;
}

static void
fetch (struct read_ahead *a, struct window *w)
{
  uint32_t n;

  set_state (a, w, WINDOW_FETCHING);
  w->stale = false;
  pthread_mutex_unlock (&a->lock);
  n = a->params.fetch (a->params.data, w->first, w->n, w->content);
  pthread_mutex_lock (&a->lock);
  w->n = n;
  set_state (a, w, n > 0 && !w->stale ? WINDOW_READY : WINDOW_EMPTY);
  pthread_cond_broadcast (&a->fetched);
}

static void *
run_fetcher (void *data)
{
  struct read_ahead *a = data;
  struct window *w;

  pthread_mutex_lock (&a->lock);
  while (!a->stopped) {
    w = next_asked (a);
    if (w)
      fetch (a, w);
    else
      pthread_cond_wait (&a->asked, &a->lock);
  }
  pthread_mutex_unlock (&a->lock);
  return NULL;
}

static void
init_locks (struct read_ahead *a)
{
  pthread_mutex_init (&a->lock, NULL);
  pthread_cond_init (&a->asked, NULL);
  monotonic_cond_init (&a->fetched);
}

struct read_ahead *
read_ahead_start (const struct read_ahead_params *params)
{
  struct read_ahead *a = calloc (1, sizeof *a);
  int r = 0;

  if (!a)
    return NULL;
  a->params = *params;
  init_locks (a);
  if (params->windows == 0)
    return a;
  a->windows = calloc (params->windows, sizeof *a->windows);
  if (!a->windows)
    r = -ENOMEM;
  for (unsigned i = 0; r == 0 && i < params->windows; i++)
    a->windows[i].content = params->memory + (size_t) i * WINDOW_BYTES;
  if (r == 0)
    r = helper_thread_start (&a->thread, STACK_BYTES, run_fetcher, a);
  if (r == 0) {
    a->started = true;
    return a;
  }
  read_ahead_free (a);
  errno = -r;
  return NULL;
}

void
read_ahead_stop (struct read_ahead *a)
{
  pthread_mutex_lock (&a->lock);
  a->stopped = true;
  pthread_cond_signal (&a->asked);
  pthread_mutex_unlock (&a->lock);
  if (a->started)
    pthread_join (a->thread, NULL);
  a->started = false;
}

void
read_ahead_free (struct read_ahead *a)
{
  if (!a)
    return;
  read_ahead_stop (a);
  free (a->windows);
  free (a);
}

static bool
has_any (const struct window *w, uint64_t first, uint64_t n)
{
  return w->state != WINDOW_EMPTY && w->first < first + n &&
    first < w->first + w->n;
}

/* The first window that has, or shall have, any of these pages. */
static struct window *
window_of (struct read_ahead *a, uint64_t first, uint64_t n)
{
  struct window *found = NULL;

  for (struct window *w = a->windows; w < a->windows + a->params.windows; w++)
    if (has_any (w, first, n) && (!found || w->first < found->first))
      found = w;
  return found;
}

/* An empty one, or else the oldest that was not read to its end. */
static struct window *
find_free (struct read_ahead *a)
{
  struct window *free = NULL;

  for (struct window *w = a->windows; w < a->windows + a->params.windows; w++)
    if ((w->state == WINDOW_EMPTY || w->state == WINDOW_READY) &&
        w->readers == 0 && (!free || w->turn < free->turn))
      free = w;
  return free;
}

static uint64_t
smaller (uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

/* How many of n pages can be fetched together. */
static uint32_t
count_fetchable (struct read_ahead *a, uint64_t first, uint64_t n)
{
  const uint64_t slab_left =
    a->params.slab_pages - first % a->params.slab_pages;

  n = smaller (smaller (n, slab_left), a->params.pages - first);
  return a->params.fetchable (a->params.data, first, n);
}

/* Ask for at most n pages from `first` on, for s: the window that will have
 * the first of them; NULL if none can.
 */
static const struct window *
ask (struct read_ahead *a, const struct sequence *s, uint64_t first,
     uint64_t n)
{
  struct window *w = window_of (a, first, 1);

  if (w)
    return w;
  w = find_free (a);
  n = w ? count_fetchable (a, first, n) : 0;
  if (n == 0)
    return NULL;
  w->first = first;
  w->n = n;
  w->of = s;
  w->turn = ++a->turn;
  set_state (a, w, WINDOW_ASKED);
  pthread_cond_signal (&a->asked);
  return w;
}

/* A read that comes next shall find its pages, as far as the last ones went:
 * what turns out not to be read is no more than what was.
 */
static void
ask_ahead (struct read_ahead *a, struct sequence *s)
{
  const uint64_t reach = smaller (s->pages, SPAN_PAGES_MAX);
  const uint64_t end = smaller (s->next + reach, a->params.pages);
  const struct window *w;

  if (s->ahead < s->next)
    s->ahead = s->next;
  while (s->ahead < end && (w = ask (a, s, s->ahead, reach)))
    s->ahead = w->first + w->n;
}

/* What was fetched for the sequence whose place this one has taken. */
static void
drop_former (struct read_ahead *a, const struct sequence *s)
{
  for (struct window *w = a->windows; w < a->windows + a->params.windows; w++)
    if (w->state != WINDOW_EMPTY && w->of == s)
      drop (a, w);
}

void
read_ahead_note (struct read_ahead *a, uint64_t first, uint32_t n)
{
  struct sequence *s;

  if (a->params.windows == 0)
    return;
  pthread_mutex_lock (&a->lock);
  s = sequences_note (&a->sequences, first, n);
  if (s->reads == 1 && atomic_load (&a->in_use) > 0)
    drop_former (a, s);
  if (s->reads >= READS_MIN)
    ask_ahead (a, s);
  pthread_mutex_unlock (&a->lock);
}

/* The first window with these pages once it is ready; NULL if it will not
 * be.
 */
static struct window *
ready_window (struct read_ahead *a, uint64_t first, uint32_t n,
              int64_t deadline_ns)
{
  struct window *w;

  while ((w = window_of (a, first, n)) && w->state == WINDOW_FETCHING &&
         !w->stale)
    if (!monotonic_cond_wait (&a->fetched, &a->lock, deadline_ns))
      return NULL;
  if (w && w->state == WINDOW_ASKED) /* who wants it is there before */
    set_state (a, w, WINDOW_EMPTY);
  return w && w->state == WINDOW_READY ? w : NULL;
}

uint32_t
read_ahead_find (struct read_ahead *a, uint64_t *page, uint32_t n,
                 int64_t deadline_ns, const char **content,
                 struct window **window)
{
  const uint64_t end = *page + n;
  struct window *w;

  if (atomic_load (&a->in_use) == 0)
    return 0;
  pthread_mutex_lock (&a->lock);
  w = ready_window (a, *page, n, deadline_ns);
  n = 0;
  if (w) {
    w->readers++;
    *window = w;
    if (*page < w->first)
      *page = w->first;
    *content = w->content + (*page - w->first) * PAGE_SIZE_BYTES;
    n = smaller (end, w->first + w->n) - *page;
  }
  pthread_mutex_unlock (&a->lock);
  return n;
}

void
read_ahead_release (struct read_ahead *a, struct window *w, uint64_t page,
                    uint32_t n)
{
  pthread_mutex_lock (&a->lock);
  w->readers--;
  /* The sequence is past it. */
  if (w->state == WINDOW_READY && page + n == w->first + w->n)
    set_state (a, w, WINDOW_EMPTY);
  pthread_mutex_unlock (&a->lock);
}

void
read_ahead_forget (struct read_ahead *a, uint64_t first, uint64_t n)
{
  if (atomic_load (&a->in_use) == 0)
    return;
  pthread_mutex_lock (&a->lock);
  for (struct window *w = a->windows; w < a->windows + a->params.windows; w++)
    if (has_any (w, first, n))
      drop (a, w);
  pthread_mutex_unlock (&a->lock);
}
