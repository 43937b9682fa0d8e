/* A whole borrower on the fake fabric, with a real file as its local
 * copy.
 */

#ifndef TEST_RIG_H
#define TEST_RIG_H

#include <stdint.h>

#include "conf/donor_list.h"
#include "fake_fabric.h"
#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/device.h"
#include "nbdkit-plugin/mapper.h"
#include "nbdkit-plugin/slab_table.h"
#include "nbdkit-plugin/slot_pool.h"
#include "nbdkit-plugin/write_behind.h"

enum { PAGE = PAGE_SIZE_BYTES, MIB = 1 << 20 };
#define MS INT64_C (1000000)

struct rig_params {
  uint64_t size_bytes, slab_size_bytes;
  double hot_slab, cold_slab;
  unsigned donors, lanes, probes;
  uint64_t write_behind_bytes, read_ahead_bytes, max_slabs_per_donor;
  int64_t deadline_ns;
  enum fabric_choice fabric;
  const char *state;            /* path of the state socket; or NULL */
  const char *donors_file;
  const char *list;             /* as donors=; NULL: all donors */
  int64_t resolve_interval_ns;
};

struct rig {
  struct rig_params params;
  const char *path;             /* of the local copy */
  struct fake_donor *donors[FAKE_DONORS_MAX];
  struct backing *backing;
  struct mapper *mapper;
  struct device *device;
  struct donor_list *list;
};

/* 4 MiB in slabs of 1 MiB, placed at their first write, one donor, two
 * lanes, a deadline of 20 s: nothing times out that was not made to.
 */
struct rig_params rig_defaults (void);

/* The donors, which the test may instruct before rig_start starts the
 * borrower.  Needs scratch_setup.
 */
void rig_prepare (struct rig *r, const struct rig_params *params);
void rig_start (struct rig *r);

/* Stop everything; the result of device_stop. */
int rig_stop (struct rig *r);
/* In two steps. */
int rig_stop_device (struct rig *r);
void rig_free (struct rig *r);

/* Wait until a slab is mapped, or is no more; with its home. */
struct slab_home rig_wait_mapped (struct rig *r, uint64_t slab);
void rig_wait_unmapped (struct rig *r, uint64_t slab);

/* Lose all donors for good, and wait until the borrower has let go of
 * everything there: no pin is left.
 */
void rig_lose_donors (struct rig *r);

/* Write a page full of `fill`, which must succeed; check that it reads
 * as full of `fill`.
 */
void rig_write (struct rig *r, uint64_t page, int fill);
void rig_expect (struct rig *r, uint64_t page, int fill);

/* Wait until everything written is on the local copy and with its donor. */
void rig_settle (struct rig *r);

/* Pages that the donors wrote, once those on their way are there, or
 * gave.
 */
uint64_t rig_written_donors (struct rig *r);
uint64_t rig_read_donors (struct rig *r);

/* A byte of the local copy, past the device. */
int rig_disk_byte (struct rig *r, uint64_t offset);

#endif /* TEST_RIG_H */
