/* A page of text that stays in the terminal and changes.
 *
 * Everything here is for one thread.  What the terminal showed before is
 * back after terminal_close, and its modes are; also where a signal ends the
 * program.  SIGINT, SIGTERM and SIGHUP are left to the caller.
 */

#ifndef ISW_CTL_TERMINAL_H
#define ISW_CTL_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

struct terminal;

enum terminal_key {
  TERMINAL_QUIT,                /* q, or the terminal is gone */
  TERMINAL_NOW,                 /* space */
  TERMINAL_STOP,                /* ctrl-Z */
  TERMINAL_SCROLLED,            /* what is shown has changed: draw */
};

/* Is there one that can do all this, on standard input and output? */
bool terminal_available (void);

/* Take it over.  NULL with errno. */
struct terminal *terminal_open (void);
void terminal_close (struct terminal *t);

/* As terminal_close and terminal_open, to be stopped between them. */
void terminal_leave (struct terminal *t);
void terminal_enter (struct terminal *t);

/* Show lines, as many and as much of each as there is room for: the title
 * stays at the top, the text below scrolls.  In one write, so that nothing
 * flickers.
 */
void terminal_draw (struct terminal *t, const char *title, const char *text);

/* When standard input is readable: up to 16 keys that mean something into
 * keys; how many.
 */
size_t terminal_read (struct terminal *t, enum terminal_key keys[16]);

/* The beginning of a line of printable UTF-8 that takes at most so many
 * columns: its length in bytes.
 */
size_t terminal_clip (const char *line, size_t len, unsigned columns);

#endif /* ISW_CTL_TERMINAL_H */
