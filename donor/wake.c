#include "donor/wake.h"

static gboolean
dispatch (GSource *source, GSourceFunc func, gpointer data)
{
  g_source_set_ready_time (source, -1);
  return func (data);
}

static GSourceFuncs wake_funcs = { .dispatch = dispatch };

GSource *
wake_new (GMainContext *context, int fd, GSourceFunc func, gpointer data)
{
  GSource *source = g_source_new (&wake_funcs, sizeof *source);

  if (fd != -1)
    g_source_add_unix_fd (source, fd, G_IO_IN);
  g_source_set_callback (source, func, data, NULL);
  g_source_attach (source, context);
  return source;
}

void
wake_at (GSource *source, int64_t when_ns)
{
  /* Rounded up, so that the moment has come when func looks. */
  g_source_set_ready_time (source, when_ns == INT64_MAX ? -1
                           : when_ns / 1000 + (when_ns % 1000 > 0));
}

void
wake_free (GSource *source)
{
  if (source == NULL)
    return;
  g_source_destroy (source);
  g_source_unref (source);
}
