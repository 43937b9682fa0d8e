#include "nbdkit-plugin/device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fabric/fabric.h"
#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/session.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"
#include "nbdkit-plugin/write_behind.h"

enum { DISK_BUFFERS = 16, ZERO_RUN_PAGES = 4096 };

_Static_assert (SPAN_PAGES_MAX * PAGE_SIZE_BYTES == FABRIC_TRANSFER_MAX,
                "a span is one transfer at most");

/* A piece of a request: within one slab, at most SPAN_PAGES_MAX pages. */
struct span {
  char *buf;
  uint64_t offset;
  uint32_t len;
};

/* What a donor did not take is on its way to the local copy alone. */
static bool
committed (void *data, uint64_t first, uint32_t n, bool waited_for)
{
  struct device *d = data;

  return slab_table_set_pages (d->slabs, first, n,
                               waited_for ? PAGE_LOCAL : PAGE_REMOTE);
}

static bool
has_other_copy (void *data, uint64_t page)
{
  struct device *d = data;

  return slab_table_keep_remote (d->slabs, page);
}

static int
allocate (struct device *d)
{
  const struct device_params *p = &d->params;
  uint32_t slots = p->write_behind_bytes / PAGE_SIZE_BYTES;
  size_t slot_bytes = (size_t) slots * PAGE_SIZE_BYTES;
  size_t lane_bytes = (size_t) p->lanes * FABRIC_TRANSFER_MAX;
  size_t all = slot_bytes + lane_bytes + DISK_BUFFERS * FABRIC_TRANSFER_MAX;
  char *memory;

  memory = mmap (NULL, all, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED)
    return -errno;
  d->arena = memory;
  d->arena_bytes = slot_bytes + lane_bytes;
  d->slabs = slab_table_new (p->size_bytes / PAGE_SIZE_BYTES,
                             p->slab_size_bytes / PAGE_SIZE_BYTES,
                             p->smoothing, p->hot_slab, p->wake, p->data);
  d->slots = slot_pool_new (memory, slots,
                            (struct slot_pool_owner) {
                              committed, has_other_copy, d });
  if (!d->slabs || !d->slots ||
      lane_pool_init (&d->lanes, p->lanes, memory + slot_bytes) < 0 ||
      lane_pool_init (&d->disk_buffers, DISK_BUFFERS,
                      memory + d->arena_bytes) < 0)
    return -ENOMEM;
  return 0;
}

struct device *
device_new (const struct device_params *params)
{
  struct device *d = calloc (1, sizeof *d);
  int r = -ENOMEM;

  if (d) {
    d->params = *params;
    page_order_init (&d->order);
    r = allocate (d);
  }
  if (r == 0) {
    d->writers = write_behind_start (d->slots, params->backing);
    if (d->writers)
      return d;
    r = -errno;
  }
  device_free (d);
  errno = -r;
  return NULL;
}

int
device_stop (struct device *d)
{
  int r = device_flush (d);

  write_behind_stop (d->writers);
  return r;
}

void
device_free (struct device *d)
{
  if (!d)
    return;
  write_behind_free (d->writers);
  slot_pool_free (d->slots);
  slab_table_free (d->slabs);
  lane_pool_destroy (&d->lanes);
  lane_pool_destroy (&d->disk_buffers);
  page_order_destroy (&d->order);
  if (d->arena)
    munmap (d->arena,
            d->arena_bytes + DISK_BUFFERS * FABRIC_TRANSFER_MAX);
  free (d);
}

static void
count (_Atomic uint64_t *counter, uint64_t by)
{
  atomic_fetch_add_explicit (counter, by, memory_order_relaxed);
}

/* ---- spans ---- */

static uint64_t
first_page (const struct span *s)
{
  return s->offset / PAGE_SIZE_BYTES;
}

static uint32_t
pages_of (const struct span *s)
{
  return (s->offset + s->len - 1) / PAGE_SIZE_BYTES - first_page (s) + 1;
}

/* The longest span at the front of a request. */
static struct span
cut_span (const struct device *d, void *buf, uint32_t count, uint64_t offset)
{
  uint64_t slab = d->params.slab_size_bytes;
  uint64_t len = FABRIC_TRANSFER_MAX - offset % PAGE_SIZE_BYTES;

  if (len > slab - offset % slab)
    len = slab - offset % slab;
  if (len > count)
    len = count;
  return (struct span) { .buf = buf, .offset = offset, .len = len };
}

/* Where a page's bytes that belong to the span are: from *in_page on in
 * the page, at the returned place in the span's buffer, *len bytes.
 */
static char *
overlap (const struct span *s, uint64_t page, uint32_t *in_page,
         uint32_t *len)
{
  uint64_t start = page * PAGE_SIZE_BYTES, end = start + PAGE_SIZE_BYTES;
  uint64_t from = s->offset > start ? s->offset : start;
  uint64_t to = s->offset + s->len < end ? s->offset + s->len : end;

  *in_page = from - start;
  *len = to - from;
  return s->buf + (from - s->offset);
}

/* Give the span its part of n pages from `page` on; NULL: zeros. */
static void
fill_span (const struct span *s, uint64_t page, uint32_t n,
           const char *content)
{
  for (uint32_t i = 0; i < n; i++) {
    uint32_t in_page, len;
    char *to = overlap (s, page + i, &in_page, &len);

    if (content)
      memcpy (to, content + i * PAGE_SIZE_BYTES + in_page, len);
    else
      memset (to, 0, len);
  }
}

/* The run of set bits of `todo` from bit i on. */
static uint32_t
run_length (uint32_t todo, uint32_t i)
{
  uint64_t clear = ~(uint64_t) todo >> i;

  return __builtin_ctzll (clear);
}

static uint32_t
bits (uint32_t i, uint32_t n)
{
  return ((UINT64_C (1) << n) - 1) << i;
}

/* ---- reading ---- */

/* Each reader takes the pages in `todo` (bit i: page i of the span) that
 * its source has, and clears their bits.  A page's newest content is in
 * its slot if it has one; only then does the slab table tell the truth.
 */
static void
read_from_slots (struct device *d, const struct span *s, uint32_t *todo)
{
  uint32_t slots[SPAN_PAGES_MAX], n = pages_of (s);

  slot_pool_find (d->slots, first_page (s), n, slots);
  for (uint32_t i = 0; i < n; i++)
    if (slots[i] != SLOT_NONE && (*todo & bits (i, 1))) {
      fill_span (s, first_page (s) + i, 1,
                 slot_pool_buffer (d->slots, slots[i]));
      *todo &= ~bits (i, 1);
      count (&d->counters.read_slots, 1);
    }
  slot_pool_release (d->slots, slots, n);
}

/* The operations a lane carries for one span, all to the home of one
 * slab, each with a pin of its own.
 */
struct flight {
  struct lane *lane;
  struct slab_home home;
  uint64_t slab;
  unsigned ops;
  int error;                    /* of posting */
};

static uint64_t
remote_address (const struct device *d, const struct slab_home *home,
                uint64_t page)
{
  uint64_t slab = slab_table_slab_of (d->slabs, page);

  return home->address +
    (page - slab_table_first_page (d->slabs, slab)) * PAGE_SIZE_BYTES;
}

/* Post one operation for n adjacent pages; on failure there are no more. */
static void
flight_post (struct device *d, struct flight *f, enum fabric_type type,
             void *local, uint64_t page, uint32_t n)
{
  struct fabric_op *op = &f->lane->ops[f->ops];

  if (f->error)
    return;
  *op = (struct fabric_op) {
    .type = type, .region = session_region (f->home.session),
    .local = local, .length = n * PAGE_SIZE_BYTES,
    .remote = remote_address (d, &f->home, page), .key = f->home.key,
  };
  f->error =
    fabric_queue_post (session_queue (f->home.session, f->lane->id), op);
  if (!f->error)
    f->ops++;
}

/* Wait for the operations; if anything failed or was late the session
 * ends.  Returns 0 or the error; op->status tells of each.
 */
static int
flight_land (struct device *d, struct flight *f, int64_t deadline_ns)
{
  struct fabric_queue *queue = session_queue (f->home.session, f->lane->id);
  int r = f->error;

  if (f->ops > 0 && fabric_wait (&queue, 1, deadline_ns) == -ETIMEDOUT) {
    count (&d->counters.deadlines_missed, 1);
    r = -ETIMEDOUT;
  }
  for (unsigned i = 0; i < f->ops && r == 0; i++)
    r = f->lane->ops[i].status;
  if (r < 0)
    session_end (f->home.session, r);
  return r;
}

/* Post reads for every page in todo that a donor has; returns them. */
static uint32_t
post_reads (struct device *d, const struct span *s, uint32_t todo,
            struct flight *f)
{
  uint32_t posted = 0, n;

  for (uint32_t i = 0; i < pages_of (s); i += n) {
    n = run_length (todo, i);
    if (n == 0) {
      n = 1;
      continue;
    }

    struct slab_home home;
    uint64_t page = first_page (s) + i;
    if (slab_table_route (d->slabs, page, n, true, &n, &home)
        != SOURCE_DONOR)
      continue;
    if (posted)                 /* one pin is enough, and the home the same */
      slab_table_unpin (d->slabs, f->slab);
    f->home = home;
    posted |= bits (i, n);
    flight_post (d, f, FABRIC_READ, f->lane->landing + i * PAGE_SIZE_BYTES,
                 page, n);
  }
  return posted;
}

static void
land_reads (struct device *d, const struct span *s, struct flight *f,
            uint32_t *todo)
{
  for (unsigned j = 0; j < f->ops; j++) {
    const struct fabric_op *op = &f->lane->ops[j];
    uint32_t i = ((char *) op->local - f->lane->landing) / PAGE_SIZE_BYTES;
    uint32_t n = op->length / PAGE_SIZE_BYTES;

    if (op->status != 0)
      continue;
    fill_span (s, first_page (s) + i, n, op->local);
    *todo &= ~bits (i, n);
    count (&d->counters.read_donors, n);
  }
}

/* Is any page in todo with a donor?  Spares the others a lane. */
static bool
wants_donor (struct device *d, const struct span *s, uint32_t todo)
{
  struct slab_home home;
  uint32_t n;

  for (uint32_t i = 0; i < pages_of (s); i += n) {
    n = run_length (todo, i);
    if (n == 0)
      n = 1;
    else if (slab_table_route (d->slabs, first_page (s) + i, n, true, &n,
                               &home) == SOURCE_DONOR) {
      slab_table_unpin (d->slabs, slab_table_slab_of (d->slabs,
                                                      first_page (s)));
      return true;
    }
  }
  return false;
}

/* False if there was no lane in time. */
static bool
read_from_donor (struct device *d, const struct span *s, uint32_t *todo,
                 int64_t deadline_ns)
{
  struct flight f = {
    .slab = slab_table_slab_of (d->slabs, first_page (s)),
  };

  if (*todo == 0 || !wants_donor (d, s, *todo))
    return true;
  f.lane = lane_pool_take (&d->lanes, deadline_ns);
  if (!f.lane)
    return false;
  if (post_reads (d, s, *todo, &f)) {
    flight_land (d, &f, deadline_ns);
    slab_table_unpin (d->slabs, f.slab);
    land_reads (d, s, &f, todo);
  }
  lane_pool_put (&d->lanes, f.lane);
  return true;
}

static int
read_from_disk (struct device *d, const struct span *s, uint64_t page,
                uint32_t n)
{
  struct lane *buffer = lane_pool_take (&d->disk_buffers, INT64_MAX);
  int r = backing_read (d->params.backing, buffer->landing,
                        (size_t) n * PAGE_SIZE_BYTES,
                        page * PAGE_SIZE_BYTES);

  if (r == 0) {
    fill_span (s, page, n, buffer->landing);
    count (&d->counters.read_disk, n);
  }
  lane_pool_put (&d->disk_buffers, buffer);
  return r;
}

/* Take what is not with a donor (any more).  A page that got a slot since
 * the slots were looked at is left for the next look: the disk may be
 * older than what the page had then.
 */
static int
read_from_here (struct device *d, const struct span *s, uint32_t *todo,
                bool use_donor)
{
  struct slab_home home;
  uint32_t n;
  int r = 0;

  for (uint32_t i = 0; i < pages_of (s) && r == 0; i += n) {
    uint64_t page = first_page (s) + i;

    n = run_length (*todo, i);
    if (n == 0) {
      n = 1;
      continue;
    }
    switch (slab_table_route (d->slabs, page, n, use_donor, &n, &home)) {
    case SOURCE_DONOR:
      slab_table_unpin (d->slabs, slab_table_slab_of (d->slabs, page));
      continue;
    case SOURCE_DISK:
      n = slot_pool_clear_run (d->slots, page, n);
      if (n == 0) {
        n = 1;
        continue;
      }
      r = read_from_disk (d, s, page, n);
      break;
    case SOURCE_ZERO:
      fill_span (s, page, n, NULL);
      count (&d->counters.read_zero, n);
      break;
    case SOURCE_LOST:
      r = -EIO;
      break;
    }
    *todo &= ~bits (i, n);
  }
  return r;
}

static int
read_span (struct device *d, const struct span *s, int64_t deadline_ns)
{
  uint32_t todo = bits (0, pages_of (s));
  bool use_donor = true;
  int r = 0;

  /* Again while a session ended under us, or a slab was mapped. */
  while (todo && r == 0) {
    read_from_slots (d, s, &todo);
    if (use_donor)
      use_donor = read_from_donor (d, s, &todo, deadline_ns) &&
        fabric_now_ns () < deadline_ns;
    r = read_from_here (d, s, &todo, use_donor);
  }
  return r;
}

/* ---- writing ---- */

/* Copy the span into slots, completing partial pages with what they hold;
 * under the claim of the pages.
 */
static int
fill_slots (struct device *d, const struct span *s, const uint32_t *slots,
            int64_t deadline_ns)
{
  for (uint32_t i = 0; i < pages_of (s); i++) {
    uint64_t page = first_page (s) + i;
    char *slot = slot_pool_buffer (d->slots, slots[i]);
    uint32_t in_page, len;
    const char *from = overlap (s, page, &in_page, &len);

    if (len < PAGE_SIZE_BYTES) {
      struct span whole = {
        .buf = slot, .offset = page * PAGE_SIZE_BYTES,
        .len = PAGE_SIZE_BYTES,
      };
      int r = read_span (d, &whole, deadline_ns);
      if (r < 0)
        return r;
    }
    memcpy (slot + in_page, from, len);
  }
  return 0;
}

/* One operation for each run of slots adjacent in memory. */
static void
post_writes (struct device *d, const struct span *s, const uint32_t *slots,
             struct flight *f)
{
  uint32_t n;

  for (uint32_t i = 0; i < pages_of (s); i += n) {
    for (n = 1; i + n < pages_of (s); n++)
      if (slots[i + n] != slots[i] + n)
        break;
    flight_post (d, f, FABRIC_WRITE, slot_pool_buffer (d->slots, slots[i]),
                 first_page (s) + i, n);
  }
}

/* True if the donor has the pages now; then the slab is left pinned, so
 * that it cannot change its home before that is recorded.
 */
static bool
write_to_donor (struct device *d, const struct span *s,
                const uint32_t *slots, int64_t deadline_ns)
{
  struct flight f = {
    .slab = slab_table_slab_of (d->slabs, first_page (s)),
  };
  int r = -ETIMEDOUT;

  if (fabric_now_ns () >= deadline_ns ||
      !slab_table_pin (d->slabs, f.slab, &f.home))
    return false;
  f.lane = lane_pool_take (&d->lanes, deadline_ns);
  if (f.lane) {
    post_writes (d, s, slots, &f);
    r = flight_land (d, &f, deadline_ns);
    lane_pool_put (&d->lanes, f.lane);
  }
  if (r < 0)
    slab_table_unpin (d->slabs, f.slab);
  return r == 0;
}

/* Make filled slots the content of the span's pages (see `committed`);
 * releases the claim.
 */
static int
commit_span (struct device *d, const struct span *s, const uint32_t *slots,
             struct page_claim *claim, bool remote)
{
  uint64_t page = first_page (s);
  uint32_t n = pages_of (s);
  struct slot_waiter waiter;

  slot_pool_commit (d->slots, page, slots, n, remote ? NULL : &waiter);
  if (remote)
    slab_table_unpin (d->slabs, slab_table_slab_of (d->slabs, page));
  page_order_release (&d->order, claim);

  count (&d->counters.written, n);
  count (remote ? &d->counters.written_donors : &d->counters.written_disk,
         n);
  return remote ? 0 : slot_pool_wait (d->slots, &waiter);
}

static int
write_span (struct device *d, const struct span *s, int64_t deadline_ns)
{
  uint32_t slots[SPAN_PAGES_MAX];
  struct page_claim claim;
  int r;

  r = slot_pool_take (d->slots, pages_of (s), slots);
  if (r < 0)
    return r;
  page_order_claim (&d->order, &claim, first_page (s), pages_of (s));
  r = fill_slots (d, s, slots, deadline_ns);
  if (r < 0) {
    page_order_release (&d->order, &claim);
    slot_pool_put_back (d->slots, slots, pages_of (s));
    return r;
  }
  return commit_span (d, s, slots, &claim,
                      write_to_donor (d, s, slots, deadline_ns));
}

/* ---- requests ---- */

static int
for_each_span (struct device *d, char *buf, uint32_t size, uint64_t offset,
               bool write)
{
  int64_t deadline_ns = fabric_now_ns () + d->params.deadline_ns;
  int r = 0;

  while (size > 0 && r == 0) {
    struct span s = cut_span (d, buf, size, offset);
    uint64_t slab = slab_table_slab_of (d->slabs, first_page (&s));

    if (slab_table_touch (d->slabs, slab, pages_of (&s), write))
      d->params.wake (d->params.data);
    r = write ? write_span (d, &s, deadline_ns)
      : read_span (d, &s, deadline_ns);
    buf += s.len;
    offset += s.len;
    size -= s.len;
  }
  if (r < 0)
    count (&d->counters.io_errors, 1);
  return r;
}

int
device_read (struct device *d, void *buf, uint32_t size, uint64_t offset)
{
  return for_each_span (d, buf, size, offset, false);
}

int
device_write (struct device *d, const void *buf, uint32_t size,
              uint64_t offset)
{
  return for_each_span (d, (char *) buf, size, offset, true);
}

static int
write_zeros (struct device *d, uint64_t from, uint64_t to)
{
  static const char zeros[PAGE_SIZE_BYTES];

  return from < to ? device_write (d, zeros, to - from, from) : 0;
}

/* Whole pages are zeroed in the bookkeeping alone.  The page states come
 * first: a reader that no longer finds the slot must not go to the disk.
 */
static void
zero_pages (struct device *d, uint64_t first, uint64_t end)
{
  while (first < end) {
    uint64_t slab = slab_table_slab_of (d->slabs, first);
    uint64_t slab_end = slab_table_first_page (d->slabs, slab) +
      slab_table_slab_pages (d->slabs, slab);
    uint64_t n = (end < slab_end ? end : slab_end) - first;
    struct page_claim claim;

    page_order_claim (&d->order, &claim, first, n);
    slab_table_set_pages (d->slabs, first, n, PAGE_ZERO);
    slot_pool_drop (d->slots, first, n);
    page_order_release (&d->order, &claim);
    count (&d->counters.trimmed, n);
    first += n;
  }
}

static int
discard (struct device *d, uint32_t size, uint64_t offset, bool partial)
{
  uint64_t end = offset + size;
  uint64_t first = (offset + PAGE_SIZE_BYTES - 1) / PAGE_SIZE_BYTES;
  uint64_t last = end / PAGE_SIZE_BYTES;
  int r;

  if (first > last)             /* within one page */
    return partial ? write_zeros (d, offset, end) : 0;
  zero_pages (d, first, last);
  if (!partial)
    return 0;
  r = write_zeros (d, offset, first * PAGE_SIZE_BYTES);
  if (r == 0)
    r = write_zeros (d, last * PAGE_SIZE_BYTES, end);
  return r;
}

int
device_zero (struct device *d, uint32_t size, uint64_t offset)
{
  return discard (d, size, offset, true);
}

int
device_trim (struct device *d, uint32_t size, uint64_t offset)
{
  return discard (d, size, offset, false);
}

/* ---- flushing ---- */

/* Zero PAGE_ZERO pages on the local copy, under the claim of a range that
 * holds them.  A page whose dropped slot is still on its way there was
 * zeroed after the flush began, and stays PAGE_ZERO.
 */
static int
settle_range (struct device *d, uint64_t slab, uint64_t page, uint64_t end)
{
  uint64_t n;
  int r = 0;

  while (r == 0 && page < end &&
         (n = slab_table_next_zero (d->slabs, slab, &page, end - page)) > 0 &&
         page < end) {
    if (n > end - page)
      n = end - page;
    n = slot_pool_clear_run (d->slots, page, n);
    if (n > 0) {
      r = backing_zero (d->params.backing, page * PAGE_SIZE_BYTES,
                        n * PAGE_SIZE_BYTES);
      if (r == 0)
        slab_table_set_pages (d->slabs, page, n, PAGE_LOCAL);
    }
    page += n > 0 ? n : 1;
  }
  return r;
}

static int
settle_zeros (struct device *d)
{
  int r = 0;

  for (uint64_t slab = 0; slab < slab_table_slabs (d->slabs); slab++) {
    uint64_t page = slab_table_first_page (d->slabs, slab), n;

    while (r == 0 && (n = slab_table_next_zero (d->slabs, slab, &page,
                                                ZERO_RUN_PAGES)) > 0) {
      struct page_claim claim;

      page_order_claim (&d->order, &claim, page, n);
      r = settle_range (d, slab, page, page + n);
      page_order_release (&d->order, &claim);
      page += n;
    }
  }
  return r;
}

int
device_flush (struct device *d)
{
  int r = slot_pool_flush (d->slots);
  int r2 = settle_zeros (d);

  if (r == 0)
    r = r2;
  r2 = backing_flush (d->params.backing);
  if (r == 0)
    r = r2;
  if (r == 0 && slab_table_remote_only (d->slabs) > 0)
    r = -EIO;
  return r;
}
