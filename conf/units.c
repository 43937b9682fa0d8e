#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <glib.h>

#include "conf/units.h"

/* Read the digits at *text and move it behind them. */
static int
take_digits (const char **text, uint64_t *ret)
{
  const char *p = *text;
  uint64_t value = 0;

  if (!g_ascii_isdigit (*p))
    return -EINVAL;
  for (; g_ascii_isdigit (*p); p++) {
    if (__builtin_mul_overflow (value, 10, &value) ||
        __builtin_add_overflow (value, *p - '0', &value))
      return -ERANGE;
  }
  *text = p;
  *ret = value;
  return 0;
}

int
units_parse_uint (const char *text, uint64_t *ret)
{
  uint64_t value;
  int r = take_digits (&text, &value);

  if (r < 0)
    return r;
  if (*text != '\0')
    return -EINVAL;
  *ret = value;
  return 0;
}

int
units_parse_size (const char *text, uint64_t *ret)
{
  static const char letters[] = "KMGTPE";
  const char *letter;
  uint64_t value;
  int r = take_digits (&text, &value);
  int shift;

  if (r < 0)
    return r;
  if (*text != '\0') {
    letter = strchr (letters, g_ascii_toupper (*text));
    if (letter == NULL)
      return -EINVAL;
    text++;
    if (strcmp (text, "") != 0 && strcmp (text, "B") != 0 &&
        strcmp (text, "iB") != 0)
      return -EINVAL;
    shift = 10 * (letter - letters + 1);
    if (value > UINT64_MAX >> shift)
      return -ERANGE;
    value <<= shift;
  }
  *ret = value;
  return 0;
}

static int
parse_time_unit (const char *text, int64_t *unit_ns)
{
  static const struct { const char *name; int64_t ns; } units[] = {
    { "", 1000000000 }, { "s", 1000000000 }, { "ms", 1000000 },
    { "us", 1000 }, { "ns", 1 }, { "m", 60000000000 },
    { "h", 3600000000000 },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (units); i++)
    if (strcmp (text, units[i].name) == 0) {
      *unit_ns = units[i].ns;
      return 0;
    }
  return -EINVAL;
}

/* Read ".5" at *text, if it is there, as numerator / denominator. */
static int
take_decimals (const char **text, uint64_t *numerator, uint64_t *denominator)
{
  const char *p = *text;

  *numerator = 0;
  *denominator = 1;
  if (*p != '.')
    return 0;
  p++;
  if (!g_ascii_isdigit (*p))
    return -EINVAL;
  for (; g_ascii_isdigit (*p); p++) {
    if (*denominator >= 1000000000000000000) {
      if (*p != '0')
        return -ERANGE;
      continue;
    }
    *denominator *= 10;
    *numerator = *numerator * 10 + (*p - '0');
  }
  *text = p;
  return 0;
}

int
units_parse_duration (const char *text, int64_t *ret_ns)
{
  uint64_t whole, numerator, denominator;
  unsigned __int128 fraction;
  int64_t unit_ns, value;
  int r;

  r = take_digits (&text, &whole);
  if (r < 0)
    return r;
  r = take_decimals (&text, &numerator, &denominator);
  if (r < 0)
    return r;
  r = parse_time_unit (text, &unit_ns);
  if (r < 0)
    return r;

  fraction = (unsigned __int128) numerator * unit_ns;
  if (fraction % denominator != 0)
    return -ERANGE;
  if (__builtin_mul_overflow (whole, unit_ns, &value) ||
      __builtin_add_overflow (value, (int64_t) (fraction / denominator),
                              &value))
    return -ERANGE;
  *ret_ns = value;
  return 0;
}

/* g_ascii_strtod also takes signs, exponents, hexadecimal, infinity and
 * leading blanks.
 */
static bool
is_plain_decimal (const char *text)
{
  size_t digits = strspn (text, "0123456789");

  if (digits == 0)
    return false;
  text += digits;
  if (*text == '\0')
    return true;
  if (*text++ != '.')
    return false;
  digits = strspn (text, "0123456789");
  return digits > 0 && text[digits] == '\0';
}

int
units_parse_fraction (const char *text, double *ret)
{
  double value;

  if (!is_plain_decimal (text))
    return -EINVAL;
  value = g_ascii_strtod (text, NULL);
  if (!isfinite (value))
    return -ERANGE;
  *ret = value;
  return 0;
}

/* value / unit with at most one decimal; false if that is not exact or
 * less than one.
 */
static bool
format_exact (uint64_t value, uint64_t unit, const char *name,
              char text[UNITS_TEXT_MAX])
{
  uint64_t tenths = value % unit * 10;

  if (value < unit || tenths % unit != 0)
    return false;
  if (tenths == 0)
    snprintf (text, UNITS_TEXT_MAX, "%" G_GUINT64_FORMAT "%s",
              value / unit, name);
  else
    snprintf (text, UNITS_TEXT_MAX, "%" G_GUINT64_FORMAT ".%u%s",
              value / unit, (unsigned) (tenths / unit), name);
  return true;
}

const char *
units_format_size (uint64_t bytes, char text[UNITS_TEXT_MAX])
{
  static const char *const names[] = { "K", "M", "G", "T", "P", "E" };

  for (int i = G_N_ELEMENTS (names); i > 0; i--)
    if (format_exact (bytes, UINT64_C (1) << (10 * i), names[i - 1], text))
      return text;
  snprintf (text, UNITS_TEXT_MAX, "%" G_GUINT64_FORMAT, bytes);
  return text;
}

const char *
units_format_duration (int64_t ns, char text[UNITS_TEXT_MAX])
{
  static const char *const names[] = { "s", "ms", "us", "ns" };
  int64_t unit_ns = 1000000000;

  if (ns <= 0) {
    snprintf (text, UNITS_TEXT_MAX, ns < 0 ? "%" G_GINT64_FORMAT "ns" : "0s",
              ns);
    return text;
  }
  for (size_t i = 0; i < G_N_ELEMENTS (names); i++, unit_ns /= 1000)
    if (format_exact (ns, unit_ns, names[i], text))
      break;
  return text;
}
