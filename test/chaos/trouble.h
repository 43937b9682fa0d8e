/* What goes wrong at present with the disk and the donors, as far as a
 * request may notice.
 *
 * A trouble is announced before it begins and ends after it has ended, so
 * that a request that it could have met finds it open, or closed after the
 * request had begun.
 */

#ifndef CHAOS_TROUBLE_H
#define CHAOS_TROUBLE_H

#include <stdbool.h>
#include <stdint.h>

enum trouble {
  TROUBLE_SLOW,                 /* the disk is slow */
  TROUBLE_ERRORS,               /* it fails writes and flushes, and what it
                                   refused is not yet on it */
  TROUBLE_READ_ERRORS,          /* it fails reads */
  TROUBLE_LOSSES,               /* donors may have been lost meanwhile */
  TROUBLES
};

/* By its name in commands: true if there is such a trouble. */
bool trouble_parse (const char *name, enum trouble *ret);

void trouble_open (enum trouble t);
void trouble_close (enum trouble t);

/* Could a request that began then, and ends now, have met it? */
bool trouble_met (enum trouble t, int64_t start_ns);

int64_t trouble_now_ns (void);

#endif /* CHAOS_TROUBLE_H */
