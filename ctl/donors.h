/* infiniswapctl donors: ask a list of donors how they are, all at once. */

#ifndef ISW_CTL_DONORS_H
#define ISW_CTL_DONORS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <glib.h>

#include "fabric/fabric.h"

enum { DONORS_FABRICS = 2 };

struct donors_options {
  GPtrArray *addresses;         /* struct address * */
  int64_t timeout_ns;           /* of all together */
  bool json;
  /* Those to ask over, the one that a borrower prefers first; NULL: left
   * out.
   */
  const struct fabric_ops *fabrics[DONORS_FABRICS];
};

/* Print a table, or an array of JSON objects, to out.  The exit status: 0,
 * or 1 if any donor has not answered over any fabric.  Runs the default
 * main context.
 */
int donors_run (const struct donors_options *o, FILE *out);

#endif /* ISW_CTL_DONORS_H */
