#include "rig.h"

#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf/state_socket.h"
#include "fake_disk.h"
#include "nbdkit-plugin/device_parts.h"
#include "scratch.h"

struct rig_params
rig_defaults (void)
{
  return (struct rig_params) {
    .size_bytes = 4 * MIB, .slab_size_bytes = MIB, .hot_slab = 0,
    .donors = 1, .lanes = 2, .probes = 2,
    .write_behind_bytes = 2 * MIB, .max_slabs_per_donor = UINT64_MAX,
    .deadline_ns = 20000 * MS, .fabric = FABRIC_AUTO,
    .resolve_interval_ns = 50 * MS,
  };
}

static struct donor_list *
new_list (const struct rig_params *params)
{
  g_autoptr (GString) text = g_string_new (params->list);
  g_autofree char *error = NULL;
  struct donor_list *list;

  /* An empty list is for a file alone. */
  if (!params->list && params->donors == 0) {
    const char *empty = scratch_path ("no-donors");

    ck_assert (g_file_set_contents (empty, "", 0, NULL));
    return donor_list_read_file (empty, &error);
  }
  for (unsigned i = 0; !params->list && i < params->donors; i++)
    g_string_append_printf (text, "%s127.0.0.1:%u", i > 0 ? "," : "",
                            FAKE_PORT + i);
  list = donor_list_parse (text->str, &error);
  ck_assert_msg (list != NULL, "%s", error);
  return list;
}

void
rig_prepare (struct rig *r, const struct rig_params *params)
{
  *r = (struct rig) { .params = *params, .path = scratch_path ("copy") };
  fake_disk_reset ();
  fake_fabric_start ();
  for (unsigned i = 0; i < params->donors; i++)
    r->donors[i] = fake_donor_new (i, params->slab_size_bytes);
  r->list = new_list (params);
}

void
rig_start (struct rig *r)
{
  static char *no_config[] = { NULL };
  const struct rig_params *p = &r->params;
  struct state_socket *state = NULL;
  char *error = NULL;

  if (p->state)
    state = state_socket_bind (p->state, &error);
  ck_assert_msg (error == NULL, "%s", error);

  r->backing = backing_open (r->path, p->size_bytes, false, &error);
  ck_assert_msg (r->backing != NULL, "%s", error);
  r->mapper = mapper_new ();
  ck_assert_ptr_nonnull (r->mapper);
  r->device = device_new (&(struct device_params) {
      .size_bytes = p->size_bytes, .slab_size_bytes = p->slab_size_bytes,
      .smoothing = 0.2, .hot_slab = p->hot_slab, .cold_slab = p->cold_slab,
      .lanes = p->lanes,
      .write_behind_bytes = p->write_behind_bytes,
      .write_delay_ns = 5000 * MS,
      .read_ahead_bytes = p->read_ahead_bytes,
      .deadline_ns = p->deadline_ns, .backing = r->backing,
      .wake = mapper_wake, .data = r->mapper,
    });
  ck_assert_ptr_nonnull (r->device);
  ck_assert_int_eq (mapper_start (r->mapper, &(struct mapper_params) {
        .device = r->device, .donors = r->list, .fabric = p->fabric,
        .probes = p->probes, .max_slabs_per_donor = p->max_slabs_per_donor,
        .state = state, .donors_file = p->donors_file,
        .resolve_interval_ns = p->resolve_interval_ns, .config = no_config,
      }), 0);
}

int
rig_stop_device (struct rig *r)
{
  return device_stop (r->device);
}

int
rig_stop (struct rig *r)
{
  int result = rig_stop_device (r);

  rig_free (r);
  return result;
}

void
rig_free (struct rig *r)
{
  mapper_free (r->mapper);
  device_free (r->device);
  backing_close (r->backing);
  donor_list_free (r->list);
  fake_fabric_stop ();
}

struct slab_home
rig_wait_mapped (struct rig *r, uint64_t slab)
{
  struct slab_home home;

  /* The mapper tells nobody; Check's time-out bounds this. */
  while (!slab_table_pin (r->device->slabs, slab, &home))
    usleep (500);
  slab_table_unpin (r->device->slabs, slab, &home);
  return home;
}

void
rig_wait_unmapped (struct rig *r, uint64_t slab)
{
  struct slab_home home;

  while (slab_table_pin (r->device->slabs, slab, &home)) {
    slab_table_unpin (r->device->slabs, slab, &home);
    usleep (500);
  }
}

void
rig_lose_donors (struct rig *r)
{
  for (unsigned i = 0; i < r->params.donors; i++) {
    struct fake_script s = fake_donor_script (r->donors[i]);

    s.down = true;
    fake_donor_follow (r->donors[i], &s);
    fake_donor_end_sessions (r->donors[i]);
    fake_donor_wait_let_go (r->donors[i]);
  }
}

void
rig_write (struct rig *r, uint64_t page, int fill)
{
  char buf[PAGE];

  memset (buf, fill, PAGE);
  ck_assert_int_eq (device_write (r->device, buf, PAGE, page * PAGE), 0);
}

void
rig_expect (struct rig *r, uint64_t page, int fill)
{
  char buf[PAGE], want[PAGE];

  memset (want, fill, PAGE);
  ck_assert_int_eq (device_read (r->device, buf, PAGE, page * PAGE), 0);
  ck_assert_mem_eq (buf, want, PAGE);
}

void
rig_settle (struct rig *r)
{
  struct slot_pool_stats stats;

  for (;;) {
    slot_pool_stats (r->device->slots, &stats);
    if (stats.in_use == 0)
      return;
    usleep (500);
  }
}

uint64_t
rig_written_donors (struct rig *r)
{
  rig_settle (r);
  return atomic_load (&r->device->counters.written_donors);
}

uint64_t
rig_read_donors (struct rig *r)
{
  return atomic_load (&r->device->counters.read_donors);
}

int
rig_disk_byte (struct rig *r, uint64_t offset)
{
  int fd = open (r->path, O_RDONLY | O_CLOEXEC);
  unsigned char byte;

  ck_assert_int_ne (fd, -1);
  ck_assert_int_eq (lseek (fd, offset, SEEK_SET), offset);
  ck_assert_int_eq (read (fd, &byte, 1), 1);
  close (fd);
  return byte;
}
