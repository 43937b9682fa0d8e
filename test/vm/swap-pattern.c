/* Fills anonymous memory with a pattern and checks it, over and over: run where
 * memory is short, it proves that what was swapped out comes back unchanged.
 * The pattern is computed from the seed, the round, and the position, so a page
 * that is lost, stale, or another one is noticed, and nothing has to be kept to
 * compare with.
 */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / sizeof (uint64_t))
#define SHOW 10                 /* wrong pages named on stderr */

struct options {
  uint64_t size, seed, rounds;
  const char *pause_file, *stop_file;
  bool plant;
};

struct memory {
  uint64_t (*page)[WORDS];
  uint64_t pages, seed;
};

static const char usage[] =
  "Usage: swap-pattern [OPTION...]\n"
  "Fills memory with a pattern and checks it, in turn sequentially (odd\n"
  "rounds) and in random order (even rounds).\n"
  "\n"
  "  --size SIZE        memory to use, with suffix K, M or G      [256M]\n"
  "  --seed N           of the pattern and of the order           [1]\n"
  "  --rounds N                                                   [2]\n"
  "  --pause-file FILE  in round 1, wait half through checking until\n"
  "                     FILE exists\n"
  "  --stop-file FILE   begin no further round once FILE exists\n"
  "  --plant            corrupt one byte before the last check, to see\n"
  "                     that it is found\n"
  "\n"
  "Prints 'round N writing half' and 'round N checking half' on stdout when\n"
  "it is there, progress on stderr, and last 'wrong bytes: N' on stdout.\n"
  "Exit status: 0 all right, 1 wrong bytes, 2 any other error.\n";

static void __attribute__ ((noreturn, format (printf, 1, 2)))
die (const char *format, ...)
{
  va_list args;

  fputs ("swap-pattern: ", stderr);
  va_start (args, format);
  vfprintf (stderr, format, args);
  va_end (args);
  fputc ('\n', stderr);
  exit (2);
}

/* A bijection of 64-bit words that leaves no bit as it was (splitmix64). */
static uint64_t
mix (uint64_t x)
{
  x = (x ^ x >> 30) * UINT64_C (0xbf58476d1ce4e5b9);
  x = (x ^ x >> 27) * UINT64_C (0x94d049bb133111eb);
  return x ^ x >> 31;
}

static uint64_t
page_key (const struct memory *m, uint64_t round, uint64_t page)
{
  return mix (mix (m->seed + round) + page);
}

static uint64_t
word (uint64_t key, size_t i)
{
  return mix (key + i * UINT64_C (0x9e3779b97f4a7c15));
}

/* The page at place i of a round: i itself in odd rounds; in even ones a
 * permutation, by steps that are each one of the next power of two.  A result
 * beyond the last page is permuted again, which ends because i is on the same
 * cycle.
 */
static uint64_t
page_at (const struct memory *m, uint64_t round, uint64_t i)
{
  unsigned bits = 1;
  uint64_t mask;

  if (round % 2 == 1)
    return i;
  while (m->pages >> bits)
    bits++;
  mask = (UINT64_C (1) << bits) - 1;
  do {
    i = (i + mix (m->seed ^ round)) & mask;
    i = (i * UINT64_C (0x9e3779b97f4a7c15)) & mask;
    i ^= i >> (bits + 1) / 2;
    i = (i * UINT64_C (0xbf58476d1ce4e5b9)) & mask;
    i ^= i >> (bits + 1) / 2;
  } while (i >= m->pages);
  return i;
}

static void
write_page (struct memory *m, uint64_t round, uint64_t page)
{
  uint64_t key = page_key (m, round, page);

  for (size_t i = 0; i < WORDS; i++)
    m->page[page][i] = word (key, i);
}

/* Returns the number of wrong bytes. */
static unsigned
check_page (struct memory *m, uint64_t round, uint64_t page)
{
  uint64_t key = page_key (m, round, page);
  unsigned wrong = 0;

  for (size_t i = 0; i < WORDS; i++)
    for (uint64_t diff = m->page[page][i] ^ word (key, i); diff; diff >>= 8)
      wrong += (diff & 0xff) != 0;
  return wrong;
}

static bool
exists (const char *name)
{
  return access (name, F_OK) == 0;
}

static void
wait_for_file (const char *name)
{
  const struct timespec moment = { .tv_nsec = 50 * 1000 * 1000 };

  while (!exists (name))
    nanosleep (&moment, NULL);
}

/* Tells how far it is: every tenth on stderr, half on stdout. */
static void
progress (const struct memory *m, uint64_t round, const char *what, uint64_t i)
{
  uint64_t tenth = i * 10 / m->pages;

  if (i > 0 && tenth != (i - 1) * 10 / m->pages)
    fprintf (stderr, "swap-pattern: round %" PRIu64 " %s %" PRIu64 "0%%\n",
             round, what, tenth);
  if (i == m->pages / 2) {
    printf ("round %" PRIu64 " %s half\n", round, what);
    fflush (stdout);
  }
}

static uint64_t
check (struct memory *m, uint64_t round, const char *pause_file)
{
  uint64_t wrong = 0, wrong_pages = 0;

  for (uint64_t i = 0; i < m->pages; i++) {
    uint64_t page = page_at (m, round, i);
    unsigned n;

    progress (m, round, "checking", i);
    if (pause_file && i == m->pages / 2)
      wait_for_file (pause_file);
    n = check_page (m, round, page);
    if (n == 0)
      continue;
    wrong += n;
    if (wrong_pages++ < SHOW)
      fprintf (stderr, "swap-pattern: round %" PRIu64 ": page %" PRIu64
               " has %u wrong bytes\n", round, page, n);
  }
  return wrong;
}

static uint64_t
run (struct memory *m, const struct options *o)
{
  uint64_t wrong = 0;

  for (uint64_t round = 1; round <= o->rounds; round++) {
    if (o->stop_file && exists (o->stop_file))
      break;
    for (uint64_t i = 0; i < m->pages; i++) {
      progress (m, round, "writing", i);
      write_page (m, round, page_at (m, round, i));
    }
    if (o->plant && round == o->rounds)
      ((char *) m->page[mix (m->seed) % m->pages])[m->seed % PAGE] ^= 1;
    wrong += check (m, round, round == 1 ? o->pause_file : NULL);
  }
  return wrong;
}

static uint64_t
parse (const char *option, const char *text, bool suffix)
{
  static const char suffixes[] = "KMG";
  const char *s;
  char *end;
  uint64_t n;
  unsigned shift = 0;

  errno = 0;
  n = strtoull (text, &end, 10);
  if (suffix && *end && (s = strchr (suffixes, *end)) != NULL) {
    shift = 10 * (s - suffixes + 1);
    end++;
  }
  if (errno || *text < '0' || *text > '9' || *end || n > UINT64_MAX >> shift)
    die ("--%s: not a %s: %s", option, suffix ? "size" : "number", text);
  return n << shift;
}

static void
parse_options (struct options *o, int argc, char *argv[])
{
  static const struct option known[] = {
    { "size", required_argument, NULL, 's' },
    { "seed", required_argument, NULL, 'S' },
    { "rounds", required_argument, NULL, 'r' },
    { "pause-file", required_argument, NULL, 'p' },
    { "stop-file", required_argument, NULL, 'e' },
    { "plant", no_argument, NULL, 'P' },
    { "help", no_argument, NULL, 'h' },
    { 0 }
  };
  int c;

  while ((c = getopt_long (argc, argv, "", known, NULL)) != -1)
    switch (c) {
    case 's': o->size = parse ("size", optarg, true); break;
    case 'S': o->seed = parse ("seed", optarg, false); break;
    case 'r': o->rounds = parse ("rounds", optarg, false); break;
    case 'p': o->pause_file = optarg; break;
    case 'e': o->stop_file = optarg; break;
    case 'P': o->plant = true; break;
    case 'h': fputs (usage, stdout); exit (0);
    default: exit (2);
    }
  if (optind < argc)
    die ("unexpected argument: %s", argv[optind]);
  if (o->size < 2 * PAGE || o->size % PAGE || o->size > SIZE_MAX / 2)
    die ("--size: must be a multiple of %d and at least two pages", PAGE);
  if (o->rounds < 1)
    die ("--rounds: must be at least 1");
}

int
main (int argc, char *argv[])
{
  struct options o = { .size = 256 << 20, .seed = 1, .rounds = 2 };
  struct memory m;
  uint64_t wrong;

  parse_options (&o, argc, argv);
  m.pages = o.size / PAGE;
  m.seed = o.seed;
  m.page = mmap (NULL, o.size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (m.page == MAP_FAILED)
    die ("mmap: %s", strerror (errno));
  fprintf (stderr, "swap-pattern: %" PRIu64 " pages, seed %" PRIu64
           ", %" PRIu64 " rounds\n", m.pages, o.seed, o.rounds);

  wrong = run (&m, &o);
  printf ("wrong bytes: %" PRIu64 "\n", wrong);
  return wrong != 0;
}
