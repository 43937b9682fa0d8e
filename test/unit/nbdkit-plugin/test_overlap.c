/* Writes of the same pages by several threads, with a fabric that
 * reorders and a disk that is slow: in the end every copy is equal.
 */

#include <fcntl.h>
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

/* The pages that all write lie on both sides of a slab's edge. */
enum {
  THREADS = 4, WRITES = 150, FIRST = MIB / PAGE - 24, PAGES = 48,
  LONGEST = 20 * PAGE,
};

static struct rig rig;

static struct fake_fate
reorder (void *data, const struct fabric_op *op)
{
  struct seeded *s = data;

  (void) op;
  return (struct fake_fate) {
    .delay_ns = seeded_once_in (s, 3) ? 0 : 1 + seeded_below (s, MS),
    .lands_first = seeded_once_in (s, 2),
  };
}

struct writer {
  struct thread thread;
  struct seeded seed;
  char fill;
};

static void
write_over (void *data)
{
  struct writer *w = data;
  char buf[LONGEST];

  for (int i = 0; i < WRITES; i++) {
    uint32_t offset = seeded_below (&w->seed, PAGES * PAGE);
    uint32_t len = 1 + seeded_below (&w->seed, LONGEST);

    if (len > PAGES * PAGE - offset)
      len = PAGES * PAGE - offset;
    memset (buf, w->fill + i % 16, len);
    if (seeded_once_in (&w->seed, 20))
      ck_assert_int_eq (device_zero (rig.device, len, FIRST * PAGE + offset),
                        0);
    else
      ck_assert_int_eq (device_write (rig.device, buf, len,
                                      FIRST * PAGE + offset), 0);
  }
}

static void
end_one_session (void *data)
{
  struct seeded *s = data;

  for (int i = 0; i < 4; i++) {
    usleep (20000 + seeded_below (s, 50000));
    fake_donor_end_sessions (rig.donors[seeded_below (s, 2)]);
  }
}

/* The page on its donor, if it is there. */
static bool
copy_from_donor (uint64_t page, char *buf)
{
  struct slab_home home;
  uint32_t n;
  uint64_t slab = slab_table_slab_of (rig.device->slabs, page);

  if (slab_table_route (rig.device->slabs, page, 1, true, &n, &home)
      != SOURCE_DONOR)
    return false;
  ck_assert (fake_grant_copy (home.key, page * PAGE - slab * MIB, buf, PAGE));
  slab_table_unpin (rig.device->slabs, slab, &home);
  return true;
}

static void
compare_copies (void)
{
  char read_back[PAGE], disk[PAGE], donor[PAGE];
  int fd = open (rig.path, O_RDONLY | O_CLOEXEC);
  int on_donors = 0;

  ck_assert_int_eq (device_flush (rig.device), 0);
  for (uint64_t p = FIRST; p < FIRST + PAGES; p++) {
    ck_assert_int_eq (lseek (fd, p * PAGE, SEEK_SET), p * PAGE);
    ck_assert_int_eq (read (fd, disk, PAGE), PAGE);
    ck_assert_int_eq (device_read (rig.device, read_back, PAGE, p * PAGE), 0);
    ck_assert_mem_eq (read_back, disk, PAGE);
    if (copy_from_donor (p, donor)) {
      on_donors++;
      ck_assert_mem_eq (donor, disk, PAGE);
    }
  }
  close (fd);
  printf ("pages on donors: %d of %d\n", on_donors, PAGES);
}

static void
write_by_all (struct seeded *s)
{
  struct writer writers[THREADS];

  for (int i = 0; i < THREADS; i++) {
    writers[i].seed = seeded_split (s);
    writers[i].fill = 1 + 16 * i;
    thread_start (&writers[i].thread, write_over, &writers[i]);
  }
  for (int i = 0; i < THREADS; i++)
    thread_join (&writers[i].thread);
}

START_TEST (overlapping_writes_leave_every_copy_equal)
{
  struct rig_params p = rig_defaults ();
  struct seeded s, fabric_seed, trouble_seed;
  struct thread trouble;

  seeded_init (&s, "overlap");
  fabric_seed = seeded_split (&s);
  trouble_seed = seeded_split (&s);
  p.donors = 2;
  p.lanes = THREADS;
  p.read_ahead_bytes = MIB;
  rig_prepare (&rig, &p);
  for (int i = 0; i < 2; i++)
    fake_donor_decide (rig.donors[i], reorder, &fabric_seed);
  fake_disk_slow (MS / 2);
  rig_start (&rig);
  rig_write (&rig, FIRST, 'a');
  rig_write (&rig, FIRST + PAGES - 1, 'a');
  rig_wait_mapped (&rig, 0);
  rig_wait_mapped (&rig, 1);

  write_by_all (&s);
  compare_copies ();
  thread_start (&trouble, end_one_session, &trouble_seed);
  write_by_all (&s);
  thread_join (&trouble);
  compare_copies ();
  rig_lose_donors (&rig);
  ck_assert_int_eq (rig_stop (&rig), 0);
  ck_assert_uint_eq (fake_disk_overlaps (), 0);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("overlap");

  tcase_add_checked_fixture (c, scratch_setup, scratch_teardown);
  tcase_add_test (c, overlapping_writes_leave_every_copy_equal);
  return suite_run ("overlap", c);
}
