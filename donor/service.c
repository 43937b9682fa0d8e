#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <systemd/sd-daemon.h>

#include "donor/service.h"
#include "donor/wake.h"
#include "fabric/fabric.h"

static const int64_t status_ns = INT64_C (5000000000);

struct watch {
  GSource *source;
  int64_t period_ns;
  void (*describe) (void *data, char text[SERVICE_TEXT_MAX]);
  void *data;
  char told[SERVICE_TEXT_MAX];
};

void
service_ready (void)
{
  sd_notify (0, "READY=1");
}

void
service_stopping (void)
{
  sd_notify (0, "STOPPING=1");
}

static gboolean
tell (gpointer data)
{
  struct watch *w = data;
  char text[SERVICE_TEXT_MAX];

  sd_notify (0, "WATCHDOG=1");
  w->describe (w->data, text);
  if (strcmp (text, w->told) != 0) {
    sd_notifyf (0, "STATUS=%s", text);
    memcpy (w->told, text, sizeof w->told);
  }
  wake_at (w->source, fabric_now_ns () + w->period_ns);
  return G_SOURCE_CONTINUE;
}

GSource *
service_watch (GMainContext *context,
               void (*describe) (void *data, char text[SERVICE_TEXT_MAX]),
               void *data)
{
  struct watch *w;
  uint64_t limit_us;

  if (getenv ("NOTIFY_SOCKET") == NULL)
    return NULL;
  w = g_new0 (struct watch, 1);
  w->describe = describe;
  w->data = data;
  w->period_ns = status_ns;
  /* Thrice within the limit, so that one may be late. */
  if (sd_watchdog_enabled (0, &limit_us) > 0)
    w->period_ns = MIN (status_ns, (int64_t) limit_us * 1000 / 3);
  w->source = wake_new (context, -1, tell, w);
  g_source_set_callback (w->source, tell, w, g_free);
  wake_at (w->source, 0);
  return w->source;
}
