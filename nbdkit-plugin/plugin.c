/* The callbacks of nbdkit, and what they hold together. */

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "conf/log.h"
#include "conf/memory_lock.h"
#include "conf/metrics_server.h"
#include "conf/state_socket.h"
#include "nbdkit-plugin/backing.h"
#include "nbdkit-plugin/config.h"
#include "nbdkit-plugin/device.h"
#include "nbdkit-plugin/mapper.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

/* Constant while requests are served. */
static struct config config;
static char **config_in_force;
static struct backing *backing;
static struct state_socket *state;
static struct metrics_server *metrics;
static struct mapper *mapper;
static struct device *device;

/* Stacks of nbdkit's workers, which are locked and faulted in whole.
 * ThreadSanitizer's own part of a stack is larger than that.
 */
#ifdef __SANITIZE_THREAD__
enum { STACK_BYTES = 8 << 20 };
#else
enum { STACK_BYTES = 256 << 10 };
#endif

static void
isw_load (void)
{
  pthread_attr_t attr;

  pthread_attr_init (&attr);
  pthread_attr_setstacksize (&attr, STACK_BYTES);
  pthread_setattr_default_np (&attr);
  pthread_attr_destroy (&attr);
  /* Every arena is locked memory; one will do, since the I/O path does
   * not allocate.
   */
  mallopt (M_ARENA_MAX, 1);
  log_start ("infiniswap");
  config_init (&config);
}

static int
isw_config (const char *key, const char *value)
{
  return config_set (&config, key, value);
}

static int
isw_config_complete (void)
{
  if (config_check (&config) == -1)
    return -1;
  /* nbdkit has no way to end here well. */
  if (config.check_only)
    exit (EXIT_SUCCESS);
  return 0;
}

/* Where others may look at it. */
static int
bind_sockets (char **error)
{
  const char *key = "metrics", *value = config.metrics;

  if (config.metrics)
    metrics = metrics_server_bind (config.metrics, error);
  if (config.state && !*error) {
    key = "state";
    value = config.state;
    state = state_socket_bind (config.state, error);
  }
  if (!*error)
    return 0;
  nbdkit_error ("%s=%s: %s", key, value, *error);
  metrics_server_close (metrics);
  return -1;
}

/* Before the fork, where errors still reach the user.  The local copy
 * comes last: its file may be made here, and must not be left behind.
 */
static int
isw_get_ready (void)
{
  char *error = NULL;

  if (bind_sockets (&error) == -1) {
    g_free (error);
    return -1;
  }
  backing = backing_open (config.backing, config.size_bytes,
                          config.backing_unsafe, &error);
  if (!backing) {
    state_socket_close (state);
    metrics_server_close (metrics);
    nbdkit_error ("%s", error);
    g_free (error);
    return -1;
  }
  config.size_bytes = backing_size (backing);
  config_in_force = config_strings (&config);
  return 0;
}

static int
start_device (void)
{
  const struct device_params params = {
    .size_bytes = config.size_bytes,
    .slab_size_bytes = config.slab_size_bytes,
    .smoothing = config.smoothing, .hot_slab = config.hot_slab,
    .cold_slab = config.cold_slab, .lanes = config.lanes,
    .write_behind_bytes = config.write_behind_bytes,
    .write_delay_ns = config.write_delay_ns,
    .read_ahead_bytes = config.read_ahead_bytes,
    .deadline_ns = config.deadline_ns, .backing = backing,
    .wake = mapper_wake, .data = mapper,
  };

  device = device_new (&params);
  if (!device)
    nbdkit_error ("cannot start the device: %m");
  return device ? 0 : -1;
}

static int
start_mapper (const struct memory_lock_result *lock)
{
  const struct mapper_params params = {
    .device = device, .donors = config.donors,
    .donors_file = config.donors_file,
    .resolve_interval_ns = config.resolve_interval_ns,
    .fabric = config.fabric,
    .probes = config.probes,
    .max_slabs_per_donor = config.max_slabs_per_donor,
    .state = state, .metrics = metrics, .config = config_in_force,
    .lock = *lock,
  };
  int r = mapper_start (mapper, &params);

  if (r < 0)
    nbdkit_error ("cannot start the control thread: %s", strerror (-r));
  return r;
}

static int
lock_memory (struct memory_lock_result *result)
{
  bool ok = memory_lock (config.lock, true, result);
  char *problem = memory_lock_explain (result);

  if (problem) {
    if (ok)
      log_warning ("%s", problem);
    else
      nbdkit_error ("lock=require: %s", problem);
    g_free (problem);
  }
  return ok ? 0 : -1;
}

/* Each lane has up to four descriptors to each donor. */
static void
raise_descriptor_limit (void)
{
  struct rlimit limit;

  if (getrlimit (RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit (RLIMIT_NOFILE, &limit);
  }
}

static int
isw_after_fork (void)
{
  struct memory_lock_result lock;

  raise_descriptor_limit ();
  /* nbdkit -f has asked the kernel for SIGTERM when its parent ends. */
  if (config.outlive_parent)
    prctl (PR_SET_PDEATHSIG, 0, 0, 0, 0);
  if (lock_memory (&lock) == -1)
    return -1;
  mapper = mapper_new ();
  if (!mapper) {
    nbdkit_error ("cannot create an eventfd: %m");
    return -1;
  }
  return start_device () == -1 || start_mapper (&lock) < 0 ? -1 : 0;
}

/* No request is running any more. */
static void
isw_cleanup (void)
{
  int r = device ? device_stop (device) : 0;

  if (r < 0)
    nbdkit_error ("%s: the local copy is not complete: %s",
                  backing_name (backing), strerror (-r));
  mapper_free (mapper);
  device_free (device);
  mapper = NULL;
  device = NULL;
}

static void
isw_unload (void)
{
  backing_close (backing);
  g_strfreev (config_in_force);
  config_clear (&config);
}

static void *
isw_open (int readonly)
{
  (void) readonly;
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
isw_get_size (void *handle)
{
  (void) handle;
  return config.size_bytes;
}

static int
isw_block_size (void *handle, uint32_t *minimum, uint32_t *preferred,
                uint32_t *maximum)
{
  (void) handle;
  *minimum = 1;
  *preferred = 4096;
  *maximum = 0xffffffff;
  return 0;
}

static int
yes (void *handle)
{
  (void) handle;
  return 1;
}

static int
isw_can_fua (void *handle)
{
  (void) handle;
  return NBDKIT_FUA_NATIVE;
}

/* nbdkit's convention for a result, then the request's FUA. */
static int
finish (int r, uint32_t flags)
{
  if (r == 0 && (flags & NBDKIT_FLAG_FUA))
    r = device_flush (device);
  if (r == 0)
    return 0;
  /* Only these reach the client as they are. */
  nbdkit_set_error (r == -ENOSPC ? ENOSPC : EIO);
  return -1;
}

static int
isw_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
           uint32_t flags)
{
  (void) handle;
  (void) flags;
  return finish (device_read (device, buf, count, offset), 0);
}

static int
isw_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
            uint32_t flags)
{
  (void) handle;
  return finish (device_write (device, buf, count, offset), flags);
}

static int
isw_zero (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) handle;
  return finish (device_zero (device, count, offset), flags);
}

static int
isw_trim (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) handle;
  return finish (device_trim (device, count, offset), flags);
}

static int
isw_flush (void *handle, uint32_t flags)
{
  (void) handle;
  (void) flags;
  return finish (device_flush (device), 0);
}

static struct nbdkit_plugin plugin = {
  .name = "infiniswap",
  .version = ISW_VERSION,
  .longname = "Infiniswap: swap to idle memory of other nodes",
  .description = "A block device whose hot slabs live in the memory of donor "
    "nodes,\nreached by RDMA, with a copy on local disk written behind.",
  .load = isw_load,
  .unload = isw_unload,
  .config = isw_config,
  .config_complete = isw_config_complete,
  .config_help = config_help,
  .get_ready = isw_get_ready,
  .after_fork = isw_after_fork,
  .cleanup = isw_cleanup,
  .open = isw_open,
  .get_size = isw_get_size,
  .block_size = isw_block_size,
  .can_multi_conn = yes,
  .can_write = yes,
  .can_flush = yes,
  .can_trim = yes,
  .can_zero = yes,
  .can_fast_zero = yes,
  .can_fua = isw_can_fua,
  .pread = isw_pread,
  .pwrite = isw_pwrite,
  .zero = isw_zero,
  .trim = isw_trim,
  .flush = isw_flush,
  .errno_is_preserved = 0,
};

NBDKIT_REGISTER_PLUGIN (plugin)
