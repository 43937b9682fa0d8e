/* Writes down, five times a second, what memory a node has and what its
 * donor does with it.  One process for all samples, locked in memory, since
 * it watches a machine that runs out of memory and is slow to start others.
 */

#include <errno.h>
#include <inttypes.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "conf/state_socket.h"

#define NS_PER_S INT64_C (1000000000)
#define EVERY_NS (NS_PER_S / 5)

static const char usage[] =
  "Usage: donor-sampler STATE-SOCKET\n"
  "Prints a line of columns, their names first.  The time is in ms; the\n"
  "memory in MiB: MemAvailable as the kernel tells it, all else as the\n"
  "donor does.  Ends when the donor does not answer.\n";

/* A column: a number of the donor's status. */
static const struct column {
  const char *object, *member, *name;
  double unit;
} columns[] = {
  { "memory", "total_bytes", "total", 1 << 20 },
  { "memory", "used_by_others_bytes", "used", 1 << 20 },
  { "memory", "limit_bytes", "limit", 1 << 20 },
  { "memory", "held_bytes", "held", 1 << 20 },
  { "memory", "lent_bytes", "lent", 1 << 20 },
  { "memory", "headroom_bytes", "headroom", 1 << 20 },
  { "memory", "pressure_events", "stalls", 1 },
  { "slabs", "ready", "ready", 1 },
  { "slabs", "lent", "slabs", 1 },
  { "counters", "evictions_asked", "asked", 1 },
  { "counters", "evictions_done", "done", 1 },
  { "counters", "evictions_unanswered", "unanswered", 1 },
};

static int64_t
now_ns (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return now.tv_sec * NS_PER_S + now.tv_nsec;
}

static double
available_mib (void)
{
  char line[256];
  uint64_t kb;
  FILE *f = fopen ("/proc/meminfo", "re");

  while (f && fgets (line, sizeof line, f))
    if (sscanf (line, "MemAvailable: %" SCNu64, &kb) == 1) {
      fclose (f);
      return kb / 1024.0;
    }
  fprintf (stderr, "donor-sampler: no MemAvailable in /proc/meminfo\n");
  exit (2);
}

static void
print_names (void)
{
  printf ("time\tavailable");
  for (size_t i = 0; i < G_N_ELEMENTS (columns); i++)
    printf ("\t%s", columns[i].name);
  putchar ('\n');
}

/* False once the donor does not answer. */
static bool
sample (const char *state, int64_t began_ns)
{
  const int64_t time_ns = now_ns () - began_ns;
  const double available = available_mib ();
  g_autofree char *error = NULL;
  JsonNode *answer = state_socket_ask (state, "status", 20 * NS_PER_S,
                                       &error);
  JsonObject *status;

  if (answer == NULL) {
    fprintf (stderr, "donor-sampler: %s\n", error);
    return false;
  }
  status = json_node_get_object (answer);
  printf ("%" PRId64 "\t%.1f", time_ns / 1000000, available);
  for (size_t i = 0; i < G_N_ELEMENTS (columns); i++) {
    const struct column *c = &columns[i];
    JsonObject *o = json_object_get_object_member (status, c->object);

    printf ("\t%.10g", json_object_get_int_member (o, c->member) / c->unit);
  }
  putchar ('\n');
  json_node_unref (answer);
  return true;
}

int
main (int argc, char *argv[])
{
  const int64_t began_ns = now_ns ();
  int64_t next_ns = began_ns;

  if (argc != 2) {
    fputs (usage, stderr);
    return 2;
  }
  if (mlockall (MCL_CURRENT | MCL_FUTURE) == -1)
    fprintf (stderr, "donor-sampler: mlockall: %s\n", strerror (errno));
  setvbuf (stdout, NULL, _IOLBF, 0);
  print_names ();
  while (sample (argv[1], began_ns)) {
    struct timespec until;

    next_ns = MAX (next_ns + EVERY_NS, now_ns ());
    until = (struct timespec) { next_ns / NS_PER_S, next_ns % NS_PER_S };
    clock_nanosleep (CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
  }
  return 1;
}
