#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <glib.h>

#include "conf/memory_lock.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

static const char *const names[] = {
  [MEMORY_LOCK_NO] = "no",
  [MEMORY_LOCK_TRY] = "try",
  [MEMORY_LOCK_REQUIRE] = "require",
};

int
memory_lock_parse (const char *text, enum memory_lock_mode *ret)
{
  for (size_t i = 0; i < G_N_ELEMENTS (names); i++)
    if (strcmp (text, names[i]) == 0) {
      *ret = i;
      return 0;
    }
  return -EINVAL;
}

const char *
memory_lock_mode_name (enum memory_lock_mode mode)
{
  return names[mode];
}

/* The soft limit may be below what this user is allowed anyway. */
static void
raise_limit (void)
{
  struct rlimit limit;

  if (getrlimit (RLIMIT_MEMLOCK, &limit) == 0 &&
      limit.rlim_cur != limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    (void) setrlimit (RLIMIT_MEMLOCK, &limit);
  }
}

bool
memory_lock (enum memory_lock_mode mode, bool io_flusher,
             struct memory_lock_result *ret)
{
  *ret = (struct memory_lock_result) { .mode = mode };
  if (mode == MEMORY_LOCK_NO)
    return true;

  raise_limit ();
  if (mlockall (MCL_CURRENT | MCL_FUTURE) == -1)
    ret->mlock_error = -errno;
  if (io_flusher && prctl (PR_SET_IO_FLUSHER, 1, 0, 0, 0) == -1)
    ret->flusher_error = -errno;
  return mode != MEMORY_LOCK_REQUIRE ||
    (ret->mlock_error == 0 && ret->flusher_error == 0);
}

char *
memory_lock_explain (const struct memory_lock_result *r)
{
  GString *text;

  if (r->mlock_error == 0 && r->flusher_error == 0)
    return NULL;
  text = g_string_new (NULL);
  if (r->mlock_error != 0)
    g_string_append_printf (text, "cannot lock memory: %s (raise "
                            "RLIMIT_MEMLOCK, ulimit -l, or give "
                            "CAP_IPC_LOCK)", g_strerror (-r->mlock_error));
  if (r->flusher_error != 0)
    g_string_append_printf (text, "%scannot set PR_SET_IO_FLUSHER: %s "
                            "(%s)", text->len > 0 ? "; " : "",
                            g_strerror (-r->flusher_error),
                            r->flusher_error == -EINVAL ?
                            "it needs Linux 5.6" : "give CAP_SYS_RESOURCE");
  return g_string_free (text, FALSE);
}

unsigned long long
memory_locked_bytes (void)
{
  unsigned long long kib = 0;
  char line[256];
  FILE *f = fopen ("/proc/self/status", "re");

  if (f == NULL)
    return 0;
  while (fgets (line, sizeof line, f) != NULL)
    if (sscanf (line, "VmLck: %llu kB", &kib) == 1)
      break;
  fclose (f);
  return kib * 1024;
}
