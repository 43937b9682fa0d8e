#include "test/chaos/model.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/chaos/pattern.h"

/* Writes remembered to tell what wrong bytes are; pieces of writes at once
 * on a page.
 */
enum { HISTORY = 1 << 16, PIECES_MAX = 24 };

struct model_write {
  uint64_t seed, start;
  uint64_t end;                 /* 0: in flight */
  bool failed;
  uint32_t refs;                /* the request's, and one a piece */
};

/* The part of a write on a page that is not settled. */
struct piece {
  struct model_write *write;
  uint32_t from, to;            /* within the page */
};

struct page {
  struct piece *pieces;
  uint32_t n;
  uint32_t readers;
  uint64_t written;             /* when a write last began or ended */
  bool was_alone;               /* no other did while the last was there */
};

struct past {
  uint64_t offset, seed, start, end;
  uint32_t len;
};

/* `content` is what was settled last.  A byte is settled when no piece
 * covers it, so each piece is of a write that began after that.
 */
struct model {
  uint64_t size;
  pthread_mutex_t lock;         /* guards all below */
  unsigned char *content;
  struct page *pages;
  uint64_t now, flushed;
  struct past history[HISTORY];
  uint64_t writes;
};

/* The bytes of a request that are on one page. */
struct part {
  struct page *page;
  uint64_t start;               /* of the page, on the device */
  uint32_t from, to;
};

static void *
allocate (size_t n, size_t size)
{
  void *p = calloc (n, size);

  if (!p)
    abort ();
  return p;
}

struct model *
model_new (uint64_t size_bytes)
{
  struct model *m = allocate (1, sizeof *m);

  m->size = size_bytes;
  m->content = allocate (1, size_bytes);
  m->pages = allocate (size_bytes / MODEL_PAGE, sizeof *m->pages);
  pthread_mutex_init (&m->lock, NULL);
  return m;
}

static void
drop_write (struct model_write *w)
{
  if (--w->refs == 0)
    free (w);
}

void
model_free (struct model *m)
{
  for (uint64_t i = 0; i < m->size / MODEL_PAGE; i++) {
    for (uint32_t j = 0; j < m->pages[i].n; j++)
      drop_write (m->pages[i].pieces[j].write);
    free (m->pages[i].pieces);
  }
  free (m->pages);
  free (m->content);
  free (m);
}

/* Iterate over a request's pages: false at the end. */
static bool
next_part (struct model *m, const struct model_range *r, struct part *p)
{
  uint64_t at = p->page ? p->start + MODEL_PAGE : r->offset;
  uint64_t end = r->offset + r->len, page = at / MODEL_PAGE;

  if (at >= end)
    return false;
  p->page = &m->pages[page];
  p->start = page * MODEL_PAGE;
  p->from = at - p->start;
  p->to = end - p->start < MODEL_PAGE ? end - p->start : MODEL_PAGE;
  return true;
}

static bool
is_busy (const struct page *page)
{
  for (uint32_t i = 0; i < page->n; i++)
    if (page->pieces[i].write->end == 0)
      return true;
  return page->readers > 0;
}

/* Then one request at a time, until a read or a write has settled things:
 * others may leave them as they are, if they fail.
 */
static bool
is_crowded (struct model *m, const struct model_range *r)
{
  struct part p = { .page = NULL };

  while (next_part (m, r, &p))
    if (p.page->n >= PIECES_MAX && is_busy (p.page))
      return true;
  return false;
}

bool
model_begin_read (struct model *m, struct model_range *r)
{
  struct part p = { .page = NULL };
  bool ok;

  pthread_mutex_lock (&m->lock);
  ok = r->len > 0 && !is_crowded (m, r);
  r->start = ++m->now;
  while (ok && next_part (m, r, &p))
    p.page->readers++;
  pthread_mutex_unlock (&m->lock);
  return ok;
}

static void
add_piece (struct page *page, struct model_write *w, uint32_t from,
           uint32_t to)
{
  page->pieces = realloc (page->pieces,
                          (page->n + 1) * sizeof *page->pieces);
  if (!page->pieces)
    abort ();
  page->pieces[page->n++] = (struct piece) { w, from, to };
  w->refs++;
}

bool
model_begin_write (struct model *m, struct model_range *r)
{
  struct part p = { .page = NULL };
  bool ok;

  pthread_mutex_lock (&m->lock);
  ok = r->len > 0 && !is_crowded (m, r);
  r->start = ++m->now;
  if (ok) {
    r->write = allocate (1, sizeof *r->write);
    *r->write = (struct model_write) {
      .seed = r->seed, .start = r->start, .refs = 1,
    };
  }
  while (ok && next_part (m, r, &p)) {
    add_piece (p.page, r->write, p.from, p.to);
    p.page->written = r->start;
  }
  pthread_mutex_unlock (&m->lock);
  return ok;
}

static bool
covers (const struct piece *p, uint32_t byte)
{
  return p->from <= byte && byte < p->to;
}

static bool
overlaps (const struct piece *p, uint32_t from, uint32_t to)
{
  return p->from < to && from < p->to;
}

/* Before `time`, had something been written to the byte by a write that
 * began after `end`?
 */
static bool
is_superseded (const struct page *page, uint32_t byte, uint64_t end,
               uint64_t time)
{
  for (uint32_t i = 0; i < page->n; i++) {
    const struct model_write *w = page->pieces[i].write;

    if (covers (&page->pieces[i], byte) && !w->failed && w->end != 0 &&
        w->end < time && w->start > end)
      return true;
  }
  return false;
}

/* May a read that began at `time` and ends now return this? */
static bool
is_permitted (const struct model *m, const struct part *p, uint32_t byte,
              unsigned char value, uint64_t time)
{
  const struct page *page = p->page;

  if (m->content[p->start + byte] == value &&
      !is_superseded (page, byte, 0, time))
    return true;
  for (uint32_t i = 0; i < page->n; i++) {
    const struct model_write *w = page->pieces[i].write;

    if (covers (&page->pieces[i], byte) &&
        pattern_byte (w->seed, p->start + byte) == value &&
        (w->end == 0 || !is_superseded (page, byte, w->end, time)))
      return true;
  }
  return false;
}

/* The first wrong byte, or p->to. */
static uint32_t
find_wrong (const struct model *m, const struct part *p,
            const unsigned char *got, uint64_t time)
{
  uint32_t i = p->from;

  if (p->page->n == 0 &&
      memcmp (got, m->content + p->start + p->from, p->to - p->from) == 0)
    return p->to;
  while (i < p->to &&
         is_permitted (m, p, i, got[i - p->from], time))
    i++;
  return i;
}

static void
explain_write (const char *what, uint64_t now, uint64_t start, uint64_t end,
               bool failed)
{
  fprintf (stderr, "  %s: began %" PRIu64, what, now - start);
  if (end == 0)
    fprintf (stderr, " ago, in flight\n");
  else
    fprintf (stderr, ", ended %" PRIu64 " ago%s\n", now - end,
             failed ? " with an error" : "");
}

/* Whose bytes are these? */
static void
explain_origin (const struct model *m, uint64_t at, const unsigned char *got,
                uint32_t n)
{
  uint64_t writes = m->writes < HISTORY ? m->writes : HISTORY;
  bool found = false;

  for (uint64_t i = 1; i <= writes && !found; i++) {
    const struct past *w = &m->history[(m->writes - i) % HISTORY];
    uint32_t same = 0;

    if (at < w->offset || at + n > w->offset + w->len)
      continue;
    while (same < n && got[same] == pattern_byte (w->seed, at + same))
      same++;
    found = same == n;
    if (found)
      explain_write ("it is of a write that is no longer right", m->now,
                     w->start, w->end, false);
  }
  if (!found)
    fprintf (stderr, "  it is of no write there that is remembered\n");
}

static void
explain (const struct model *m, const struct model_range *r,
         const struct part *p, uint32_t byte, const unsigned char *got)
{
  uint32_t left = p->to - byte, n = left < 8 ? left : 8;
  uint64_t at = p->start + byte;

  fprintf (stderr, "wrong: read of %" PRIu32 " at %" PRIu64 ", begun %" PRIu64
           " ago (one for each begin and end of a request)\n", r->len,
           r->offset, m->now - r->start);
  fprintf (stderr, "  page %" PRIu64 ", byte %" PRIu32 ": is",
           p->start / MODEL_PAGE, byte);
  for (uint32_t i = 0; i < n; i++)
    fprintf (stderr, " %02x", got[i]);
  fprintf (stderr, "; was settled as");
  for (uint32_t i = 0; i < n; i++)
    fprintf (stderr, " %02x", m->content[at + i]);
  fprintf (stderr, "\n");
  for (uint32_t i = 0; i < p->page->n; i++) {
    const struct model_write *w = p->page->pieces[i].write;

    if (covers (&p->page->pieces[i], byte))
      explain_write ("a write", m->now, w->start, w->end, w->failed);
  }
  explain_origin (m, at, got, n);
}

/* Take a range out of a piece; what is left may be two pieces. */
static void
cut_piece (struct page *page, uint32_t i, uint32_t from, uint32_t to)
{
  struct piece old = page->pieces[i];

  if (!overlaps (&old, from, to))
    return;
  page->pieces[i] = page->pieces[--page->n];
  if (old.from < from)
    add_piece (page, old.write, old.from, from);
  if (to < old.to)
    add_piece (page, old.write, to, old.to);
  drop_write (old.write);
}

static void
settle_range (struct model *m, const struct part *p, uint32_t i,
              uint32_t from, uint32_t to)
{
  uint64_t at = p->start + from;

  pattern_fill (m->content + at, to - from, p->page->pieces[i].write->seed,
                at);
  cut_piece (p->page, i, from, to);
}

/* The first run of bytes of a piece that no other piece covers. */
static bool
find_alone (const struct page *page, uint32_t i, uint32_t *from,
            uint32_t *to)
{
  bool moved = true;

  *from = page->pieces[i].from;
  *to = page->pieces[i].to;
  while (moved && *from < *to) {
    moved = false;
    for (uint32_t j = 0; j < page->n; j++)
      if (j != i && covers (&page->pieces[j], *from)) {
        *from = page->pieces[j].to;
        moved = true;
      }
  }
  for (uint32_t j = 0; j < page->n; j++)
    if (j != i && page->pieces[j].from > *from &&
        page->pieces[j].from < *to)
      *to = page->pieces[j].from;
  return *from < *to;
}

/* Cut out of other pieces what a newer one has superseded. */
static bool
supersede (struct page *page, uint32_t i)
{
  struct piece newer = page->pieces[i];

  for (uint32_t j = 0; j < page->n; j++) {
    const struct piece *old = &page->pieces[j];

    if (old->write->end != 0 && old->write->end < newer.write->start &&
        overlaps (old, newer.from, newer.to)) {
      cut_piece (page, j, newer.from, newer.to);
      return true;
    }
  }
  return false;
}

/* One step towards settled content: false if there is none. */
static bool
settle_step (struct model *m, const struct part *p)
{
  for (uint32_t i = 0; i < p->page->n; i++) {
    const struct model_write *w = p->page->pieces[i].write;
    uint32_t from, to;

    if (w->end == 0 || w->failed)
      continue;
    if (supersede (p->page, i))
      return true;
    if (find_alone (p->page, i, &from, &to)) {
      settle_range (m, p, i, from, to);
      return true;
    }
  }
  return false;
}

/* Not while somebody reads, who may have begun before. */
static void
settle (struct model *m, const struct part *p)
{
  while (p->page->readers == 0 && settle_step (m, p))
    ;
}

/* A read that began after all writes of a range had ended decides what
 * they left there.
 */
static void
decide (struct model *m, const struct part *p, const unsigned char *got,
        uint64_t time)
{
  struct page *page = p->page;
  uint32_t i = 0;

  for (uint32_t j = 0; j < page->n; j++) {
    const struct model_write *w = page->pieces[j].write;

    if (overlaps (&page->pieces[j], p->from, p->to) &&
        (w->end == 0 || w->end > time))
      return;
  }
  if (page->n == 0 || page->readers > 0)
    return;
  memcpy (m->content + p->start + p->from, got, p->to - p->from);
  while (i < page->n)
    if (overlaps (&page->pieces[i], p->from, p->to)) {
      cut_piece (page, i, p->from, p->to);
      i = 0;
    }
    else
      i++;
}

bool
model_end_read (struct model *m, const struct model_range *r,
                const unsigned char *got)
{
  struct part p = { .page = NULL };
  bool ok = true;

  pthread_mutex_lock (&m->lock);
  m->now++;
  while (next_part (m, r, &p)) {
    const unsigned char *here =
      got ? got + (p.start + p.from - r->offset) : NULL;

    p.page->readers--;
    if (got && ok) {
      uint32_t i = find_wrong (m, &p, here, r->start);

      ok = i == p.to;
      if (ok)
        decide (m, &p, here, r->start);
      else
        explain (m, r, &p, i, here + (i - p.from));
    }
    settle (m, &p);
  }
  pthread_mutex_unlock (&m->lock);
  return ok;
}

void
model_end_write (struct model *m, struct model_range *r, bool failed)
{
  struct part p = { .page = NULL };
  uint64_t now;

  pthread_mutex_lock (&m->lock);
  r->end = now = ++m->now;
  r->write->end = now;
  r->write->failed = failed;
  m->history[m->writes++ % HISTORY] = (struct past) {
    r->offset, r->seed, r->start, now, r->len,
  };
  while (next_part (m, r, &p)) {
    p.page->was_alone = p.page->written == r->start;
    p.page->written = now;
    settle (m, &p);
  }
  drop_write (r->write);
  pthread_mutex_unlock (&m->lock);
}

uint64_t
model_now (struct model *m)
{
  uint64_t now;

  pthread_mutex_lock (&m->lock);
  now = ++m->now;
  pthread_mutex_unlock (&m->lock);
  return now;
}

void
model_flushed (struct model *m, uint64_t start)
{
  pthread_mutex_lock (&m->lock);
  if (start > m->flushed)
    m->flushed = start;
  pthread_mutex_unlock (&m->lock);
}

bool
model_is_unflushed (struct model *m, uint64_t offset, uint32_t len)
{
  const struct model_range r = { .offset = offset, .len = len };
  struct part p = { .page = NULL };
  bool unflushed = false;

  pthread_mutex_lock (&m->lock);
  while (!unflushed && next_part (m, &r, &p))
    unflushed = p.page->written > m->flushed;
  pthread_mutex_unlock (&m->lock);
  return unflushed;
}

bool
model_get_flushed (struct model *m, uint64_t page,
                   const struct model_range *r, unsigned char *content,
                   uint64_t *version)
{
  const struct page *p = &m->pages[page];
  bool ok;

  pthread_mutex_lock (&m->lock);
  ok = p->n == 0 &&
    (r->write ? p->written == r->end && p->was_alone : p->written < r->start);
  *version = p->written;
  if (ok)
    memcpy (content, m->content + page * MODEL_PAGE, MODEL_PAGE);
  pthread_mutex_unlock (&m->lock);
  return ok;
}

bool
model_is_unchanged (struct model *m, uint64_t page, uint64_t version)
{
  bool same;

  pthread_mutex_lock (&m->lock);
  same = m->pages[page].written == version;
  pthread_mutex_unlock (&m->lock);
  return same;
}

const unsigned char *
model_content (const struct model *m)
{
  return m->content;
}
