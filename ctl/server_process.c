#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/server_process.h"

enum { LINE_BYTES_MAX = 4096 };

extern char **environ;

void
server_process_init (struct server_process *s)
{
  *s = (struct server_process) {
    .pidfd = -1, .log_fd = -1, .said = g_string_sized_new (LINE_BYTES_MAX),
  };
}

void
server_process_clear (struct server_process *s)
{
  if (s->pidfd != -1)
    close (s->pidfd);
  if (s->log_fd != -1)
    close (s->log_fd);
  g_string_free (s->said, TRUE);
}

/* ---- its command line ---- */

static void
add (GPtrArray *argv, const char *format, ...)
  __attribute__ ((format (printf, 2, 3)));

static void
add (GPtrArray *argv, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  g_ptr_array_add (argv, g_strdup_vprintf (format, args));
  va_end (args);
}

static void
add_keys (GPtrArray *argv, const struct server_params *p)
{
  bool locked = false;

  add (argv, "%s", p->plugin);
  for (char *const *key = p->keys; *key != NULL; key++) {
    add (argv, "%s", *key);
    locked |= g_str_has_prefix (*key, "lock=");
  }
  if (!locked)
    add (argv, "lock=%s", p->lock ? "require" : "try");
}

/* systemd leaves processes alone at shutdown whose name begins with "@",
 * as those that serve storage.
 */
static char **
server_argv (const struct server_params *p)
{
  GPtrArray *argv = g_ptr_array_new ();

  add (argv, "@nbdkit");
  add (argv, "-f");
  add (argv, "-U");
  add (argv, "%s", p->socket);
  add (argv, "-t");
  add (argv, "%" G_GUINT64_FORMAT, p->threads);
  add_keys (argv, p);
  add (argv, "state=%s", p->state);
  add (argv, "outlive-parent=1");
  g_ptr_array_add (argv, NULL);
  return (char **) g_ptr_array_free (argv, FALSE);
}

static char **
check_argv (const struct server_params *p)
{
  GPtrArray *argv = g_ptr_array_new ();

  add (argv, "nbdkit");
  add (argv, "-f");
  add (argv, "-U");
  add (argv, "-");
  add_keys (argv, p);
  add (argv, "check-config=1");
  g_ptr_array_add (argv, NULL);
  return (char **) g_ptr_array_free (argv, FALSE);
}

/* ---- checking ---- */

char *
server_process_first_error (const char *said)
{
  static const char mark[] = "error: ";
  const char *at = strstr (said, mark);

  at = at != NULL ? at + strlen (mark) : said;
  return g_strndup (at, strcspn (at, "\n"));
}

bool
server_process_check (const struct server_params *params, char **error)
{
  g_auto (GStrv) argv = check_argv (params);
  g_autoptr (GError) wrong = NULL;
  g_autofree char *said = NULL;
  int status;

  if (!g_spawn_sync (NULL, argv, NULL, G_SPAWN_SEARCH_PATH |
                     G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL, NULL, &said,
                     &status, &wrong)) {
    *error = g_strdup_printf ("cannot run nbdkit (package nbdkit): %s",
                              wrong->message);
    return false;
  }
  if (status == 0)
    return true;
  *error = said[0] != '\0' ? server_process_first_error (said) :
    g_strdup ("nbdkit failed, and says nothing");
  return false;
}

/* ---- starting ---- */

/* MALLOC_ARENA_MAX: each arena would be locked memory. */
static char **
server_environment (void)
{
  char **env = g_strdupv (environ);

  env = g_environ_setenv (env, "MALLOC_ARENA_MAX", "1", TRUE);
  /* What is for the supervisor is not for the server. */
  env = g_environ_unsetenv (env, "NOTIFY_SOCKET");
  env = g_environ_unsetenv (env, "WATCHDOG_USEC");
  env = g_environ_unsetenv (env, "WATCHDOG_PID");
  env = g_environ_unsetenv (env, "LISTEN_FDS");
  return g_environ_unsetenv (env, "LISTEN_PID");
}

/* Returns an errno. */
static int
spawn (char **argv, int log_fd, pid_t *pid)
{
  g_auto (GStrv) env = server_environment ();
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attr;
  sigset_t none, all;
  int r;

  sigemptyset (&none);
  sigfillset (&all);
  posix_spawnattr_init (&attr);
  posix_spawnattr_setflags (&attr, POSIX_SPAWN_SETSID |
                            POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setsigmask (&attr, &none);
  posix_spawnattr_setsigdefault (&attr, &all);
  posix_spawn_file_actions_init (&actions);
  posix_spawn_file_actions_addopen (&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen (&actions, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2 (&actions, log_fd, 2);
  r = posix_spawnp (pid, "nbdkit", &actions, &attr, argv, env);
  posix_spawn_file_actions_destroy (&actions);
  posix_spawnattr_destroy (&attr);
  return r;
}

static bool
watch (struct server_process *s)
{
  s->pidfd = pidfd_open (s->id.pid, 0);
  return s->pidfd != -1 && runtime_process_start (s->id.pid, &s->id.start);
}

bool
server_process_start (struct server_process *s,
                      const struct server_params *params, char **error)
{
  g_auto (GStrv) argv = server_argv (params);
  int log[2] = { -1, -1 }, r;

  unlink (params->socket);
  /* Neither end blocks: a server must not wait for who reads its log. */
  r = pipe2 (log, O_CLOEXEC | O_NONBLOCK) == -1 ? errno :
    spawn (argv, log[1], &s->id.pid);
  if (log[1] != -1)
    close (log[1]);
  if (r == 0 && watch (s)) {
    if (s->log_fd != -1)
      close (s->log_fd);
    s->log_fd = log[0];
    return true;
  }
  if (r == ENOENT)
    *error = g_strdup ("there is no nbdkit in PATH; install the package "
                       "nbdkit");
  else
    *error = g_strdup_printf ("cannot start nbdkit: %s",
                              g_strerror (r != 0 ? r : errno));
  if (r == 0) {
    /* It has no connection, so nothing is lost. */
    kill (s->id.pid, SIGKILL);
    waitpid (s->id.pid, NULL, 0);
  }
  if (log[0] != -1)
    close (log[0]);
  s->id.pid = 0;
  return false;
}

bool
server_process_adopt (struct server_process *s,
                      const struct runtime_process *id)
{
  int fd = id->pid > 0 ? pidfd_open (id->pid, 0) : -1;

  /* In this order, so that it is this process that the pidfd is of. */
  if (fd == -1 || !runtime_process_alive (id)) {
    if (fd != -1)
      close (fd);
    return false;
  }
  s->id = *id;
  s->pidfd = fd;
  return true;
}

/* ---- running ---- */

bool
server_process_await (const struct server_process *s, int timeout_ms)
{
  struct pollfd p = { .fd = s->pidfd, .events = POLLIN };
  int r;

  if (s->pidfd == -1)
    return true;
  do
    r = poll (&p, 1, timeout_ms);
  while (r == -1 && errno == EINTR);
  return r != 0;
}

bool
server_process_runs (const struct server_process *s)
{
  return s->id.pid > 0 && !server_process_await (s, 0);
}

static void
pass_lines (GString *said, void (*line) (const char *text, void *data),
            void *data)
{
  char *end;

  while ((end = strchr (said->str, '\n')) != NULL) {
    *end = '\0';
    if (said->str[0] != '\0')
      line (said->str, data);
    g_string_erase (said, 0, end + 1 - said->str);
  }
  if (said->len >= LINE_BYTES_MAX) {
    line (said->str, data);
    g_string_truncate (said, 0);
  }
}

void
server_process_read_log (struct server_process *s,
                         void (*line) (const char *text, void *data),
                         void *data)
{
  char buf[1024];
  ssize_t n;

  if (s->log_fd == -1)
    return;
  while ((n = read (s->log_fd, buf, sizeof buf)) > 0) {
    for (ssize_t i = 0; i < n; i++)
      g_string_append_c (s->said, buf[i] != '\0' ? buf[i] : '?');
    pass_lines (s->said, line, data);
  }
  if (n == 0) {
    close (s->log_fd);
    s->log_fd = -1;
  }
}

void
server_process_end (const struct server_process *s)
{
  if (s->pidfd != -1)
    pidfd_send_signal (s->pidfd, SIGTERM, NULL, 0);
}

void
server_process_kill (const struct server_process *s)
{
  if (s->pidfd != -1)
    pidfd_send_signal (s->pidfd, SIGKILL, NULL, 0);
}

char *
server_process_reap (struct server_process *s, bool *clean)
{
  siginfo_t info = { .si_pid = 0 };
  char *how;

  if (s->pidfd == -1 || waitid (P_PIDFD, s->pidfd, &info, WEXITED) == -1)
    info.si_pid = 0;
  *clean = info.si_pid == 0 ||
    (info.si_code == CLD_EXITED && info.si_status == 0);
  how = info.si_pid == 0 ? g_strdup ("") :
    g_strdup_printf ("%s %d", info.si_code == CLD_EXITED ? "exit status" :
                     "signal", info.si_status);
  if (s->pidfd != -1)
    close (s->pidfd);
  s->pidfd = -1;
  s->id = (struct runtime_process) { .pid = 0 };
  return how;
}
