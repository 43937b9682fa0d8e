#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <glib.h>
#include <json-glib/json-glib.h>
#include <systemd/sd-daemon.h>

#include "conf/state_socket.h"
#include "ctl/attach.h"
#include "ctl/attachment.h"
#include "ctl/report.h"
#include "ctl/supervisor.h"

#define CONFIG_FOLDER "/etc/infiniswap"

/* As long as another attach of the same device may take. */
static const int64_t OTHER_NS = INT64_C (90000000000);

/* ---- the configuration ---- */

static struct device_config *
read_config (const struct attach_options *o, char **error)
{
  g_autofree char *usual = g_strdup_printf ("%s/%s.conf", CONFIG_FOLDER,
                                            o->name);
  const char *path = o->config;

  if (path == NULL && (o->overrides[0] == NULL ||
                       g_file_test (usual, G_FILE_TEST_EXISTS)))
    path = usual;
  return device_config_read (o->name, path, o->overrides, error);
}

static int
fail (const char *name, char *error)
{
  fprintf (stderr, "infiniswapctl: %s: %s\n", name, error);
  g_free (error);
  return 1;
}

/* A name stays one, for nbdkit to look up. */
static char *
plugin_path (const char *plugin)
{
  return strchr (plugin, '/') != NULL ? g_canonicalize_filename (plugin, NULL)
    : g_strdup (plugin);
}

/* mkswap is not in a plain PATH. */
static void
extend_path (void)
{
  const char *path = getenv ("PATH");
  g_autofree char *longer = g_strconcat (path != NULL ? path : "/usr/bin:/bin",
                                         ":/usr/sbin:/sbin", NULL);

  setenv ("PATH", longer, 1);
}

int
attach_check_config (const struct attach_options *o)
{
  char *error = NULL;
  struct device_config *c = read_config (o, &error);
  struct server_params params = { .plugin = o->plugin, .lock = true };
  bool ok;

  if (c == NULL)
    return fail (o->name, error);
  params.keys = c->plugin_keys;
  ok = server_process_check (&params, &error);
  device_config_free (c);
  if (!ok)
    return fail (o->name, error);
  printf ("%s: the configuration is all right\n", o->name);
  return 0;
}

/* ---- one that is attached already ---- */

static bool
same_config (JsonObject *status, const struct device_config *c)
{
  JsonNode *node = json_object_get_member (status, "config");
  JsonArray *array = node != NULL && JSON_NODE_HOLDS_ARRAY (node) ?
    json_node_get_array (node) : NULL;
  guint n = g_strv_length (c->strings);

  if (array == NULL || json_array_get_length (array) != n)
    return false;
  for (guint i = 0; i < n; i++) {
    const char *theirs = json_array_get_string_element (array, i);

    if (theirs == NULL || strcmp (theirs, c->strings[i]) != 0)
      return false;
  }
  return true;
}

static int
judge_other (JsonNode *node, const struct device_config *c)
{
  JsonObject *status = JSON_NODE_HOLDS_OBJECT (node) ?
    json_node_get_object (node) : NULL;
  const char *device = status != NULL ?
    json_object_get_string_member_with_default (status, "device", "?") : "?";
  bool same = status != NULL && same_config (status, c);

  if (same)
    printf ("%s: attached already, as %s\n", c->name, device);
  else
    report (LOG_ERR, "attached already, as %s, with another configuration; "
            "detach it first", device);
  json_node_unref (node);
  return same ? 0 : 1;
}

/* It answers as soon as it is attached, or ends. */
static int
ask_other (const struct attachment *a)
{
  g_autofree char *error = NULL;
  JsonNode *node = state_socket_ask (a->files.control_path, "status",
                                     OTHER_NS, &error);

  if (node != NULL)
    return judge_other (node, a->config);
  report (LOG_ERR, "another infiniswapctl is attaching or detaching it "
          "just now; try again");
  return 1;
}

/* ---- the supervisor ---- */

/* Those that end a process: they are looked for where they can be heeded. */
static void
block_signals (void)
{
  sigset_t set;

  sigemptyset (&set);
  sigaddset (&set, SIGTERM);
  sigaddset (&set, SIGINT);
  sigaddset (&set, SIGHUP);
  sigprocmask (SIG_BLOCK, &set, NULL);
  signal (SIGPIPE, SIG_IGN);
}

/* As with nbdkit: systemd's last killing at shutdown leaves a process alone
 * whose name begins with "@".
 */
static void
mark_name (void)
{
  static const char name[] = "@infiniswap";
  size_t room = strlen (program_invocation_name);

  if (program_invocation_name[0] == '@' || room < strlen (name))
    return;
  memset (program_invocation_name, 0, room);
  memcpy (program_invocation_name, name, strlen (name));
}

static void
tell_attached (const struct attachment *a)
{
  if (a->config->swap)
    printf ("%s: %s is in use for swap, with priority %" G_GUINT64_FORMAT
            "\n", a->config->name, a->device, a->config->priority);
  else
    printf ("%s: attached as %s\n", a->config->name, a->device);
  fflush (stdout);
}

/* What the record of a killed supervisor says, if there is one. */
static bool
take_over (struct attachment *a, const struct runtime_record *record,
           char **error)
{
  struct device_config *c = device_config_read (
    a->config->name, NULL, (const char *const *) record->config, error);

  if (c == NULL)
    return false;
  device_config_free (a->config);
  a->config = c;
  g_free (a->plugin);
  a->plugin = g_strdup (record->plugin);
  report (LOG_WARNING, "its supervisor was killed; taking over");
  return attachment_adopt (a, record, error);
}

/* A record of what is all gone is as good as none. */
static bool
up_or_take_over (struct attachment *a, bool only_take_over, char **error)
{
  struct runtime_record record;
  bool ok;

  if (runtime_read (&a->files, &record)) {
    ok = take_over (a, &record, error);
    runtime_record_clear (&record);
    if (!ok || a->step != ATTACHMENT_NOTHING)
      return ok;
  }
  if (!only_take_over)
    return attachment_up (a, error);
  runtime_remove (&a->files);
  return true;
}

/* With the lock.  ready says to whoever waits that the device is there. */
static int
supervise (struct attachment *a, bool only_take_over,
           void (*ready) (const struct attachment *a))
{
  char *error = NULL;
  struct state_socket *control = state_socket_bind (a->files.control_path,
                                                    &error);

  if (control == NULL || !up_or_take_over (a, only_take_over, &error)) {
    report (LOG_ERR, "%s", error);
    g_free (error);
    state_socket_close (control);
    return 1;
  }
  if (a->step == ATTACHMENT_NOTHING) {
    state_socket_close (control);
    return 0;
  }
  ready (a);
  return supervisor_run (a, control);
}

static int
attach_here (struct attachment *a, bool only_take_over,
             void (*ready) (const struct attachment *a))
{
  g_autofree char *error = NULL;
  int r;

  umask (077);
  block_signals ();
  extend_path ();
  mark_name ();
  if (chdir ("/") == -1)
    report (LOG_WARNING, "cannot enter /: %s", g_strerror (errno));
  r = runtime_lock (&a->files, &error);
  if (r == -EBUSY)
    return ask_other (a);
  if (r < 0) {
    report (LOG_ERR, "%s", error);
    return 1;
  }
  return supervise (a, only_take_over, ready);
}

/* ---- foreground and background ---- */

static void
ready_in_foreground (const struct attachment *a)
{
  tell_attached (a);
  sd_notify (0, "READY=1");
}

static int ready_fd = -1;

/* The terminal is the parent's alone from now on.  Until here an interrupt
 * typed there is for both, and undoes all.
 */
static void
ready_in_background (const struct attachment *a)
{
  int null = open ("/dev/null", O_RDWR | O_CLOEXEC);

  setsid ();
  tell_attached (a);
  report_to_syslog ();
  if (null != -1) {
    dup2 (null, 0);
    dup2 (null, 1);
    dup2 (null, 2);
    close (null);
  }
  if (write (ready_fd, "", 1) != 1)
    report (LOG_WARNING, "nobody waits for it any more");
  close (ready_fd);
}

/* Until the child has told, or ended. */
static int
await_background (pid_t pid, int fd)
{
  char byte;
  int status;
  ssize_t n;

  do
    n = read (fd, &byte, 1);
  while (n == -1 && errno == EINTR);
  close (fd);
  if (n == 1)
    return 0;
  while (waitpid (pid, &status, 0) == -1 && errno == EINTR)
    ;
  if (WIFEXITED (status))
    return WEXITSTATUS (status);
  report (LOG_ERR, "its supervisor was killed by signal %d; run the command "
          "again to take over what it has started", WTERMSIG (status));
  return 1;
}

static int
attach_in_background (struct attachment *a, bool only_take_over)
{
  int fds[2];
  pid_t pid = pipe2 (fds, O_CLOEXEC) == 0 ? fork () : -1;

  if (pid == -1) {
    report (LOG_ERR, "cannot start a supervisor: %s", g_strerror (errno));
    return 1;
  }
  if (pid > 0) {
    signal (SIGINT, SIG_IGN);   /* the child undoes all, and says so */
    close (fds[1]);
    return await_background (pid, fds[0]);
  }
  close (fds[0]);
  ready_fd = fds[1];
  exit (attach_here (a, only_take_over, ready_in_background));
}

int
attach_run (const struct attach_options *o)
{
  char *error = NULL;
  struct device_config *c = read_config (o, &error);
  g_autofree char *plugin = plugin_path (o->plugin);
  struct attachment *a;
  int status;

  if (c == NULL)
    return fail (o->name, error);
  if (geteuid () != 0) {
    device_config_free (c);
    return fail (o->name, g_strdup ("only root can attach a device"));
  }
  report_open (c->name);
  a = attachment_new (RUNTIME_FOLDER, c, plugin);
  status = o->foreground ? attach_here (a, false, ready_in_foreground) :
    attach_in_background (a, false);
  attachment_free (a);
  return status;
}

int
attach_take_over (const char *name)
{
  char *error = NULL;
  struct device_config *c = device_config_read (name, NULL, NULL, &error);
  struct attachment *a;
  int status;

  report_open (c->name);
  a = attachment_new (RUNTIME_FOLDER, c, "");
  status = attach_in_background (a, true);
  attachment_free (a);
  return status;
}
