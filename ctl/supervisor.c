#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <glib-unix.h>
#include <json-glib/json-glib.h>
#include <systemd/sd-daemon.h>

#include "conf/units.h"
#include "ctl/report.h"
#include "ctl/room.h"
#include "ctl/supervisor.h"
#include "ctl/swap_area.h"

enum {
  TICK_MS = 1000,
  AGAIN_TICKS = 30,             /* until what was lost is left again */
  EXTEND_US = 30000000,         /* what systemd is asked to wait on */
};

enum state { ATTACHED, DETACHING, STOPPING };

static const char *const state_names[] = {
  [ATTACHED] = "attached", [DETACHING] = "detaching",
  [STOPPING] = "stopping",
};

struct supervisor {
  struct attachment *a;
  GMainLoop *loop;
  enum state state;
  bool lost;                    /* the server, and what was out there */
  unsigned ticks;               /* since then */

  pid_t swapoff;                /* 0: not under way */
  unsigned attempt;             /* to detach */
  char *problem;                /* what the last one failed with */

  unsigned missing;             /* connections that the kernel lacks */
  bool told;                    /* that they cannot be had at present */
  guint server_source, log_source;
};

static void detach_end (struct supervisor *s);
static void lose (struct supervisor *s);

/* ---- what others are told ---- */

static struct room_swap
get_swap (const struct supervisor *s)
{
  struct room_swap swap = { .active = false };

  (void) room_get_swap (&room_system, s->a->device, &swap);
  return swap;
}

static void
notify (const struct supervisor *s)
{
  const struct room_swap swap = get_swap (s);
  char used[UNITS_TEXT_MAX];
  const uint64_t mib = 1 << 20;

  if (s->state != ATTACHED)
    sd_notifyf (0, "EXTEND_TIMEOUT_USEC=%d", EXTEND_US);
  sd_notifyf (0, "STATUS=%s %s, %s swapped out%s%s", s->a->device,
              state_names[s->state],
              units_format_size (swap.used_bytes / mib * mib, used),
              s->problem != NULL ? "; " : "",
              s->problem != NULL ? s->problem : "");
}

static void
add_config (JsonBuilder *b, char *const *strings)
{
  json_builder_set_member_name (b, "config");
  json_builder_begin_array (b);
  for (; *strings != NULL; strings++)
    json_builder_add_string_value (b, *strings);
  json_builder_end_array (b);
}

static void
add_string (JsonBuilder *b, const char *name, const char *value)
{
  json_builder_set_member_name (b, name);
  if (value != NULL)
    json_builder_add_string_value (b, value);
  else
    json_builder_add_null_value (b);
}

static void
add_int (JsonBuilder *b, const char *name, int64_t value)
{
  json_builder_set_member_name (b, name);
  json_builder_add_int_value (b, value);
}

static JsonNode *
build_status (const struct supervisor *s)
{
  const struct room_swap swap = get_swap (s);
  g_autoptr (JsonBuilder) b = json_builder_new ();

  json_builder_begin_object (b);
  add_string (b, "kind", "supervisor");
  add_int (b, "pid", getpid ());
  add_int (b, "server_pid", s->a->server.id.pid);
  add_string (b, "state", state_names[s->state]);
  add_string (b, "device", s->a->device);
  json_builder_set_member_name (b, "swap");
  json_builder_add_boolean_value (b, swap.active);
  add_int (b, "used_bytes", swap.used_bytes);
  add_int (b, "missing_connections", s->missing);
  add_int (b, "attempt", s->attempt);
  add_string (b, "problem", s->problem);
  add_config (b, s->a->config->strings);
  json_builder_end_object (b);
  return json_builder_get_root (b);
}

/* ---- detaching ---- */

static void
detach_failed (struct supervisor *s, char *problem)
{
  g_free (s->problem);
  s->problem = problem;
  s->state = ATTACHED;
  report (LOG_ERR, "cannot detach, %s goes on being served: %s",
          s->a->device, problem);
  notify (s);
}

static gboolean
on_swapoff_end (gint fd, GIOCondition condition, gpointer data)
{
  struct supervisor *s = data;
  char *problem;
  int status;

  (void) condition;
  close (fd);
  if (waitpid (s->swapoff, &status, 0) == -1)
    status = 0;
  s->swapoff = 0;
  problem = swap_area_off_explain (s->a->device, status);
  if (problem == NULL)
    detach_end (s);
  else
    detach_failed (s, problem);
  return G_SOURCE_REMOVE;
}

/* In another process, so that the loop goes on meanwhile. */
static void
swapoff_begin (struct supervisor *s)
{
  pid_t pid = swap_area_off_begin (s->a->device);
  int fd = pid > 0 ? pidfd_open (pid, 0) : -1;

  if (pid < 0) {
    detach_failed (s, g_strdup_printf ("cannot start swapoff: %s",
                                       g_strerror (-pid)));
    return;
  }
  s->state = DETACHING;
  s->swapoff = pid;
  if (fd != -1)
    g_unix_fd_add (fd, G_IO_IN, on_swapoff_end, s);
  else
    on_swapoff_end (-1, G_IO_IN, s);    /* waits for it */
}

static void
remove_source (guint *id)
{
  if (*id != 0)
    g_source_remove (*id);
  *id = 0;
}

/* Requests for the status are still answered. */
static void
while_stopping (void *data)
{
  notify (data);
  sd_notify (0, "WATCHDOG=1");
  while (g_main_context_iteration (NULL, FALSE))
    ;
}

/* The area is given up.  From here there is no way back. */
static void
detach_end (struct supervisor *s)
{
  char *error = NULL;

  attachment_area_gone (s->a);
  if (!s->lost && !swap_area_settle (s->a->device, &error)) {
    detach_failed (s, error);
    return;
  }
  s->state = STOPPING;
  sd_notify (0, "STOPPING=1");
  remove_source (&s->server_source);
  remove_source (&s->log_source);
  attachment_down (s->a, while_stopping, s);
  report (LOG_INFO, "detached from %s", s->a->device);
  g_main_loop_quit (s->loop);
}

static gboolean
on_nothing_out (gpointer data)
{
  detach_end (data);
  return G_SOURCE_REMOVE;
}

/* Says at once what is in the way (s->problem); all else comes later. */
static void
detach_begin (struct supervisor *s, bool force)
{
  char *problem;

  if (s->state != ATTACHED)
    return;
  s->attempt++;
  g_clear_pointer (&s->problem, g_free);
  if (!get_swap (s).active) {
    s->state = DETACHING;
    g_idle_add (on_nothing_out, s);
    return;
  }
  problem = force ? NULL : room_check (&room_system, s->a->device);
  if (problem != NULL)
    detach_failed (s, problem);
  else
    swapoff_begin (s);
}

/* ---- connections ---- */

static void
reconnect (struct supervisor *s)
{
  g_autofree char *error = NULL;
  bool lost;

  if (s->missing == 0 || s->lost || s->state == STOPPING ||
      !server_process_runs (&s->a->server))
    return;
  if (attachment_reconnect (s->a, s->missing, &lost, &error)) {
    report (LOG_WARNING, "%u connection%s of %s had died: reconnected",
            s->missing, s->missing == 1 ? "" : "s", s->a->device);
    s->missing = 0;
    s->told = false;
    return;
  }
  if (!s->told)
    report (LOG_ERR, "a connection of %s has died, and there is no new one "
            "yet: %s", s->a->device, error);
  s->told = true;
  if (lost)
    lose (s);
}

static gboolean
on_kernel_event (gint fd, GIOCondition condition, gpointer data)
{
  struct supervisor *s = data;
  int dead = nbd_kernel_read_events (s->a->kernel, s->a->index);

  (void) fd;
  (void) condition;
  if (s->state == STOPPING || dead == 0)
    return G_SOURCE_CONTINUE;
  /* Those that are too many are not taken. */
  s->missing = dead < 0 ? s->a->config->connections :
    MIN (s->missing + dead, s->a->config->connections);
  reconnect (s);
  return G_SOURCE_CONTINUE;
}

/* ---- the server ---- */

static gboolean
on_log (gint fd, GIOCondition condition, gpointer data)
{
  struct supervisor *s = data;

  (void) fd;
  (void) condition;
  attachment_read_log (s->a);
  if (s->a->server.log_fd != -1)
    return G_SOURCE_CONTINUE;
  s->log_source = 0;
  return G_SOURCE_REMOVE;
}

/* The device can get no data any more: have all requests fail, and leave
 * it.  Who needs a page that was out there is killed by the kernel.  A new
 * server on the same backing would serve older contents of the pages that
 * had not got there yet: no data is better than wrong data.
 */
static void
lose (struct supervisor *s)
{
  if (s->lost)
    return;
  s->lost = true;
  report (LOG_CRIT, "%s is lost, with %" G_GUINT64_FORMAT "M swapped out "
          "there: the kernel kills programs that need it", s->a->device,
          get_swap (s).used_bytes >> 20);
  if (s->a->step >= ATTACHMENT_DEVICE &&
      nbd_kernel_is (s->a->index, s->a->identity))
    nbd_kernel_disconnect (s->a->kernel, s->a->index);
  detach_begin (s, true);
}

static void
server_ended (struct supervisor *s)
{
  bool clean;
  g_autofree char *how = server_process_reap (&s->a->server, &clean);

  report (LOG_CRIT, "nbdkit has ended by itself%s%s",
          how[0] != '\0' ? ", " : "", how);
  lose (s);
}

static gboolean
on_server_end (gint fd, GIOCondition condition, gpointer data)
{
  struct supervisor *s = data;

  (void) fd;
  (void) condition;
  attachment_read_log (s->a);
  s->server_source = 0;
  remove_source (&s->log_source);
  server_ended (s);
  return G_SOURCE_REMOVE;
}

static void
watch_server (struct supervisor *s)
{
  if (s->a->server.pidfd != -1)
    s->server_source = g_unix_fd_add (s->a->server.pidfd, G_IO_IN,
                                      on_server_end, s);
  if (s->a->server.log_fd != -1)
    s->log_source = g_unix_fd_add (s->a->server.log_fd, G_IO_IN, on_log, s);
}

/* ---- the rest of the loop ---- */

static gboolean
on_tick (gpointer data)
{
  struct supervisor *s = data;

  if (s->state == STOPPING)
    return G_SOURCE_CONTINUE;
  sd_notify (0, "WATCHDOG=1");
  reconnect (s);
  if (s->lost && s->state == ATTACHED && ++s->ticks % AGAIN_TICKS == 0)
    detach_begin (s, true);
  else if (s->state == DETACHING)
    notify (s);
  return G_SOURCE_CONTINUE;
}

static gboolean
on_signal (gint fd, GIOCondition condition, gpointer data)
{
  struct supervisor *s = data;
  struct signalfd_siginfo info;

  (void) condition;
  if (read (fd, &info, sizeof info) == sizeof info) {
    report (LOG_INFO, "%s: detaching %s", strsignal (info.ssi_signo),
            s->a->device);
    detach_begin (s, false);
  }
  return G_SOURCE_CONTINUE;
}

static JsonNode *
on_request (const char *request, void *data)
{
  struct supervisor *s = data;

  if (strcmp (request, "status") == 0)
    return build_status (s);
  if (strcmp (request, "cancel") == 0) {
    if (s->swapoff != 0)
      kill (s->swapoff, SIGTERM);
    return build_status (s);
  }
  if (strcmp (request, "detach") != 0 &&
      strcmp (request, "detach force") != 0)
    return NULL;
  detach_begin (s, strcmp (request, "detach force") == 0);
  return build_status (s);
}

static int
open_signals (void)
{
  sigset_t set;

  sigemptyset (&set);
  sigaddset (&set, SIGTERM);
  sigaddset (&set, SIGINT);
  sigaddset (&set, SIGHUP);
  return signalfd (-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void
begin (struct supervisor *s, struct state_socket *control, int signals)
{
  state_socket_serve (control, NULL, on_request, s);
  g_unix_fd_add (signals, G_IO_IN, on_signal, s);
  g_unix_fd_add (nbd_kernel_events_fd (s->a->kernel), G_IO_IN,
                 on_kernel_event, s);
  g_timeout_add (TICK_MS, on_tick, s);
  watch_server (s);
  notify (s);
  /* Taken over: what has happened meanwhile is not known. */
  if (!server_process_runs (&s->a->server))
    server_ended (s);
}

int
supervisor_run (struct attachment *a, struct state_socket *control)
{
  struct supervisor s = {
    .a = a, .loop = g_main_loop_new (NULL, FALSE),
  };
  int signals = open_signals ();

  begin (&s, control, signals);
  g_main_loop_run (s.loop);
  state_socket_close (control);
  close (signals);
  g_main_loop_unref (s.loop);
  g_free (s.problem);
  return s.lost ? 1 : 0;
}
