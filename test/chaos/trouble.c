#include "test/chaos/trouble.h"

#include <stdatomic.h>
#include <string.h>
#include <time.h>

static struct {
  atomic_bool is_open;
  _Atomic int64_t closed_ns;
} troubles[TROUBLES];

bool
trouble_parse (const char *name, enum trouble *ret)
{
  static const char *const names[] = {
    [TROUBLE_SLOW] = "slow", [TROUBLE_ERRORS] = "errors",
    [TROUBLE_READ_ERRORS] = "read-errors", [TROUBLE_LOSSES] = "losses",
  };

  for (int i = 0; i < TROUBLES; i++)
    if (strcmp (name, names[i]) == 0) {
      *ret = i;
      return true;
    }
  return false;
}

void
trouble_open (enum trouble t)
{
  troubles[t].is_open = true;
}

void
trouble_close (enum trouble t)
{
  if (!troubles[t].is_open)
    return;
  troubles[t].closed_ns = trouble_now_ns ();
  troubles[t].is_open = false;
}

bool
trouble_met (enum trouble t, int64_t start_ns)
{
  return troubles[t].is_open || start_ns <= troubles[t].closed_ns;
}

int64_t
trouble_now_ns (void)
{
  struct timespec t;

  clock_gettime (CLOCK_MONOTONIC, &t);
  return t.tv_sec * INT64_C (1000000000) + t.tv_nsec;
}
