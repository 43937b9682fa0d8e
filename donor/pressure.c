#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "donor/pressure.h"
#include "donor/wake.h"

struct pressure {
  int fd;
  GSource *source;
  gpointer tag;                 /* of fd in source */
  void (*stalled) (void *data);
  void *data;
};

/* Stall and window in microseconds.  The first is refused without
 * CAP_SYS_RESOURCE, the second by kernels before 6.5 then as well.
 */
static const char *const triggers[] = {
  "some 150000 1000000", "some 300000 2000000",
};

static int
set_trigger (int fd)
{
  size_t i;

  for (i = 0; i < G_N_ELEMENTS (triggers); i++)
    /* The kernel takes its last byte for the terminator. */
    if (write (fd, triggers[i], strlen (triggers[i]) + 1) != -1)
      return 0;
  return -errno;
}

static gboolean
ready (gpointer data)
{
  struct pressure *p = data;
  const GIOCondition condition = g_source_query_unix_fd (p->source, p->tag);

  /* It will never tell anything again, and poll would never wait. */
  if (condition & (G_IO_ERR | G_IO_NVAL))
    g_source_remove_unix_fd (p->source, p->tag);
  else if (condition & G_IO_PRI)
    p->stalled (p->data);
  return G_SOURCE_CONTINUE;
}

int
pressure_new (const char *path, GMainContext *context,
              void (*stalled) (void *data), void *data,
              struct pressure **ret)
{
  const int fd = open (path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  struct pressure *p;
  int r;

  if (fd == -1)
    return -errno;
  r = set_trigger (fd);
  if (r < 0) {
    close (fd);
    return r;
  }
  p = g_new (struct pressure, 1);
  *p = (struct pressure) { .fd = fd, .stalled = stalled, .data = data };
  p->source = wake_new (context, -1, ready, p);
  p->tag = g_source_add_unix_fd (p->source, fd, G_IO_PRI);
  *ret = p;
  return 0;
}

void
pressure_free (struct pressure *p)
{
  if (p == NULL)
    return;
  wake_free (p->source);
  close (p->fd);
  g_free (p);
}
