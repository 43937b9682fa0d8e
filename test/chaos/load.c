/* Random requests through several connections, each with several in
 * flight, checked against a model.  Somebody else (test_chaos.py) runs the
 * donors and makes the trouble.
 *
 * Commands come on standard input, one a line, and each is answered on
 * standard error with "done COMMAND":
 *   open TROUBLE, close TROUBLE   see trouble.h
 *   recover     the disk is well again: bring everything to it, then close
 *               errors and losses
 *   figures     print them
 *   finish      stop, and check the whole device
 *   compare     the server has stopped: check the local copy, and exit
 * What must not be ends the program with "failed: ..." and status 1.
 */

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <glib.h>

#include "test/chaos/client.h"
#include "test/chaos/pattern.h"
#include "test/chaos/trouble.h"

enum {
  CLIENTS_MAX = 16,
  HOT_SLABS = 5, HOT_SECONDS = 3, /* where most happens, and for how long */
  SPOT_PAGES = 24,              /* where it overlaps */
  STEP = 16,                    /* pages, when all is read or written */
  OWN_DEPTH = 8,                /* requests at once, then */
  RETRY_SECONDS = 3,            /* until what had failed was tried again */
};
#define NS_PER_S INT64_C (1000000000)
#define NS_PER_MS INT64_C (1000000)

static struct client_params params;
static struct model *model;
static uint64_t size_bytes, slab_bytes, seed;
static int64_t begin_ns;
static atomic_bool stop, is_paused;

static struct worker {
  pthread_t thread;
  struct client *client;
  unsigned depth;
  uint64_t random;
} workers[CLIENTS_MAX];
static int clients;

/* For what this thread does itself. */
static struct client *own;

/* ---- what to send ---- */

static uint64_t
pick_len (uint64_t *random)
{
  uint64_t x = pattern_below (random, 1000);

  if (x < 550)
    return MODEL_PAGE;
  if (x < 700)
    return 1 + pattern_below (random, MODEL_PAGE);
  if (x < 850)
    return (1 + pattern_below (random, 8)) * MODEL_PAGE;
  if (x < 980)
    return 1 + pattern_below (random, 128 << 10);
  if (x < 998)
    return 1 + pattern_below (random, 1 << 20);
  return 1 + pattern_below (random, REQUEST_MAX);
}

/* A few slabs are hot for a while, the same for all clients; and so are a
 * few pages in each.
 */
static uint64_t
pick_place (uint64_t *random)
{
  uint64_t period =
    (trouble_now_ns () - begin_ns) / (HOT_SECONDS * NS_PER_S);
  uint64_t hot = seed + period * HOT_SLABS + pattern_below (random, HOT_SLABS);
  uint64_t slab = pattern_mix (hot) % (size_bytes / slab_bytes);
  uint64_t x = pattern_below (random, 1000);

  if (x < 5)
    return pattern_below (random, size_bytes);
  if (x < 300)
    return slab * slab_bytes + pattern_below (random, SPOT_PAGES) * MODEL_PAGE;
  return slab * slab_bytes + pattern_below (random, slab_bytes);
}

static enum request_type
pick_type (uint64_t *random)
{
  uint64_t x = pattern_below (random, 1000);

  return x < 460 ? REQUEST_READ : x < 940 ? REQUEST_WRITE :
    x < 965 ? REQUEST_TRIM : x < 995 ? REQUEST_ZERO : REQUEST_FLUSH;
}

static void
send_one (struct worker *w)
{
  enum request_type type = pick_type (&w->random);
  uint64_t len = pick_len (&w->random);
  uint64_t offset = pick_place (&w->random);
  bool odd = len % MODEL_PAGE != 0 || pattern_below (&w->random, 8) == 0;
  bool fua = pattern_below (&w->random, 100) == 0 && type != REQUEST_READ;

  if (!odd)
    offset = offset / MODEL_PAGE * MODEL_PAGE;
  else if (offset % MODEL_PAGE == 0)
    offset += pattern_below (&w->random, MODEL_PAGE);
  if (len > size_bytes - offset)
    len = size_bytes - offset;
  client_send (w->client, type, offset, len,
               pattern_random (&w->random) | 1, fua);
}

/* The model may refuse some: then fewer are in flight for a moment. */
static void *
work (void *data)
{
  struct worker *w = data;

  while (!stop) {
    unsigned depth = is_paused ? 0 : w->depth;

    for (unsigned i = client_in_flight (w->client); i < depth; i++)
      send_one (w);
    client_poll (w->client);
  }
  while (client_in_flight (w->client) > 0)
    client_poll (w->client);
  return NULL;
}

/* ---- commands ---- */

static void
print_figures (void)
{
  struct client_counts n = { .reads = 0 };

  for (int i = 0; i < clients; i++)
    client_add_counts (workers[i].client, &n);
  fprintf (stderr, "figures: %" PRIu64 " reads, %" PRIu64 " writes, %" PRIu64
           " discards, %" PRIu64 " flushes, %" PRIu64 " errors as the disk "
           "failed, %" PRIu64 " pages found on the local copy; the longest "
           "%.2f s, waiting for the disk %.2f s\n",
           n.reads, n.writes, n.discards, n.flushes, n.errors, n.copy_pages,
           n.worst_ns / 1e9, n.worst_disk_ns / 1e9);
}

/* Pages from `at` on that may be on no disk. */
static uint32_t
unflushed_run (uint64_t at)
{
  uint32_t n = 0;

  while (n < STEP && at + n * MODEL_PAGE < size_bytes &&
         model_is_unflushed (model, at + n * MODEL_PAGE, MODEL_PAGE))
    n++;
  return n;
}

static void
send_unflushed (enum request_type type, uint64_t *random)
{
  uint32_t n;

  for (uint64_t at = 0; at < size_bytes; at += (n ? n : 1) * MODEL_PAGE) {
    n = unflushed_run (at);
    while (n > 0 && (client_in_flight (own) == OWN_DEPTH ||
                     !client_send (own, type, at, n * MODEL_PAGE,
                                   pattern_random (random) | 1, false)))
      client_poll (own);
  }
  while (client_in_flight (own) > 0)
    client_poll (own);
}

static bool
flush_within (int64_t ns)
{
  int64_t end_ns = trouble_now_ns () + ns;

  while (!client_do (own, REQUEST_FLUSH, 0, 0, 0)) {
    if (trouble_now_ns () > end_ns)
      return false;
    usleep (100 * 1000);
  }
  return true;
}

/* What the disk refused is tried again soon.  But what donors alone have,
 * and what is lost, stays so until it is written; it is read before that,
 * so that what was right stays proven.  Others wait meanwhile, or there
 * would be no end of it.
 */
static void
recover (void)
{
  uint64_t random = seed;

  if (!flush_within (RETRY_SECONDS * NS_PER_S)) {
    is_paused = true;
    send_unflushed (REQUEST_READ, &random);
    send_unflushed (REQUEST_WRITE, &random);
    is_paused = false;
    if (!flush_within (params.disk_limit_ns))
      client_fail ("the disk is well again, and no flush succeeds");
  }
  trouble_close (TROUBLE_ERRORS);
  trouble_close (TROUBLE_LOSSES);
}

static void
finish (void)
{
  stop = true;
  for (int i = 0; i < clients; i++)
    pthread_join (workers[i].thread, NULL);
  /* A read of what overlapping writes left decides it. */
  for (uint64_t at = 0; at < size_bytes; at += STEP * MODEL_PAGE)
    client_do (own, REQUEST_READ, at,
               MIN (STEP * MODEL_PAGE, size_bytes - at), 0);
  print_figures ();
  for (int i = 0; i < clients; i++)
    client_free (workers[i].client);
  client_free (own);
}

static void
compare (void)
{
  const unsigned char *want = model_content (model);
  char *got;
  gsize len;
  GError *error = NULL;

  if (!g_file_get_contents (params.copy, &got, &len, &error))
    client_fail ("%s", error->message);
  if (len < size_bytes)
    client_fail ("%s has only %zu bytes", params.copy, len);
  for (uint64_t i = 0; i < size_bytes; i++)
    if ((unsigned char) got[i] != want[i])
      client_fail ("wrong: the local copy, when all has stopped: page %"
                   PRIu64 ", byte %" PRIu64, i / MODEL_PAGE, i % MODEL_PAGE);
  g_free (got);
}

static void
run_command (const char *line)
{
  enum trouble t;

  if (strncmp (line, "open ", 5) == 0 && trouble_parse (line + 5, &t))
    trouble_open (t);
  else if (strncmp (line, "close ", 6) == 0 && trouble_parse (line + 6, &t))
    trouble_close (t);
  else if (strcmp (line, "recover") == 0)
    recover ();
  else if (strcmp (line, "figures") == 0)
    print_figures ();
  else if (strcmp (line, "finish") == 0)
    finish ();
  else if (strcmp (line, "compare") == 0)
    compare ();
  else
    client_fail ("unknown command: %s", line);
  fprintf (stderr, "done %s\n", line);
}

/* ---- start ---- */

static uint64_t
number (const char *text)
{
  uint64_t n;

  if (!g_ascii_string_to_unsigned (text, 10, 0, G_MAXINT64, &n, NULL))
    client_fail ("not a number: %s", text);
  return n;
}

static void
start (void)
{
  static const unsigned depths[] = { 1, 2, 4, 8, CLIENT_DEPTH_MAX };

  begin_ns = trouble_now_ns ();
  own = client_new (&params);
  for (int i = 0; i < clients; i++) {
    struct worker *w = &workers[i];

    w->random = pattern_mix (seed + i + 1);
    w->depth = depths[i % G_N_ELEMENTS (depths)];
    w->client = client_new (&params);
    if (pthread_create (&w->thread, NULL, work, w) != 0)
      client_fail ("cannot start a thread");
  }
}

int
main (int argc, char **argv)
{
  char line[100];

  if (argc != 9) {
    fprintf (stderr, "Usage: load URI LOCAL-COPY SIZE SLAB-SIZE SEED CLIENTS "
             "LIMIT-MS DISK-LIMIT-MS\n");
    return 2;
  }
  size_bytes = number (argv[3]);
  slab_bytes = number (argv[4]);
  seed = number (argv[5]);
  clients = MIN (number (argv[6]), CLIENTS_MAX);
  model = model_new (size_bytes);
  params = (struct client_params) {
    .uri = argv[1], .copy = argv[2], .model = model,
    .limit_ns = number (argv[7]) * NS_PER_MS,
    .disk_limit_ns = number (argv[8]) * NS_PER_MS,
  };
  start ();
  while (fgets (line, sizeof line, stdin)) {
    line[strcspn (line, "\n")] = 0;
    run_command (line);
  }
  model_free (model);
  return 0;
}
