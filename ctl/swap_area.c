#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include <blkid/blkid.h>
#include <glib.h>

#include "ctl/swap_area.h"

/* What tells an area of ours from others; 15 bytes at most. */
static const char label[] = "infiniswap";

/* How far a device must be zero to be blank. */
enum { BLANK_BYTES = 1 << 20 };

/* ---- what is on the device ---- */

static const char *
lookup (blkid_probe probe, const char *name)
{
  const char *value;

  return blkid_probe_lookup_value (probe, name, &value, NULL) == 0 ? value :
    NULL;
}

static bool
is_blank (int fd)
{
  g_autofree char *buf = g_malloc (BLANK_BYTES);
  ssize_t n = pread (fd, buf, BLANK_BYTES, 0);

  return n > 0 && buf[0] == 0 && memcmp (buf, buf + 1, n - 1) == 0;
}

static bool
judge (blkid_probe probe, const char *device, int fd, char **error)
{
  int r;
  const char *type, *name;

  blkid_probe_enable_superblocks (probe, 1);
  blkid_probe_set_superblocks_flags (probe, BLKID_SUBLKS_TYPE |
                                     BLKID_SUBLKS_LABEL);
  blkid_probe_enable_partitions (probe, 1);
  r = blkid_do_safeprobe (probe);
  if (r == 1 && is_blank (fd))
    return true;
  type = r == 0 ? lookup (probe, "TYPE") : NULL;
  name = r == 0 ? lookup (probe, "LABEL") : NULL;
  if (type != NULL && name != NULL && strcmp (type, "swap") == 0 &&
      strcmp (name, label) == 0)
    return true;
  if (r == 0 && type == NULL)
    type = lookup (probe, "PTTYPE");
  *error = g_strdup_printf ("%s is not blank (%s): there is something on the "
                            "backing that attach did not make; name another "
                            "backing, attach with swap=no to look at it, or "
                            "wipe it", device,
                            type != NULL ? type : "unknown content");
  return false;
}

bool
swap_area_check (const char *device, char **error)
{
  int fd = open (device, O_RDONLY | O_CLOEXEC);
  blkid_probe probe = blkid_new_probe ();
  bool ok = false;

  if (fd == -1 || probe == NULL ||
      blkid_probe_set_device (probe, fd, 0, 0) != 0)
    *error = g_strdup_printf ("cannot read %s: %s", device,
                              g_strerror (errno));
  else
    ok = judge (probe, device, fd, error);
  if (probe != NULL)
    blkid_free_probe (probe);
  if (fd != -1)
    close (fd);
  return ok;
}

/* ---- making and using it ---- */

/* The first line alone. */
static char *
first_line (char *text)
{
  text[strcspn (text, "\n")] = '\0';
  return text;
}

bool
swap_area_make (const char *device, char **error)
{
  const char *argv[] = { "mkswap", "-L", label, device, NULL };
  g_autoptr (GError) wrong = NULL;
  g_autofree char *said = NULL;
  int status;

  if (!g_spawn_sync (NULL, (char **) argv, NULL,
                     G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, NULL,
                     NULL, NULL, &said, &status, &wrong)) {
    *error = g_strdup_printf ("cannot run mkswap (package util-linux): %s",
                              wrong->message);
    return false;
  }
  if (status == 0)
    return true;
  if (said[0] != '\0')
    *error = g_strdup_printf ("mkswap %s failed: %s", device,
                              first_line (said));
  else
    *error = g_strdup_printf ("mkswap %s failed, and says nothing", device);
  return false;
}

bool
swap_area_on (const char *device, unsigned priority, bool discard,
              char **error)
{
  int flags = SWAP_FLAG_PREFER | (priority & SWAP_FLAG_PRIO_MASK) |
    (discard ? SWAP_FLAG_DISCARD : 0);

  if (swapon (device, flags) == 0)
    return true;
  *error = g_strdup_printf ("swapon %s failed: %s", device,
                            g_strerror (errno));
  return false;
}

/* ---- giving it up ---- */

/* Its only thread, in the child.  A signal ends swapoff with EINTR, but
 * one that kills would do it without a status.
 */
static void
give_up (int sig)
{
  (void) sig;
}

static void __attribute__ ((noreturn))
run_swapoff (const char *device)
{
  const struct sigaction action = { .sa_handler = give_up };
  sigset_t term;

  sigaction (SIGTERM, &action, NULL);
  sigemptyset (&term);
  sigaddset (&term, SIGTERM);
  sigprocmask (SIG_UNBLOCK, &term, NULL);
  /* What makes the supervisor fit to serve swap would keep swapoff from
   * making room by writing to another area.
   */
  prctl (PR_SET_IO_FLUSHER, 0, 0, 0, 0);
  /* The supervisor's lock and sockets are not for us to keep. */
  close_range (3, ~0U, 0);
  _exit (swapoff (device) == 0 ? 0 : errno);
}

pid_t
swap_area_off_begin (const char *device)
{
  pid_t pid = fork ();

  if (pid == 0)
    run_swapoff (device);
  return pid == -1 ? -errno : pid;
}

char *
swap_area_off_explain (const char *device, int status)
{
  int e = WIFEXITED (status) ? WEXITSTATUS (status) : 0;

  if (WIFSIGNALED (status))
    return g_strdup_printf ("swapoff %s was killed: memory ran out", device);
  if (e == 0)
    return NULL;
  if (e == ENOMEM)
    return g_strdup_printf ("swapoff %s failed: what is swapped out does not "
                            "fit into memory", device);
  if (e == EINTR)
    return g_strdup_printf ("swapoff %s was stopped before it was done",
                            device);
  return g_strdup_printf ("swapoff %s failed: %s", device, g_strerror (e));
}

bool
swap_area_settle (const char *device, char **error)
{
  int fd = open (device, O_RDWR | O_EXCL | O_CLOEXEC);
  bool ok = fd != -1 && fsync (fd) == 0;

  if (!ok && errno == EBUSY)
    *error = g_strdup_printf ("%s is still in use (mounted?); end that first",
                              device);
  else if (!ok)
    *error = g_strdup_printf ("cannot write what is left to %s: %s", device,
                              g_strerror (errno));
  if (fd != -1)
    close (fd);
  return ok;
}
