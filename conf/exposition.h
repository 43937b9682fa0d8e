/* Builds a text in Prometheus' exposition format (version 0.0.4).
 *
 * Pure: it holds a text and nothing else.  A family is begun, and then
 * its samples are added, so that those of one family are together.  Names
 * of families and labels are the program's own and are not checked;
 * values of labels may be any text.
 */

#ifndef ISW_EXPOSITION_H
#define ISW_EXPOSITION_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>

#include "conf/histogram.h"

enum exposition_type {
  EXPOSITION_COUNTER,           /* its name ends with _total */
  EXPOSITION_GAUGE,
  EXPOSITION_HISTOGRAM,
};

struct exposition {
  GString *text;
  const char *family;           /* the one that has been begun */
};

void exposition_begin (struct exposition *e);
/* The text, which the caller frees (g_free, and free as well). */
char *exposition_end (struct exposition *e, size_t *len);

/* Begin a family.  name must stay until its last sample. */
void exposition_family (struct exposition *e, enum exposition_type type,
                        const char *name, const char *help);

/* One sample, with labels: name, value, name, value, ..., NULL. */
void exposition_sample (struct exposition *e, double value, ...)
  G_GNUC_NULL_TERMINATED;

/* One histogram of durations, in seconds, with labels as above. */
void exposition_histogram (struct exposition *e,
                           const struct histogram_sums *sums, ...)
  G_GNUC_NULL_TERMINATED;

/* A family with one sample, which has no labels. */
void exposition_counter (struct exposition *e, const char *name,
                         const char *help, double value);
void exposition_gauge (struct exposition *e, const char *name,
                       const char *help, double value);

#endif /* ISW_EXPOSITION_H */
