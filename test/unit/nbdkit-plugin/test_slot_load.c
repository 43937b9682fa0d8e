/* The slot pool under load: producers, writers, and a disk of one number
 * a page, which is guarded by nothing but the pool's promises.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "nbdkit-plugin/slot_pool.h"
#include "seeded.h"
#include "suite.h"
#include "thread.h"

enum {
  DELAY_NS = 5000000, SLOTS = 48, PRODUCERS = 4, WRITERS = 3, OWN = 12, RUN = 6,
  PAGES = PRODUCERS * OWN, OPS = 1500,
};

static char memory[SLOTS * PAGE_SIZE_BYTES]
  __attribute__ ((aligned (PAGE_SIZE_BYTES)));
static struct slot_pool *pool;
static uint64_t disk[PAGES];
static uint64_t donor[PAGES];
static atomic_bool in_flight[PAGES], to_donor[PAGES];
static atomic_bool on_donor[PAGES], only_there[PAGES];
static atomic_bool failing;
static _Atomic uint64_t failures, kept;

static bool
committed (void *data, uint64_t first, uint32_t n)
{
  bool local_is_old = false;

  (void) data;
  for (uint64_t page = first; page < first + n && page < PAGES; page++) {
    on_donor[page] = false;
    local_is_old |= atomic_exchange (&only_there[page], false);
  }
  return local_is_old;
}

static void
landed (void *data, uint64_t first, uint32_t n, const void *there)
{
  (void) data;
  (void) there;
  for (uint32_t i = 0; i < n; i++)
    on_donor[first + i] = true;
}

static bool
has_other_copy (void *data, uint64_t page)
{
  (void) data;
  only_there[page] = on_donor[page];
  return on_donor[page];
}

static uint64_t *
content (uint32_t slot)
{
  return slot_pool_buffer (pool, slot);
}

/* ---- writers ---- */

struct writer {
  struct thread thread;
  struct seeded seed;
};

static void
carry (struct writer *w, const uint32_t *slots, uint32_t n, uint64_t first,
       uint64_t *to, atomic_bool *busy)
{
  for (uint32_t i = 0; i < n; i++)
    if (atomic_exchange (&busy[first + i], true))
      ck_abort_msg ("two writes of page %" PRIu64 " in flight", first + i);
  if (seeded_once_in (&w->seed, 4))
    usleep (seeded_below (&w->seed, 300));
  for (uint32_t i = 0; i < n; i++) {
    if (to)
      to[first + i] = *content (slots[i]);
    atomic_store (&busy[first + i], false);
  }
}

static void
write_locally (struct writer *w, const uint32_t *slots, uint32_t n,
               uint64_t first, bool fails)
{
  carry (w, slots, n, first, fails ? NULL : disk, in_flight);
  failures += fails;
  slot_pool_written (pool, slots, n, fails ? -EIO : 0);
}

static void
write_to_donor (struct writer *w, const uint32_t *slots, uint32_t n,
                uint64_t first)
{
  bool fails = seeded_once_in (&w->seed, 8);

  carry (w, slots, n, first, donor, to_donor);
  slot_pool_landed (pool, slots, n, fails ? NULL : donor);
}

/* To a donor as well, before or after. */
static void
write_run (struct writer *w, const uint32_t *slots, uint32_t n,
           uint64_t first)
{
  bool fails = failing && seeded_once_in (&w->seed, 8);
  bool before = seeded_once_in (&w->seed, 3);
  bool after = !before && !fails && seeded_once_in (&w->seed, 2);

  if (before || after)
    slot_pool_send (pool, slots, n);
  if (before)
    write_to_donor (w, slots, n, first);
  write_locally (w, slots, n, first, fails);
  if (after)
    write_to_donor (w, slots, n, first);
}

static void
write_all (void *data)
{
  struct writer *w = data;
  uint32_t slots[RUN], n;
  uint64_t first;

  while ((n = slot_pool_next (pool, 1 + seeded_below (&w->seed, RUN), slots,
                              &first)) > 0)
    write_run (w, slots, n, first);
}

/* ---- producers ---- */

enum { UNKNOWN = 0 };           /* dropped; no version is 0 */

struct producer {
  struct thread thread;
  struct seeded seed;
  uint64_t first;               /* of its own pages */
  uint64_t newest[OWN];
  uint64_t version;
};

static void
fill (struct producer *p, const uint32_t *slots, uint32_t n, uint64_t *old,
      uint32_t at)
{
  for (uint32_t i = 0; i < n; i++) {
    old[i] = p->newest[at + i];
    p->newest[at + i] = *content (slots[i]) = ++p->version;
  }
}

/* What is read of the page: 0 if that may be anything. */
static uint64_t
look (struct producer *p, uint32_t at)
{
  uint64_t page = p->first + at, seen;
  uint32_t slot;

  slot_pool_find (pool, page, 1, &slot);
  if (slot == SLOT_NONE)
    return p->newest[at] == UNKNOWN ? UNKNOWN
      : on_donor[page] ? donor[page] : disk[page];
  seen = *content (slot);
  slot_pool_release (pool, &slot, 1);
  return seen;
}

static void
check (struct producer *p, uint32_t at)
{
  uint64_t seen = look (p, at);

  if (p->newest[at] != UNKNOWN && seen != p->newest[at])
    ck_abort_msg ("page %" PRIu64 " is %" PRIu64 ", not %" PRIu64,
                  p->first + at, seen, p->newest[at]);
}

/* The write failed: old or new may be read, and from now on that. */
static void
accept_failure (struct producer *p, uint32_t at, uint64_t old)
{
  uint64_t seen = look (p, at);

  if (seen == p->newest[at])
    kept++;
  else if (old != UNKNOWN && seen != old)
    ck_abort_msg ("page %" PRIu64 " is %" PRIu64 " after a failed write of %"
                  PRIu64 " over %" PRIu64, p->first + at, seen,
                  p->newest[at], old);
  else
    p->newest[at] = old;
}

static void
put (struct producer *p)
{
  uint32_t slots[RUN], n = 1 + seeded_below (&p->seed, RUN);
  uint32_t at = seeded_below (&p->seed, OWN - n + 1);
  bool wait = seeded_once_in (&p->seed, 4);
  struct slot_waiter w;
  uint64_t old[RUN];

  while (slot_pool_take (pool, n, slots) != 0) {
    ck_assert (failing);
    usleep (1000);
  }
  fill (p, slots, n, old, at);
  slot_pool_commit (pool, p->first + at, slots, n, wait ? &w : NULL);
  if (wait && slot_pool_wait (pool, &w) != 0)
    for (uint32_t i = 0; i < n; i++)
      accept_failure (p, at + i, old[i]);
}

static void
drop (struct producer *p)
{
  uint32_t n = 1 + seeded_below (&p->seed, RUN);
  uint32_t at = seeded_below (&p->seed, OWN - n + 1);

  slot_pool_drop (pool, p->first + at, n);
  for (uint32_t i = 0; i < n; i++)
    p->newest[at + i] = UNKNOWN;
}

static void
flush (struct producer *p)
{
  if (slot_pool_flush (pool) != 0)
    return;
  for (uint32_t i = 0; i < OWN; i++)
    if (p->newest[i] != UNKNOWN && disk[p->first + i] != p->newest[i] &&
        !only_there[p->first + i])
      ck_abort_msg ("page %" PRIu64 " is %" PRIu64 " after a flush, not %"
                    PRIu64, p->first + i, disk[p->first + i], p->newest[i]);
}

static void
produce (void *data)
{
  struct producer *p = data;

  for (int i = 0; i < OPS; i++) {
    uint64_t x = seeded_below (&p->seed, 100);

    if (x < 60)
      put (p);
    else if (x < 93)
      check (p, seeded_below (&p->seed, OWN));
    else if (x < 97)
      drop (p);
    else
      flush (p);
  }
}

START_TEST (every_page_keeps_its_newest_content)
{
  static struct producer producers[PRODUCERS];
  struct writer writers[WRITERS];
  struct slot_pool_stats stats;
  struct seeded s;

  failing = _i == 1;
  memset (disk, 0, sizeof disk);
  seeded_init (&s, failing ? "slot load, failing" : "slot load");
  pool = slot_pool_new (memory, SLOTS, _i == 2 ? DELAY_NS : 0,
                        (struct slot_pool_owner) {
                          committed, has_other_copy, landed, NULL });
  for (int i = 0; i < WRITERS; i++) {
    writers[i].seed = seeded_split (&s);
    thread_start (&writers[i].thread, write_all, &writers[i]);
  }
  for (int i = 0; i < PRODUCERS; i++) {
    producers[i] = (struct producer) {
      .seed = seeded_split (&s), .first = i * OWN,
      .version = UINT64_C (1000000) * (i + 1),
    };
    thread_start (&producers[i].thread, produce, &producers[i]);
  }
  for (int i = 0; i < PRODUCERS; i++)
    thread_join (&producers[i].thread);
  failing = false;
  while (slot_pool_flush (pool) != 0)
    usleep (10000);
  for (int i = 0; i < PRODUCERS; i++)
    flush (&producers[i]);
  do                            /* donors are not flushed */
    slot_pool_stats (pool, &stats);
  while (stats.in_use > 0);
  ck_assert_uint_eq (stats.failed, 0);
  slot_pool_stop (pool);
  for (int i = 0; i < WRITERS; i++)
    thread_join (&writers[i].thread);
  if (_i == 1)
    printf ("failed runs %" PRIu64 ", of failed writes kept %" PRIu64 "\n",
            failures, kept);
  slot_pool_free (pool);
}
END_TEST

/* ---- the limit ---- */

enum { MANY = 4096, SLOW_RUN = 16 };
static atomic_bool enough;

static void
flood (void *data)
{
  (void) data;
  for (uint64_t page = 0; !enough; page += 2) {
    uint32_t slots[RUN];

    ck_assert_int_eq (slot_pool_take (pool, RUN, slots), 0);
    for (int i = 0; i < RUN; i++, page += 2)
      slot_pool_commit (pool, page, &slots[i], 1, NULL);
  }
}

static _Atomic unsigned pause_us; /* of the disk, for SLOW_RUN pages */

static void
drain (void *data)
{
  uint32_t slots[SLOW_RUN], n = 0;
  uint64_t first;

  (void) data;
  while (slot_pool_next (pool, 1, slots, &first) > 0) {
    if (++n % SLOW_RUN == 0)
      usleep (pause_us);
    slot_pool_written (pool, slots, 1, 0);
  }
}

static uint32_t
limit_after (unsigned pause, unsigned seconds)
{
  struct slot_pool_stats stats;

  pause_us = pause;
  sleep (seconds);
  slot_pool_stats (pool, &stats);
  printf ("limit %u of %u slots\n", stats.limit, stats.slots);
  return stats.limit;
}

START_TEST (the_limit_is_what_the_disk_drains_in_10_s)
{
  struct thread producer, writer;
  uint32_t limit;

  /* Nobody looks at the buffers here. */
  pool = slot_pool_new (memory, MANY, 0, (struct slot_pool_owner) {
      committed, has_other_copy, landed, NULL });
  pause_us = 100000;            /* 160 pages a second at most */
  thread_start (&producer, flood, NULL);
  thread_start (&writer, drain, NULL);
  limit = limit_after (100000, 2);
  ck_assert_uint_ge (limit, 1024);
  ck_assert_uint_le (limit, 1700);
  ck_assert_uint_eq (limit_after (1000, 3), MANY); /* it recovered */
  enough = true;
  thread_join (&producer);
  slot_pool_stop (pool);
  thread_join (&writer);
  slot_pool_free (pool);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("slot_load");

  tcase_add_loop_test (c, every_page_keeps_its_newest_content, 0, 3);
  tcase_add_test (c, the_limit_is_what_the_disk_drains_in_10_s);
  return suite_run ("slot_load", c);
}
