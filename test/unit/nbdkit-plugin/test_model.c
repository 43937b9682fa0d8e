/* Random requests of several threads against a model, while donors come
 * and go and the fabric loses, delays, reorders and fails: never a wrong
 * byte, and never an error unless the disk fails as well.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_disk.h"
#include "rig.h"
#include "scratch.h"
#include "seeded.h"
#include "suite.h"
#include "thread.h"

/* A stripe is one thread's.  Its edges lie within pages, so that threads
 * share pages and no bytes; but where the disk fails, a lost page takes a
 * write of the whole page to mend, and so is one thread's.
 */
enum {
  SIZE = 6 * MIB, ODD_STRIPE = 300007, EVEN_STRIPE = 73 * PAGE,
  THREADS = 4, DONORS = 3, ROUNDS = 5,
};
#define ROUND_NS (600 * MS)

static struct rig rig;
static char *model;
static bool disk_fails;
static atomic_bool stop;
static _Atomic uint64_t errors;
static uint64_t written_donors, read_donors, lost_deadlines, promoted;
static uint64_t evicted;

struct worker {
  struct thread thread;
  struct seeded seed;
  unsigned number;
  char buf[ODD_STRIPE];
};

struct request {
  uint32_t offset, len;
};

static struct request
pick (struct worker *w)
{
  const uint64_t size = disk_fails ? EVEN_STRIPE : ODD_STRIPE;
  uint64_t stripes = (SIZE + size - 1) / size;
  uint64_t mine = (stripes - w->number + THREADS - 1) / THREADS;
  uint64_t stripe = w->number + THREADS * seeded_below (&w->seed, mine);
  uint64_t start = stripe * size, end = start + size;
  const uint64_t most[] = { 100, PAGE, 8 * PAGE, size };
  struct request r;
  uint64_t left;

  if (end > SIZE)
    end = SIZE;
  r.offset = start + seeded_below (&w->seed, end - start);
  if (seeded_once_in (&w->seed, 2) && r.offset / PAGE * PAGE >= start)
    r.offset = r.offset / PAGE * PAGE;
  left = end - r.offset;
  r.len = 1 + seeded_below (&w->seed, most[seeded_below (&w->seed, 4)]);
  if (r.len > left)
    r.len = left;
  return r;
}

/* An error is in order only where the disk fails; true: try again. */
static bool
is_error (int r)
{
  if (r == 0)
    return false;
  ck_assert (disk_fails);
  ck_assert_int_eq (r, -EIO);
  errors++;
  return true;
}

/* Bring the device to what the model says. */
static void
write_model (struct request r)
{
  while (is_error (device_write (rig.device, model + r.offset, r.len,
                                 r.offset))) {
    uint32_t end = (r.offset + r.len + PAGE - 1) / PAGE * PAGE;

    r.offset = r.offset / PAGE * PAGE;
    r.len = end - r.offset;
    usleep (1000);
  }
}

static void
do_write (struct worker *w)
{
  struct request r = pick (w);
  int fill = seeded_next (&w->seed);

  for (uint32_t i = 0; i < r.len; i++)
    model[r.offset + i] = fill + (i >> 3);
  write_model (r);
}

static void
compare (const char *what, const char *got, struct request r)
{
  const char *want = model + r.offset;
  uint32_t i = 0;

  if (memcmp (got, want, r.len) == 0)
    return;
  while (got[i] == want[i])
    i++;
  ck_abort_msg ("%s of %u at %u: byte %u, page %u, is %d, not %d", what,
                r.len, r.offset, i, (r.offset + i) / PAGE, got[i], want[i]);
}

/* What was lost for good is written again. */
static void
do_read (struct worker *w)
{
  struct request r = pick (w);

  if (is_error (device_read (rig.device, w->buf, r.len, r.offset)))
    write_model (r);
  else
    compare ("read", w->buf, r);
}

static void
do_discard (struct worker *w, bool trim)
{
  struct request r = pick (w);
  uint32_t from = r.offset, to = r.offset + r.len;

  if (trim) {
    from = (from + PAGE - 1) / PAGE * PAGE;
    to = to / PAGE * PAGE;
  }
  if (from < to)
    memset (model + from, 0, to - from);
  if (is_error (trim ? device_trim (rig.device, r.len, r.offset) :
                device_zero (rig.device, r.len, r.offset)))
    write_model (r);
}

static void
work (void *data)
{
  struct worker *w = data;

  while (!stop) {
    uint64_t x = seeded_below (&w->seed, 1000);

    if (x < 450)
      do_write (w);
    else if (x < 900)
      do_read (w);
    else if (x < 995)
      do_discard (w, x % 2);
    else
      is_error (device_flush (rig.device));
  }
}

/* Called with the fabric locked, and so by one thread at a time. */
static struct fake_fate
misfortune (void *data, const struct fabric_op *op)
{
  struct seeded *s = data;
  uint64_t x = seeded_below (s, 1000);
  struct fake_fate f = {
    .lands_first = seeded_once_in (s, 2),
    .lands_late = seeded_once_in (s, 2),
    .late_status = seeded_once_in (s, 2) ? 0 : -ECANCELED,
  };

  (void) op;
  if (x < 4)
    f.delay_ns = FAKE_HELD;
  else if (x < 6)
    f.status = -EREMOTEIO;
  else if (x < 30)
    f.delay_ns = 1 + seeded_below (s, 20 * MS);
  else if (x < 300)
    f.delay_ns = 1 + seeded_below (s, MS / 2);
  return f;
}

static void
make_trouble (struct seeded *s)
{
  struct fake_donor *d = rig.donors[seeded_below (s, DONORS)];
  struct fake_script script = fake_donor_script (d);

  if (seeded_once_in (s, 2))
    fake_donor_evict (rig.donors[seeded_below (s, DONORS)]);
  switch (seeded_below (s, disk_fails ? 6 : 4)) {
  case 0:
    fake_donor_end_sessions (d);
    break;
  case 1:
    script.ignore = script.ignore ? 0 : FAKE_ALL;
    break;
  case 2:
    script.down = !script.down && seeded_once_in (s, 2);
    break;
  case 3:
    script.slabs = seeded_below (s, 4);
    break;
  case 4: {
    uint64_t from = seeded_below (s, SIZE);
    fake_disk_fail (from, from + seeded_below (s, SIZE),
                    seeded_once_in (s, 8));
    break;
  }
  case 5:
    fake_disk_mend ();
    break;
  }
  fake_donor_follow (d, &script);
}

static void
start (struct seeded *s)
{
  struct rig_params p = rig_defaults ();

  p.size_bytes = SIZE;
  p.donors = DONORS;
  p.lanes = 3;
  p.read_ahead_bytes = MIB;
  p.deadline_ns = 200 * MS;
  rig_prepare (&rig, &p);
  for (unsigned i = 0; i < DONORS; i++)
    fake_donor_decide (rig.donors[i], misfortune, s);
  rig_start (&rig);
}

static void
run_round (struct worker *workers, struct seeded *s)
{
  int64_t until = fabric_now_ns () + ROUND_NS;

  stop = false;
  for (int i = 0; i < THREADS; i++)
    thread_start (&workers[i].thread, work, &workers[i]);
  while (fabric_now_ns () < until) {
    usleep (1000 + seeded_below (s, 40000));
    make_trouble (s);
  }
  stop = true;
  fake_disk_mend ();
  for (int i = 0; i < THREADS; i++)
    thread_join (&workers[i].thread);
}

static void
read_all (char *buf)
{
  struct request r;

  for (r.offset = 0; r.offset < SIZE; r.offset += r.len) {
    r.len = MIB / 2;
    if (is_error (device_read (rig.device, buf, r.len, r.offset)))
      write_model (r);
    else
      compare ("read in the end", buf, r);
  }
}

static void
finish (char *buf)
{
  int fd;

  read_all (buf);
  /* What the disk refused, and donors have, takes another write. */
  while (is_error (device_flush (rig.device)))
    write_model ((struct request) { 0, SIZE });
  written_donors += rig_written_donors (&rig);
  read_donors += rig_read_donors (&rig);
  lost_deadlines += rig.device->counters.deadlines_missed;
  promoted += rig.device->counters.promoted;
  for (int i = 0; i < DONORS; i++)
    evicted += fake_donor_heard (rig.donors[i], MESSAGE_DONE);
  rig_lose_donors (&rig);
  ck_assert_int_eq (rig_stop (&rig), 0);
  ck_assert_uint_eq (fake_disk_overlaps (), 0);
  fd = open (rig.path, O_RDONLY | O_CLOEXEC);
  ck_assert_int_eq (read (fd, buf, SIZE), SIZE);
  close (fd);
  compare ("local copy", buf, (struct request) { 0, SIZE });
}

START_TEST (no_wrong_byte)
{
  struct worker *workers = calloc (THREADS, sizeof *workers);
  char *buf = malloc (SIZE);
  struct seeded s, fabric_seed;

  disk_fails = _i == 1;
  seeded_init (&s, disk_fails ? "model, failing disk" : "model");
  fabric_seed = seeded_split (&s);
  model = calloc (1, SIZE);
  for (int i = 0; i < THREADS; i++) {
    workers[i].number = i;
    workers[i].seed = seeded_split (&s);
  }
  /* Each round goes on with the local copy that the last one left. */
  for (int i = 0; i < ROUNDS; i++) {
    start (&fabric_seed);
    run_round (workers, &s);
    finish (buf);
  }
  printf ("pages written to donors %" PRIu64 ", read from them %" PRIu64
          ", promoted %" PRIu64 ", slabs evicted %" PRIu64
          ", deadlines missed %" PRIu64 ", errors %" PRIu64 "\n",
          written_donors, read_donors, promoted, evicted, lost_deadlines,
          errors);
  ck_assert_uint_gt (written_donors, 0);
  ck_assert_uint_gt (read_donors, 0);
  ck_assert_uint_gt (promoted, 0);
  ck_assert_uint_gt (evicted, 0);
  free (workers);
  free (model);
  free (buf);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("model");

  tcase_add_checked_fixture (c, scratch_setup, scratch_teardown);
  tcase_add_loop_test (c, no_wrong_byte, 0, 2);
  return suite_run ("model", c);
}
