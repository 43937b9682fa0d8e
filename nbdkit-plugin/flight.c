#include "nbdkit-plugin/flight.h"

#include <errno.h>

#include "nbdkit-plugin/device_parts.h"
#include "nbdkit-plugin/session.h"

static uint64_t
remote_address (const struct device *d, const struct slab_home *home,
                uint64_t page)
{
  uint64_t slab = slab_table_slab_of (d->slabs, page);

  return home->address +
    (page - slab_table_first_page (d->slabs, slab)) * PAGE_SIZE_BYTES;
}

bool
flight_has_time (const struct device *d, int64_t deadline_ns)
{
  return fabric_now_ns () + d->params.deadline_ns / 8 < deadline_ns;
}

void
flight_post (struct device *d, struct flight *f, enum fabric_type type,
             void *local, uint64_t page, uint32_t n)
{
  struct fabric_op *op = &f->ops[f->n];

  if (f->error)
    return;
  *op = (struct fabric_op) {
    .type = type, .region = session_region (f->home.session),
    .local = local, .length = n * PAGE_SIZE_BYTES,
    .remote = remote_address (d, &f->home, page), .key = f->home.key,
  };
  f->error =
    fabric_queue_post (session_queue (f->home.session, f->lane), op);
  if (!f->error)
    f->n++;
}

bool
flight_has_landed (const struct flight *f)
{
  for (unsigned i = 0; i < f->n; i++)
    if (!f->ops[i].done)
      return false;
  return true;
}

int
flight_land (struct device *d, struct flight *f, int64_t deadline_ns)
{
  struct fabric_queue *queue = session_queue (f->home.session, f->lane);
  int r = f->error;

  if (!flight_has_landed (f) &&
      fabric_wait (&queue, 1, deadline_ns) == -ETIMEDOUT) {
    device_count (&d->counters.deadlines_missed, 1);
    r = -ETIMEDOUT;
  }
  for (unsigned i = 0; i < f->n && r == 0; i++)
    r = f->ops[i].status;
  if (r < 0)
    session_end (f->home.session, r);
  return r;
}
