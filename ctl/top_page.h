/* What infiniswapctl top shows, as text. */

#ifndef ISW_CTL_TOP_PAGE_H
#define ISW_CTL_TOP_PAGE_H

#include <stddef.h>

#include "ctl/rates.h"

struct top_program {
  const char *socket;
  struct rates rates;           /* now NULL: it has not answered yet */
  bool restarted;               /* lately */
  const char *problem;          /* why there is no answer now, or NULL */
};

/* Sums over all, then each program; newly allocated.  Whatever the
 * documents hold, there is a page.
 */
char *top_page (const struct top_program *programs, size_t n);

#endif /* ISW_CTL_TOP_PAGE_H */
