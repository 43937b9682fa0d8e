/* Allocates memory step by step, holds it, and ends: a program whose need
 * grows on a node that lends memory.  Each step is touched at once, so that
 * the time it takes tells how long the node had none to give.
 */

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "conf/units.h"

#define NS_PER_S INT64_C (1000000000)
#define PAGE 4096

static const char usage[] =
  "Usage: hog SIZE STEP EVERY HOLD\n"
  "Allocates and touches STEP bytes EVERY so often, as often as they fit\n"
  "into SIZE, holds all for the time HOLD, and ends.  As in:\n"
  "  hog 512M 64M 250ms 8s\n"
  "Prints 'begins', 'N bytes in N ms, slowest step N ms', and 'ends'.\n";

static int64_t
now_ns (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static void
sleep_until (int64_t ns)
{
  const struct timespec until = { ns / NS_PER_S, ns % NS_PER_S };

  while (clock_nanosleep (CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
    ;
}

/* Returns how long it took. */
static int64_t
allocate (uint64_t size)
{
  const int64_t began_ns = now_ns ();
  volatile char *memory = mmap (NULL, size, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  if (memory == MAP_FAILED) {
    perror ("hog: mmap");
    exit (2);
  }
  for (uint64_t i = 0; i < size; i += PAGE)
    memory[i] = 1;
  return now_ns () - began_ns;
}

int
main (int argc, char *argv[])
{
  uint64_t size, step, allocated = 0;
  int64_t every_ns, hold_ns, began_ns, slowest_ns = 0, took_ns;

  if (argc != 5 || units_parse_size (argv[1], &size) < 0
      || units_parse_size (argv[2], &step) < 0 || step == 0
      || units_parse_duration (argv[3], &every_ns) < 0
      || units_parse_duration (argv[4], &hold_ns) < 0) {
    fputs (usage, stderr);
    return 2;
  }
  setvbuf (stdout, NULL, _IOLBF, 0);
  puts ("begins");
  began_ns = now_ns ();
  while (allocated + step <= size) {
    sleep_until (began_ns + (int64_t) (allocated / step) * every_ns);
    took_ns = allocate (step);
    if (took_ns > slowest_ns)
      slowest_ns = took_ns;
    allocated += step;
  }
  printf ("%" PRIu64 " bytes in %" PRId64 " ms, slowest step %" PRId64
          " ms\n", allocated, (now_ns () - began_ns) / 1000000,
          slowest_ns / 1000000);
  sleep_until (now_ns () + hold_ns);
  puts ("ends");
  return 0;
}
