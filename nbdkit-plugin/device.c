#include "nbdkit-plugin/device.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "fabric/fabric.h"
#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/device_parts.h"
#include "nbdkit-plugin/read_ahead.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"
#include "nbdkit-plugin/write_behind.h"

enum { DISK_BUFFERS = 16 };

/* The pages are on their way to the local copy, and maybe to a donor.  First
 * their states: who fetches ahead of reads is told, or does not find them
 * with the donor.
 */
static bool
committed (void *data, uint64_t first, uint32_t n)
{
  struct device *d = data;
  const bool owed = slab_table_set_pages (d->slabs, first, n, PAGE_LOCAL);

  if (owed)
    atomic_fetch_add (&d->overtaken, 1);
  read_ahead_forget (d->ahead, first, n);
  return owed;
}

static bool
has_other_copy (void *data, uint64_t page)
{
  struct device *d = data;

  return slab_table_keep_remote (d->slabs, page);
}

static void
landed (void *data, uint64_t first, uint32_t n, const void *donor)
{
  struct device *d = data;

  slab_table_land (d->slabs, first, n, donor);
}

static unsigned
count_windows (const struct device *d)
{
  return d->params.read_ahead_bytes / WINDOW_BYTES;
}

/* Behind the arena is what donors have nothing to do with. */
static size_t
memory_bytes (const struct device *d)
{
  return d->arena_bytes + DISK_BUFFERS * FABRIC_TRANSFER_MAX +
    (size_t) count_windows (d) * WINDOW_BYTES;
}

static int
start_reading_ahead (struct device *d)
{
  d->ahead = read_ahead_start (&(struct read_ahead_params) {
      .memory = d->arena + d->arena_bytes +
        DISK_BUFFERS * FABRIC_TRANSFER_MAX,
      .windows = count_windows (d),
      .pages = d->params.size_bytes / PAGE_SIZE_BYTES,
      .slab_pages = d->params.slab_size_bytes / PAGE_SIZE_BYTES,
      .fetchable = device_count_fetchable, .fetch = device_fetch, .data = d,
    });
  return d->ahead ? 0 : -errno;
}

static int
allocate (struct device *d)
{
  const struct device_params *p = &d->params;
  uint32_t slots = p->write_behind_bytes / PAGE_SIZE_BYTES;
  size_t slot_bytes = (size_t) slots * PAGE_SIZE_BYTES;
  char *memory;

  for (unsigned i = 0; i < LATENCIES; i++) {
    d->latencies[i] = histogram_new ();
    if (!d->latencies[i])
      return -ENOMEM;
  }
  d->arena_bytes = slot_bytes + (size_t) p->lanes * FABRIC_TRANSFER_MAX;
  memory = mmap (NULL, memory_bytes (d), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED)
    return -errno;
  d->arena = memory;
  d->slabs = slab_table_new (&(struct slab_table_params) {
      .pages = p->size_bytes / PAGE_SIZE_BYTES,
      .slab_pages = p->slab_size_bytes / PAGE_SIZE_BYTES,
      .smoothing = p->smoothing,
      .hot_pages_per_second = p->hot_slab,
      .cold_pages_per_second = p->cold_slab,
      .drained = p->wake, .data = p->data,
    });
  d->slots = slot_pool_new (memory, slots, p->write_delay_ns,
                            (struct slot_pool_owner) {
                              committed, has_other_copy, landed, d });
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
  if (r == 0)
    r = device_start_sending (d);
  if (r == 0)
    r = start_reading_ahead (d);
  if (r == 0) {
    d->writers = write_behind_start (&(struct write_behind_params) {
        .pool = d->slots, .backing = params->backing,
        .send = device_send, .data = d,
      });
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
  int r;

  read_ahead_stop (d->ahead);
  device_save_all (d, INT64_MAX);
  r = device_flush (d);
  write_behind_stop (d->writers);
  device_stop_sending (d);
  return r;
}

void
device_free (struct device *d)
{
  if (!d)
    return;
  read_ahead_free (d->ahead);
  write_behind_free (d->writers);
  device_free_sender (d);
  slot_pool_free (d->slots);
  slab_table_free (d->slabs);
  lane_pool_destroy (&d->lanes);
  lane_pool_destroy (&d->disk_buffers);
  page_order_destroy (&d->order);
  if (d->arena)
    munmap (d->arena, memory_bytes (d));
  for (unsigned i = 0; i < LATENCIES; i++)
    histogram_free (d->latencies[i]);
  free (d);
}

/* Reads that are in flight together need nobody to fetch ahead. */
static void
note_read (struct device *d, const struct span *s)
{
  if (atomic_load (&d->reading) == 1)
    read_ahead_note (d->ahead, span_first_page (s), span_pages (s));
}

static int
for_each_span (struct device *d, char *buf, uint32_t size, uint64_t offset,
               bool write, int64_t begin_ns)
{
  int64_t deadline_ns = begin_ns + d->params.deadline_ns;
  int r = 0;

  while (size > 0 && r == 0) {
    struct span s = span_cut (d->params.slab_size_bytes, buf, size,
                               offset);
    uint64_t slab = slab_table_slab_of (d->slabs, span_first_page (&s));

    if (slab_table_touch (d->slabs, slab, span_pages (&s), write))
      d->params.wake (d->params.data);
    if (!write)
      note_read (d, &s);
    r = write ? device_write_span (d, &s, deadline_ns)
      : device_read_span (d, &s, deadline_ns);
    buf += s.len;
    offset += s.len;
    size -= s.len;
  }
  if (r < 0)
    device_count (&d->counters.io_errors, 1);
  return r;
}

int
device_read (struct device *d, void *buf, uint32_t size, uint64_t offset)
{
  const int64_t begin_ns = fabric_now_ns ();
  int r;

  atomic_fetch_add (&d->reading, 1);
  r = for_each_span (d, buf, size, offset, false, begin_ns);
  atomic_fetch_sub (&d->reading, 1);
  device_note (d, LATENCY_READ, begin_ns, 1);
  return r;
}

int
device_write (struct device *d, const void *buf, uint32_t size,
              uint64_t offset)
{
  const int64_t begin_ns = fabric_now_ns ();
  int r = for_each_span (d, (char *) buf, size, offset, true, begin_ns);

  device_note (d, LATENCY_WRITE, begin_ns, 1);
  return r;
}

static int
write_zeros (struct device *d, uint64_t from, uint64_t to)
{
  static const char zeros[PAGE_SIZE_BYTES];

  return from < to ? for_each_span (d, (char *) zeros, to - from, from, true,
                                    fabric_now_ns ()) : 0;
}

static int
discard_range (struct device *d, uint32_t size, uint64_t offset,
               bool partial)
{
  uint64_t end = offset + size;
  uint64_t first = (offset + PAGE_SIZE_BYTES - 1) / PAGE_SIZE_BYTES;
  uint64_t last = end / PAGE_SIZE_BYTES;
  int r;

  if (first > last)             /* within one page */
    return partial ? write_zeros (d, offset, end) : 0;
  device_zero_pages (d, first, last);
  if (!partial)
    return 0;
  r = write_zeros (d, offset, first * PAGE_SIZE_BYTES);
  if (r == 0)
    r = write_zeros (d, last * PAGE_SIZE_BYTES, end);
  return r;
}

static int
discard (struct device *d, uint32_t size, uint64_t offset, bool partial)
{
  const int64_t begin_ns = fabric_now_ns ();
  int r = discard_range (d, size, offset, partial);

  device_note (d, LATENCY_DISCARD, begin_ns, 1);
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

static void
note_error (int *first, int r)
{
  if (*first == 0)
    *first = r;
}

/* A write that comes meanwhile may take pages away from what is settled and
 * saved here, whose acknowledged content then goes with its slot: once more.
 */
static int
flush (struct device *d)
{
  const uint64_t overtaken = atomic_load (&d->overtaken);
  int r = 0;

  slot_pool_retry (d->slots);
  note_error (&r, slot_pool_flush (d->slots));
  note_error (&r, device_settle_zeros (d));
  note_error (&r, device_save_all (d, fabric_now_ns () +
                                   d->params.deadline_ns));
  if (atomic_load (&d->overtaken) != overtaken)
    note_error (&r, slot_pool_flush (d->slots));
  note_error (&r, backing_flush (d->params.backing));
  if (slab_table_remote_only (d->slabs) > 0)
    note_error (&r, -EIO);
  return r;
}

int
device_flush (struct device *d)
{
  const int64_t begin_ns = fabric_now_ns ();
  int r = flush (d);

  device_note (d, LATENCY_FLUSH, begin_ns, 1);
  return r;
}
