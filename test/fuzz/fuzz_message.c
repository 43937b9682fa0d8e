/* Decode hostile bytes: control messages and prefaces.
 *
 *   fuzz_message [-n ROUNDS]   changed messages; SEED in the environment
 *                              repeats a run
 *   fuzz_message FILE...       the content of files; - is stdin
 *
 * Built with -DFUZZ_ENGINE it has no main, for an engine that calls
 * LLVMFuzzerTestOneInput (clang -fsanitize=fuzzer).
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fabric/fabric.h"
#include "fabric/message.h"
#include "fabric/preface.h"

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t len);

static void
check (int good, const char *what)
{
  if (!good) {
    fprintf (stderr, "fuzz_message: %s\n", what);
    abort ();
  }
}

/* What decodes must encode to the same bytes, but for a reason, whose
 * unprintable bytes are replaced.
 */
static void
try_message (const uint8_t *data, size_t len)
{
  uint8_t again[FABRIC_MESSAGE_MAX];
  struct message m;

  if (message_decode (data, len, &m) != 0)
    return;
  check (message_encode (&m, again, sizeof again) == (int) len,
         "encodes to another length");
  if (m.type == MESSAGE_REFUSED)
    check (memchr (m.refused.reason, 0, sizeof m.refused.reason) != NULL,
           "a reason does not end");
  else
    check (memcmp (data, again, len) == 0, "encodes to other bytes");
  check (strcmp (message_name (m.type), "?") != 0, "has no name");
}

static void
try_preface (const uint8_t *data, size_t len)
{
  struct fabric_preface p;
  struct wire_preface again;

  if (preface_decode (data, len, &p) != 0)
    return;
  preface_encode (&p, &again);
  check (memcmp (data, &again, sizeof again) == 0,
         "a preface encodes to other bytes");
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t len)
{
  try_message (data, len);
  try_preface (data, len);
  return 0;
}

#ifndef FUZZ_ENGINE

static uint64_t state;

/* xorshift64* */
static uint64_t
next_random (void)
{
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * UINT64_C (0x2545f4914f6cdd1d) >> 16;
}

/* A valid message, the seed of a mutation. */
static size_t
make_message (uint8_t buf[FABRIC_MESSAGE_MAX])
{
  struct message m;
  int len;

  for (size_t i = 0; i < sizeof m; i++)
    ((uint8_t *) &m)[i] = next_random ();
  m.type = MESSAGE_HELLO + next_random () % MESSAGE_PONG;
  if (m.type == MESSAGE_ACTIVITY)
    m.activity.count %= MESSAGE_GRANTS_MAX + 1;
  else if (m.type == MESSAGE_EVICT || m.type == MESSAGE_CHECK_ACTIVITY)
    m.grants.count %= MESSAGE_GRANTS_MAX + 1;
  len = message_encode (&m, buf, FABRIC_MESSAGE_MAX);
  check (len > 0, "a valid message does not encode");
  return len;
}

static size_t
make_preface (uint8_t buf[FABRIC_MESSAGE_MAX])
{
  const struct fabric_preface p = {
    .kind = FABRIC_CONTROL + next_random () % 2,
    .session = next_random (),
    .token = next_random (),
  };
  struct wire_preface w;

  preface_encode (&p, &w);
  memcpy (buf, &w, sizeof w);
  return sizeof w;
}

static void
try_mutation (void)
{
  uint8_t buf[FABRIC_MESSAGE_MAX], *exact;
  size_t len = next_random () % 8 ? make_message (buf) : make_preface (buf);

  for (unsigned n = next_random () % 4; n > 0; n--)
    buf[next_random () % (next_random () % 2 ? 24 : len)] = next_random ();
  if (next_random () % 4 == 0)
    len = next_random () % (len + 1);

  /* Memory of just this length, so that a sanitizer sees its end. */
  exact = malloc (len);
  check (len == 0 || exact != NULL, "out of memory");
  if (len > 0)
    memcpy (exact, buf, len);
  LLVMFuzzerTestOneInput (exact, len);
  free (exact);
}

static int
try_file (const char *path)
{
  uint8_t buf[4 * FABRIC_MESSAGE_MAX];
  FILE *f = strcmp (path, "-") == 0 ? stdin : fopen (path, "rb");
  size_t len;

  if (!f) {
    perror (path);
    return EXIT_FAILURE;
  }
  len = fread (buf, 1, sizeof buf, f);
  if (f != stdin)
    fclose (f);
  LLVMFuzzerTestOneInput (buf, len);
  return EXIT_SUCCESS;
}

int
main (int argc, char *argv[])
{
  const char *seed = getenv ("SEED");
  unsigned long rounds = 1000000;
  int status = EXIT_SUCCESS;

  if (argc > 1 && strcmp (argv[1], "-n") != 0) {
    for (int i = 1; i < argc; i++)
      if (try_file (argv[i]) != EXIT_SUCCESS)
        status = EXIT_FAILURE;
    return status;
  }

  if (argc > 2)
    rounds = strtoul (argv[2], NULL, 10);
  state = seed ? strtoull (seed, NULL, 0) : (uint64_t) time (NULL);
  state += state == 0;
  printf ("fuzz_message: %lu rounds, SEED=%llu\n", rounds,
          (unsigned long long) state);
  fflush (stdout);
  while (rounds-- > 0)
    try_mutation ();
  return status;
}

#endif /* FUZZ_ENGINE */
