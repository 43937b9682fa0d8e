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

/* A number with decimals and a unit, exactly; unit_of says what the text
 * behind the number stands for, 0 for nothing.
 */
static int
parse_scaled (const char *text, uint64_t (*unit_of) (const char *name),
              uint64_t *ret)
{
  uint64_t whole, numerator, denominator, unit, value;
  unsigned __int128 fraction;
  int r;

  r = take_digits (&text, &whole);
  if (r < 0)
    return r;
  r = take_decimals (&text, &numerator, &denominator);
  if (r < 0)
    return r;
  unit = unit_of (text);
  if (unit == 0)
    return -EINVAL;

  fraction = (unsigned __int128) numerator * unit;
  if (fraction % denominator != 0 ||
      __builtin_mul_overflow (whole, unit, &value) ||
      __builtin_add_overflow (value, (uint64_t) (fraction / denominator),
                              &value))
    return -ERANGE;
  *ret = value;
  return 0;
}

static uint64_t
size_unit (const char *name)
{
  static const char letters[] = "KMGTPE";
  const char *letter;

  if (*name == '\0')
    return 1;
  letter = strchr (letters, g_ascii_toupper (*name));
  name++;
  if (letter == NULL || (strcmp (name, "") != 0 && strcmp (name, "B") != 0 &&
                         strcmp (name, "iB") != 0))
    return 0;
  return UINT64_C (1) << (10 * (letter - letters + 1));
}

int
units_parse_size (const char *text, uint64_t *ret)
{
  return parse_scaled (text, size_unit, ret);
}

static uint64_t
time_unit (const char *name)
{
  static const struct { const char *name; uint64_t ns; } units[] = {
    { "", 1000000000 }, { "s", 1000000000 }, { "ms", 1000000 },
    { "us", 1000 }, { "ns", 1 }, { "m", 60000000000 },
    { "h", 3600000000000 },
  };

  for (size_t i = 0; i < G_N_ELEMENTS (units); i++)
    if (strcmp (name, units[i].name) == 0)
      return units[i].ns;
  return 0;
}

int
units_parse_duration (const char *text, int64_t *ret_ns)
{
  uint64_t ns;
  int r = parse_scaled (text, time_unit, &ns);

  if (r < 0)
    return r;
  if (ns > INT64_MAX)
    return -ERANGE;
  *ret_ns = ns;
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
