#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <glib.h>

#include "ctl/terminal.h"

/* What every terminal of these days does (ECMA-48, and xterm's alternate
 * screen).
 */
static const char enter[] = "\033[?1049h\033[?25l\033[2J";
static const char leave[] = "\033[?25h\033[?1049l";
static const char home[] = "\033[H";
static const char clear_line[] = "\033[K";
static const char clear_below[] = "\033[J";

struct terminal {
  struct termios before;
  unsigned first;               /* line of the text at the top */
  unsigned page;                /* lines that are shown of it */
};

bool
terminal_available (void)
{
  const char *kind = getenv ("TERM");

  return isatty (STDIN_FILENO) && isatty (STDOUT_FILENO) && kind != NULL
    && strcmp (kind, "dumb") != 0 && kind[0] != '\0';
}

static void
write_all (const char *text, size_t len)
{
  while (len > 0) {
    ssize_t n = write (STDOUT_FILENO, text, len);

    if (n < 0 && errno != EINTR)
      return;                   /* reading it will fail as well */
    if (n > 0) {
      text += n;
      len -= n;
    }
  }
}

/* Whatever ends the program must not leave it without a cursor and echo.
 * SIGINT, SIGTERM and SIGHUP are the caller's.
 */
static const int deadly[] = {
  SIGQUIT, SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGPIPE, SIGUSR1, SIGUSR2
};

static struct termios modes_before; /* for the handler; set before it is */

static void
restore_and_die (int number)
{
  write_all (leave, strlen (leave));
  tcsetattr (STDIN_FILENO, TCSANOW, &modes_before);
  raise (number);               /* which is the default's now */
}

static void
catch_deadly (void (*handler) (int))
{
  const struct sigaction action = {
    .sa_handler = handler,
    .sa_flags = SA_RESETHAND | SA_NODEFER,
  };

  for (size_t i = 0; i < G_N_ELEMENTS (deadly); i++)
    sigaction (deadly[i], &action, NULL);
}

void
terminal_enter (struct terminal *t)
{
  struct termios raw = t->before;

  raw.c_lflag &= ~(ICANON | ECHO);
  /* Ctrl-Z comes as a key, so that the terminal is put in order first. */
  raw.c_cc[VSUSP] = _POSIX_VDISABLE;
  raw.c_cc[VMIN] = 1;
  raw.c_cc[VTIME] = 0;
  modes_before = t->before;
  catch_deadly (restore_and_die);
  tcsetattr (STDIN_FILENO, TCSAFLUSH, &raw);
  write_all (enter, strlen (enter));
}

void
terminal_leave (struct terminal *t)
{
  write_all (leave, strlen (leave));
  tcsetattr (STDIN_FILENO, TCSAFLUSH, &t->before);
  catch_deadly (SIG_DFL);
}

struct terminal *
terminal_open (void)
{
  struct terminal *t = g_new0 (struct terminal, 1);

  if (tcgetattr (STDIN_FILENO, &t->before) < 0) {
    g_free (t);
    return NULL;
  }
  terminal_enter (t);
  return t;
}

void
terminal_close (struct terminal *t)
{
  terminal_leave (t);
  g_free (t);
}

static void
get_size (unsigned *lines, unsigned *columns)
{
  struct winsize size;

  *lines = 24;
  *columns = 80;
  if (ioctl (STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 &&
      size.ws_col > 0) {
    *lines = size.ws_row;
    *columns = size.ws_col;
  }
}

size_t
terminal_clip (const char *line, size_t len, unsigned columns)
{
  const char *c = line;
  unsigned used = 0;

  while (c < line + len) {
    gunichar u = g_utf8_get_char (c);

    used += g_unichar_iszerowidth (u) ? 0 : g_unichar_iswide (u) ? 2 : 1;
    if (used > columns)
      break;
    c = g_utf8_next_char (c);
  }
  return MIN (c, line + len) - line;
}

static void
append_line (GString *out, const char *line, size_t len, unsigned columns)
{
  g_string_append_len (out, line, terminal_clip (line, len, columns));
  g_string_append (out, clear_line);
}

static unsigned
count_lines (const char *text)
{
  unsigned n = 0;

  for (; *text != '\0'; text++)
    n += *text == '\n';
  return n;
}

void
terminal_draw (struct terminal *t, const char *title, const char *text)
{
  g_autoptr (GString) out = g_string_new (home);
  unsigned lines, columns, all = count_lines (text);

  get_size (&lines, &columns);
  t->page = lines - 1;
  t->first = MIN (t->first, all > t->page ? all - t->page : 0);
  for (unsigned i = 0; i < t->first; i++)
    text = strchr (text, '\n') + 1;
  append_line (out, title, strlen (title), columns);
  for (unsigned i = 0; i < t->page && *text != '\0'; i++) {
    size_t len = strcspn (text, "\n");

    g_string_append (out, "\r\n");
    append_line (out, text, len, columns);
    text += len + (text[len] == '\n');
  }
  g_string_append (out, clear_below);
  write_all (out->str, out->len);
}

static void
scroll (struct terminal *t, int by)
{
  t->first = by < 0 && t->first < (unsigned) -by ? 0 : t->first + by;
}

/* How many bytes of s are a key; what it means into *ret, -1: nothing. */
static size_t
parse_key (struct terminal *t, const char *s, size_t len, int *ret)
{
  static const struct { const char *code; int lines, pages; } moves[] = {
    { "\033[A", -1, 0 }, { "\033OA", -1, 0 }, { "k", -1, 0 },
    { "\033[B", 1, 0 }, { "\033OB", 1, 0 }, { "j", 1, 0 },
    { "\033[5~", 0, -1 }, { "\033[6~", 0, 1 },
  };

  *ret = -1;
  for (size_t i = 0; i < G_N_ELEMENTS (moves); i++) {
    size_t n = strlen (moves[i].code);

    if (n <= len && memcmp (s, moves[i].code, n) == 0) {
      scroll (t, moves[i].lines + moves[i].pages * (int) t->page);
      *ret = TERMINAL_SCROLLED;
      return n;
    }
  }
  if (s[0] == 'q' || s[0] == 'Q')
    *ret = TERMINAL_QUIT;
  else if (s[0] == ' ')
    *ret = TERMINAL_NOW;
  else if (s[0] == 'Z' - '@')
    *ret = TERMINAL_STOP;
  return 1;
}

size_t
terminal_read (struct terminal *t, enum terminal_key keys[16])
{
  char buf[16];
  ssize_t len = read (STDIN_FILENO, buf, sizeof buf);
  size_t n = 0;
  int key;

  if (len < 0 && (errno == EINTR || errno == EAGAIN))
    return 0;
  if (len <= 0) {
    keys[0] = TERMINAL_QUIT;
    return 1;
  }
  for (ssize_t at = 0; at < len; ) {
    at += parse_key (t, buf + at, len - at, &key);
    if (key >= 0)
      keys[n++] = key;
  }
  return n;
}
