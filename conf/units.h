/* Sizes, durations and numbers as users write them.
 *
 * Every parser takes the whole string: an empty one, trailing garbage, a
 * sign or an overflow is -EINVAL or -ERANGE, and *ret is left alone.
 */

#ifndef ISW_UNITS_H
#define ISW_UNITS_H

#include <stddef.h>
#include <stdint.h>

enum { UNITS_TEXT_MAX = 32 };

/* "4096", "64K", "64k", "16M", "1G", "8T", with an optional "B" or "iB"
 * after the letter: powers of 1024, in bytes.  Decimals as in "1.5G",
 * which units_format_size writes; -ERANGE if that is not a whole number
 * of bytes.
 */
int units_parse_size (const char *text, uint64_t *ret);

/* "2s", "500ms", "100us", "20ns", "1m", "1h" or a plain number of
 * seconds; decimals as in "1.5s"; in nanoseconds, -ERANGE if that is not
 * a whole number of them.
 */
int units_parse_duration (const char *text, int64_t *ret_ns);

/* A plain decimal number. */
int units_parse_uint (const char *text, uint64_t *ret);

/* A decimal fraction such as "0.2" or "20", finite and not negative,
 * whatever the locale.
 */
int units_parse_fraction (const char *text, double *ret);

/* "64G", "1.5G", "4096": the largest unit that gives at most one
 * decimal exactly, else plain bytes.  Returns text.
 */
const char *units_format_size (uint64_t bytes, char text[UNITS_TEXT_MAX]);

/* "2s", "500ms", "1.5ms", by the same rule; not negative. */
const char *units_format_duration (int64_t ns, char text[UNITS_TEXT_MAX]);

#endif /* ISW_UNITS_H */
