#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <glib.h>
#include <infiniband/verbs.h>

#include "conf/kernel_file.h"
#include "conf/units.h"
#include "ctl/machine.h"
#include "ctl/nbd_kernel.h"
#include "ctl/protection.h"
#include "ctl/room.h"

/* ---- programs ---- */

/* The last line that it prints, newly allocated; NULL if it fails, with
 * what it said in *error.
 */
static char *
last_line_of (const char *const *argv, char **error)
{
  g_autofree char *said = NULL;
  g_autoptr (GError) wrong = NULL;
  char *out = NULL;
  int status = 0;

  if (!g_spawn_sync (NULL, (char **) argv, NULL, G_SPAWN_SEARCH_PATH, NULL,
                     NULL, &out, &said, &status, &wrong))
    *error = g_strdup (wrong->message);
  else if (status != 0)
    *error = g_strndup (said, strcspn (said, "\n"));
  else {
    const char *last = strrchr (g_strchomp (out), '\n');

    memmove (out, last != NULL ? last + 1 : out,
             strlen (last != NULL ? last + 1 : out) + 1);
    return out;
  }
  g_free (out);
  return NULL;
}

static void
check_nbdkit (struct findings *f, const char *plugin)
{
  const char *argv[] = { "nbdkit", "--version", NULL };
  const char *with_plugin[] = { "nbdkit", plugin, "--version", NULL };
  g_autofree char *error = NULL, *plugin_error = NULL;
  g_autofree char *version = last_line_of (argv, &error);
  g_autofree char *plugin_version = NULL;

  if (version == NULL) {
    findings_add (f, FINDING_MISSING, "nbdkit",
                  "install the package nbdkit", "%s", error);
    return;
  }
  findings_add (f, FINDING_OK, "nbdkit", NULL, "%s", version);
  plugin_version = last_line_of (with_plugin, &plugin_error);
  if (plugin_version != NULL)
    findings_add (f, FINDING_OK, "plugin", NULL, "%s", plugin_version);
  else
    findings_add (f, FINDING_MISSING, "plugin", "install it where nbdkit "
                  "looks for it (nbdkit --dump-config, plugindir), or name "
                  "it with --plugin", "%s", plugin_error);
}

void
machine_check_programs (struct findings *f, const char *plugin)
{
  g_autofree char *mkswap = g_find_program_in_path ("mkswap");

  if (geteuid () == 0)
    findings_add (f, FINDING_OK, "user", NULL, "root");
  else
    findings_add (f, FINDING_WARNING, "user", "run it as root: sudo "
                  "infiniswapctl check", "not root: what only root can do or "
                  "see counts as missing");
  check_nbdkit (f, plugin);
  if (mkswap == NULL && access ("/usr/sbin/mkswap", X_OK) != 0 &&
      access ("/sbin/mkswap", X_OK) != 0)
    findings_add (f, FINDING_MISSING, "mkswap", "install the package "
                  "util-linux", "there is none");
}

/* ---- the kernel ---- */

static void
check_nbd (struct findings *f)
{
  g_autofree char *error = NULL;
  struct nbd_kernel *k = nbd_kernel_open (&error);

  if (k != NULL)
    findings_add (f, FINDING_OK, "nbd", NULL, "the kernel's driver is loaded");
  else
    findings_add (f, FINDING_MISSING, "nbd", "modprobe nbd; and for the next "
                  "boot: echo nbd >/etc/modules-load.d/nbd.conf", "%.*s",
                  (int) strcspn (error, ";"), error);
  nbd_kernel_close (k);
}

/* With 0 the kernel swaps only when files have nothing left to drop. */
static void
check_swappiness (struct findings *f)
{
  char text[KERNEL_FILE_MAX];
  uint64_t value;

  if (kernel_file_read ("/proc/sys/vm/swappiness", text) == 0 &&
      kernel_file_number (text, &value, NULL) == 0 && value == 0)
    findings_add (f, FINDING_WARNING, "swappiness",
                  "sysctl vm.swappiness=60", "vm.swappiness is 0: the kernel "
                  "hardly swaps");
}

void
machine_check_kernel (struct findings *f)
{
  struct utsname name;

  if (uname (&name) == 0)
    findings_add (f, FINDING_OK, "kernel", NULL, "%s %s", name.sysname,
                  name.release);
  check_nbd (f);
  check_swappiness (f);
}

/* ---- memory ---- */

/* For this process; the server inherits the same. */
static void
check_flusher (struct findings *f)
{
  if (prctl (PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0) {
    prctl (PR_SET_IO_FLUSHER, 0, 0, 0, 0);
    findings_add (f, FINDING_OK, "reclaim", NULL,
                  "a server may do I/O for others' reclaim");
  } else
    findings_add (f, FINDING_MISSING, "reclaim", "give CAP_SYS_RESOURCE, on "
                  "Linux 5.6 or later", "cannot set PR_SET_IO_FLUSHER: %s: "
                  "the server could wait on its own device",
                  g_strerror (errno));
}

static void
check_memlock (struct findings *f)
{
  struct rlimit limit;
  char text[UNITS_TEXT_MAX];

  if (getrlimit (RLIMIT_MEMLOCK, &limit) == -1)
    return;
  if (limit.rlim_cur == RLIM_INFINITY)
    findings_add (f, FINDING_OK, "memlock", NULL, "unlimited");
  else if (geteuid () == 0)
    findings_add (f, FINDING_OK, "memlock", NULL, "%s, which does not bind "
                  "root", units_format_size (limit.rlim_cur, text));
  else
    findings_add (f, FINDING_MISSING, "memlock", "raise it in "
                  "/etc/security/limits.conf, or LimitMEMLOCK=infinity in "
                  "the unit", "only %s may be locked, and registered with an "
                  "RDMA device", units_format_size (limit.rlim_cur, text));
}

void
machine_check_memory (struct findings *f)
{
  const uint64_t total = (uint64_t) sysconf (_SC_PHYS_PAGES) *
    sysconf (_SC_PAGESIZE);
  g_autofree char *limit =
    protection_check_cgroup ("/proc/self/cgroup", "/proc/self/mountinfo",
                             total);

  check_memlock (f);
  check_flusher (f);
  if (limit == NULL)
    findings_add (f, FINDING_OK, "cgroup", NULL, "without a memory limit");
  else
    findings_add (f, FINDING_WARNING, "cgroup", NULL, "%s", limit);
}

/* ---- RDMA ---- */

static unsigned
mtu_bytes (enum ibv_mtu mtu)
{
  return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128u << mtu : 0;
}

/* A page and its header in one packet. */
static void
check_port (struct findings *f, const char *device, unsigned port,
            const struct ibv_port_attr *attr)
{
  const unsigned mtu = mtu_bytes (attr->active_mtu);

  if (attr->state != IBV_PORT_ACTIVE)
    findings_add (f, FINDING_WARNING, "RDMA", "bring its network interface "
                  "up, or its cable", "%s, port %u is %s", device, port,
                  ibv_port_state_str (attr->state));
  else if (mtu < 4096)
    findings_add (f, FINDING_WARNING, "RDMA", "raise the MTU of the network "
                  "interface to 4200 or more, on all nodes and switches",
                  "%s, port %u has an MTU of %u: a page is several packets",
                  device, port, mtu);
  else
    findings_add (f, FINDING_OK, "RDMA", NULL, "%s, port %u, MTU %u", device,
                  port, mtu);
}

static void
check_device (struct findings *f, struct ibv_device *device)
{
  struct ibv_context *context = ibv_open_device (device);
  const char *name = ibv_get_device_name (device);
  struct ibv_device_attr attr;
  struct ibv_port_attr port;

  if (context == NULL) {
    findings_add (f, FINDING_WARNING, "RDMA", "run as root, or allow the "
                  "user /dev/infiniband/uverbs*", "%s cannot be opened: %s",
                  name, g_strerror (errno));
    return;
  }
  if (ibv_query_device (context, &attr) == 0)
    for (unsigned i = 1; i <= attr.phys_port_cnt; i++)
      if (ibv_query_port (context, i, &port) == 0)
        check_port (f, name, i, &port);
  ibv_close_device (context);
}

void
machine_check_rdma (struct findings *f)
{
  int n = 0;
  struct ibv_device **list = ibv_get_device_list (&n);

  if (list == NULL || n == 0)
    findings_add (f, FINDING_WARNING, "RDMA", "load the card's driver; or, "
                  "to try things out without one, Soft-RoCE: modprobe "
                  "rdma_rxe; rdma link add rxe0 type rxe netdev DEVICE",
                  "no device: donors are reached over tcp");
  for (int i = 0; i < n; i++)
    check_device (f, list[i]);
  if (list != NULL)
    ibv_free_device_list (list);
  if (n > 0 && access ("/dev/infiniband/rdma_cm", R_OK | W_OK) != 0)
    findings_add (f, FINDING_MISSING, "RDMA", "modprobe rdma_ucm; or run as "
                  "root", "/dev/infiniband/rdma_cm: %s", g_strerror (errno));
}

/* ---- what is swapped out ---- */

void
machine_check_room (struct findings *f)
{
  g_autofree char *text = NULL;
  g_auto (GStrv) lines = NULL;

  if (!g_file_get_contents (room_system.swaps, &text, NULL, NULL))
    return;
  lines = g_strsplit (text, "\n", -1);
  for (char **line = lines; *line != NULL; line++) {
    g_autofree char *problem = NULL;

    if (!g_str_has_prefix (*line, "/dev/nbd"))
      continue;
    (*line)[strcspn (*line, " \t")] = '\0';
    problem = room_check (&room_system, *line);
    if (problem == NULL)
      findings_add (f, FINDING_OK, "room", NULL, "what is swapped out on %s "
                    "fits into memory: it can be detached", *line);
    else
      findings_add (f, FINDING_WARNING, "room", NULL, "%s", problem);
  }
}
