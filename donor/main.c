#include <errno.h>
#include <glib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "conf/log.h"
#include "conf/memory_lock.h"
#include "donor/config.h"
#include "donor/server.h"
#include "donor/service.h"
#include "donor/wake.h"

/* Starting it again would not help. */
enum { EXIT_CONFIG = 2 };

/* A session may have as many descriptors as lanes. */
static void
raise_descriptor_limit (void)
{
  struct rlimit limit;

  if (getrlimit (RLIMIT_NOFILE, &limit) == -1)
    return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit (RLIMIT_NOFILE, &limit);
}

/* A descriptor to read signals from.  Before any thread starts, so that
 * all have them blocked.
 */
static int
catch_signals (void)
{
  sigset_t set;

  signal (SIGPIPE, SIG_IGN);
  sigemptyset (&set);
  sigaddset (&set, SIGTERM);
  sigaddset (&set, SIGINT);
  sigprocmask (SIG_BLOCK, &set, NULL);
  return signalfd (-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

struct program {
  GMainLoop *loop;
  struct server *server;
  int signals_fd;
  bool stopping;
};

static void
describe (void *server, char text[SERVICE_TEXT_MAX])
{
  server_describe (server, text);
}

static void
quit (void *loop)
{
  g_main_loop_quit (loop);
}

/* The first signal stops in order, the second one at once. */
static gboolean
caught (gpointer data)
{
  struct program *p = data;
  struct signalfd_siginfo info;

  if (read (p->signals_fd, &info, sizeof info) != sizeof info)
    return G_SOURCE_CONTINUE;
  if (p->stopping) {
    log_notice ("stopping at once: another signal has come");
    quit (p->loop);
  }
  else {
    p->stopping = true;
    server_stop (p->server, quit, p->loop);
  }
  return G_SOURCE_CONTINUE;
}

static bool
lock_memory (const struct donor_config *config,
             struct memory_lock_result *result)
{
  const bool ok = memory_lock (config->lock, false, result);
  g_autofree char *why = memory_lock_explain (result);

  if (why && ok)
    log_warning ("%s", why);
  else if (why)
    log_error ("%s", why);
  return ok;
}

static bool
serve (const struct donor_config *config,
       const struct memory_lock_result *lock, int signals_fd)
{
  g_autoptr (GMainLoop) loop = g_main_loop_new (NULL, FALSE);
  g_autofree char *error = NULL;
  struct program p = { .loop = loop, .signals_fd = signals_fd };
  GSource *signals, *watch;

  p.server = server_new (config, lock, NULL, &error);
  if (p.server == NULL) {
    log_error ("%s", error);
    return false;
  }
  signals = wake_new (NULL, signals_fd, caught, &p);
  watch = service_watch (NULL, describe, p.server);
  g_main_loop_run (loop);
  wake_free (watch);
  wake_free (signals);
  server_free (p.server);
  log_notice ("stopped");
  return true;
}

static int
run (const struct donor_config *config)
{
  struct memory_lock_result lock;
  bool ok;
  int fd;

  raise_descriptor_limit ();
  fd = catch_signals ();
  if (fd == -1) {
    log_error ("cannot catch signals: %s", strerror (errno));
    return EXIT_FAILURE;
  }
  ok = lock_memory (config, &lock) && serve (config, &lock, fd);
  close (fd);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

int
main (int argc, char *argv[])
{
  struct donor_config *config = NULL;
  g_autofree char *text = NULL;
  int r;

  (void) argc;
  g_set_prgname ("infiniswap-donor");
  log_start ("infiniswap-donor");
  r = donor_config_parse (argv, &config, &text);
  if (r < 0) {
    log_error ("%s", text);
    return EXIT_CONFIG;
  }
  if (r > 0) {
    fputs (text, stdout);
    return EXIT_SUCCESS;
  }
  r = run (config);
  donor_config_free (config);
  return r;
}
