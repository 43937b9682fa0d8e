#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <glib.h>

#include "ctl/attachment.h"
#include "ctl/donors_wait.h"
#include "ctl/protection.h"
#include "ctl/report.h"
#include "ctl/swap_area.h"

#define MS INT64_C (1000000)

enum {
  POLL_US = 20000,
  NOTE_MS = 200,                /* between calls of wait */
  ABANDON_MS = 10000,
};

static const int64_t START_NS = 60000 * MS, HANDSHAKE_NS = 5000 * MS,
  DONORS_NS = 10000 * MS, FREE_NS = 10000 * MS;

struct attachment *
attachment_new (const char *folder, struct device_config *config,
                const char *plugin)
{
  struct attachment *a = g_new0 (struct attachment, 1);

  a->config = config;
  a->plugin = g_strdup (plugin);
  a->identity = g_strconcat ("infiniswap ", config->name, NULL);
  a->index = -1;
  runtime_init (&a->files, folder, config->name);
  server_process_init (&a->server);
  return a;
}

void
attachment_free (struct attachment *a)
{
  if (a == NULL)
    return;
  nbd_kernel_close (a->kernel);
  runtime_clear (&a->files);
  server_process_clear (&a->server);
  device_config_free (a->config);
  g_free (a->plugin);
  g_free (a->identity);
  g_free (a);
}

/* ---- what is noted ---- */

static void
set_index (struct attachment *a, int index)
{
  a->index = index;
  snprintf (a->device, sizeof a->device, "/dev/nbd%d", index);
}

static void
note (struct attachment *a)
{
  const struct runtime_record record = {
    .server = a->server.id,
    .index = a->index,
    .plugin = a->plugin,
    .config = a->config->strings,
  };
  int r = runtime_write (&a->files, &record);

  if (r < 0)
    report (LOG_WARNING, "cannot write %s: %s", a->files.pid_path,
            g_strerror (-r));
}

static void
pass_on (const char *line, void *data)
{
  (void) data;
  report (LOG_INFO, "%s", line);
}

void
attachment_read_log (struct attachment *a)
{
  server_process_read_log (&a->server, pass_on, NULL);
}

/* ---- being told to stop half-way ---- */

static bool
interrupted (char **error)
{
  const struct timespec now = { 0, 0 };
  sigset_t set;
  int sig;

  sigemptyset (&set);
  sigaddset (&set, SIGTERM);
  sigaddset (&set, SIGINT);
  sigaddset (&set, SIGHUP);
  sig = sigtimedwait (&set, NULL, &now);
  if (sig == -1)
    return false;
  *error = g_strdup_printf ("interrupted: %s", g_strsignal (sig));
  return true;
}

/* ---- the server ---- */

static void
collect (const char *line, void *data)
{
  g_string_append_printf (data, "%s\n", line);
}

static void
note_log (const GString *said)
{
  g_auto (GStrv) lines = g_strsplit (said->str, "\n", -1);

  for (char **line = lines; *line != NULL; line++)
    if (**line != '\0')
      report (LOG_INFO, "%s", *line);
}

/* Until it takes part in a handshake.  While it starts it has no socket,
 * or does not answer; if it ends instead it has said why.
 */
static bool
await_server (struct attachment *a, GString *said, char **error)
{
  const int64_t end_us = g_get_monotonic_time () + START_NS / 1000;
  struct handshake_export export;
  int fd;

  do {
    g_autofree char *not_yet = NULL;

    fd = handshake_connect (a->files.nbd_path, HANDSHAKE_NS, &export,
                            &not_yet);
    server_process_read_log (&a->server, collect, said);
    if (fd >= 0) {
      close (fd);
      return true;
    }
    if (!server_process_runs (&a->server)) {
      server_process_read_log (&a->server, collect, said);
      *error = server_process_first_error (said->str);
      return false;
    }
    if (interrupted (error))
      return false;
    g_usleep (POLL_US);
  } while (g_get_monotonic_time () < end_us);
  *error = g_strdup ("nbdkit does not serve within a minute");
  return false;
}

/* Waits for its end however long that takes, since only then is the local
 * copy whole.
 */
static void
end_server (struct attachment *a, void (*wait) (void *data), void *data)
{
  g_autofree char *how = NULL;
  bool clean;

  server_process_end (&a->server);
  while (!server_process_await (&a->server, NOTE_MS)) {
    attachment_read_log (a);
    if (wait != NULL)
      wait (data);
  }
  attachment_read_log (a);
  how = server_process_reap (&a->server, &clean);
  if (!clean)
    report (LOG_ERR, "nbdkit has not stopped well (%s)", how);
}

/* One that nobody has used; what was wrong is known. */
static void
abandon_server (struct attachment *a)
{
  g_autofree char *how = NULL;
  bool clean;

  server_process_end (&a->server);
  if (!server_process_await (&a->server, ABANDON_MS))
    server_process_kill (&a->server);
  server_process_await (&a->server, -1);
  how = server_process_reap (&a->server, &clean);
}

static bool
launch (struct attachment *a, char **error)
{
  const struct server_params params = {
    .plugin = a->plugin, .socket = a->files.nbd_path,
    .state = a->files.state_path, .threads = a->config->threads,
    .lock = !(a->config->allow & ALLOW_LOCK), .keys = a->config->plugin_keys,
  };
  GString *said = g_string_new (NULL);
  bool ok;

  ok = server_process_start (&a->server, &params, error);
  if (ok) {
    note (a);
    ok = await_server (a, said, error);
    if (ok)
      note_log (said);
    else
      abandon_server (a);
  }
  g_string_free (said, TRUE);
  return ok;
}

static void
down_server (struct attachment *a, void (*wait) (void *data), void *data)
{
  end_server (a, wait, data);
}

static bool
up_server (struct attachment *a, char **error)
{
  if (!launch (a, error))
    return false;
  if ((a->config->allow & ALLOW_DONORS) ||
      donors_wait (a->files.state_path, DONORS_NS, interrupted, error))
    return true;
  down_server (a, NULL, NULL);
  return false;
}

/* ---- connections, and the kernel's device ---- */

static void
close_all (const int *fds, unsigned n)
{
  for (unsigned i = 0; i < n; i++)
    close (fds[i]);
}

static bool
connect_some (struct attachment *a, int *fds, unsigned n,
              struct handshake_export *export, char **error)
{
  for (unsigned i = 0; i < n; i++) {
    fds[i] = handshake_connect (a->files.nbd_path, HANDSHAKE_NS, export,
                                error);
    if (fds[i] < 0) {
      close_all (fds, i);
      return false;
    }
  }
  return true;
}

static bool
give_to_kernel (struct attachment *a, const int *fds,
                const struct handshake_export *export, char **error)
{
  const struct nbd_kernel_device d = {
    .index = a->config->index, .size_bytes = export->size_bytes,
    .flags = export->flags, .dead_timeout_s = a->config->dead_timeout_s,
    .identity = a->identity,
  };
  int index = nbd_kernel_connect (a->kernel, &d, fds, a->config->connections,
                                  error);

  if (index < 0)
    return false;
  set_index (a, index);
  return true;
}

static void
down_device (struct attachment *a, void (*wait) (void *data), void *data)
{
  int r;

  (void) wait;
  (void) data;
  if (!nbd_kernel_is (a->index, a->identity))
    return;
  r = nbd_kernel_disconnect (a->kernel, a->index);
  if (r < 0)
    report (LOG_ERR, "cannot disconnect %s: %s", a->device, g_strerror (-r));
  else if (!nbd_kernel_await_free (a->index, FREE_NS))
    report (LOG_WARNING, "%s is disconnected, but somebody still has it open",
            a->device);
}

static bool
up_device (struct attachment *a, char **error)
{
  unsigned n = a->config->connections;
  g_autofree int *fds = g_new (int, n);
  struct handshake_export export;
  bool ok;

  if (!connect_some (a, fds, n, &export, error))
    return false;
  ok = give_to_kernel (a, fds, &export, error);
  close_all (fds, n);
  if (!ok)
    return false;
  if (access (a->device, F_OK) == 0)
    return true;
  *error = g_strdup_printf ("the kernel has attached %s, but there is no such "
                            "device file; is /dev a devtmpfs?", a->device);
  down_device (a, NULL, NULL);
  return false;
}

bool
attachment_reconnect (struct attachment *a, unsigned n, bool *lost,
                      char **error)
{
  g_autofree int *fds = g_new (int, n);
  struct handshake_export export;
  int r;

  *lost = false;
  if (!connect_some (a, fds, n, &export, error))
    return false;
  r = nbd_kernel_reconnect (a->kernel, a->index, a->identity, fds, n);
  close_all (fds, n);
  if (r == 0)
    return true;
  *lost = r == -EINVAL || !nbd_kernel_is (a->index, a->identity);
  *error = g_strdup_printf ("the kernel takes no connection for %s: %s",
                            a->device, g_strerror (-r));
  return false;
}

/* ---- the swap area ---- */

static bool
up_area (struct attachment *a, char **error)
{
  const struct device_config *c = a->config;

  return !c->swap ||
    (swap_area_check (a->device, error) &&
     swap_area_make (a->device, error) &&
     swap_area_on (a->device, c->priority, c->discard, error));
}

/* Of what comes after it none can fail, so there is nothing to undo; and
 * where it is in use, swapoff has to be waited for elsewhere.
 */
static void
down_area (struct attachment *a, void (*wait) (void *data), void *data)
{
  (void) a;
  (void) wait;
  (void) data;
}

void
attachment_area_gone (struct attachment *a)
{
  a->step = ATTACHMENT_DEVICE;
  note (a);
}

/* ---- all steps ---- */

static const struct {
  bool (*up) (struct attachment *a, char **error);
  void (*down) (struct attachment *a, void (*wait) (void *data), void *data);
} steps[] = {
  [ATTACHMENT_SERVER] = { up_server, down_server },
  [ATTACHMENT_DEVICE] = { up_device, down_device },
  [ATTACHMENT_AREA] = { up_area, down_area },
};

void
attachment_down (struct attachment *a, void (*wait) (void *data), void *data)
{
  for (; a->step > ATTACHMENT_NOTHING; a->step--)
    steps[a->step].down (a, wait, data);
  runtime_remove (&a->files);
}

/* First what needs nothing started. */
static bool
prepare (struct attachment *a, char **error)
{
  a->kernel = nbd_kernel_open (error);
  return a->kernel != NULL && protection_apply (a->config->allow, error);
}

bool
attachment_up (struct attachment *a, char **error)
{
  bool ok = prepare (a, error);

  while (ok && a->step < ATTACHMENT_AREA) {
    ok = !interrupted (error) && steps[a->step + 1].up (a, error);
    if (ok) {
      a->step++;
      note (a);
    }
  }
  if (!ok)
    attachment_down (a, NULL, NULL);
  return ok;
}

bool
attachment_adopt (struct attachment *a, const struct runtime_record *record,
                  char **error)
{
  int index;

  if (!prepare (a, error))
    return false;
  index = nbd_kernel_find (a->identity);
  if (index < 0 && record->index >= 0 &&
      nbd_kernel_is (record->index, a->identity))
    index = record->index;
  if (index >= 0) {
    set_index (a, index);
    a->step = ATTACHMENT_AREA;
  }
  if (server_process_adopt (&a->server, &record->server) &&
      a->step == ATTACHMENT_NOTHING)
    a->step = ATTACHMENT_SERVER;
  note (a);
  return true;
}
