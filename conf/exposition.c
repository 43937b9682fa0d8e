#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "conf/exposition.h"

void
exposition_begin (struct exposition *e)
{
  e->text = g_string_new (NULL);
  e->family = NULL;
}

char *
exposition_end (struct exposition *e, size_t *len)
{
  *len = e->text->len;
  return g_string_free (e->text, FALSE);
}

static void
append_escaped (GString *text, const char *value, const char *special)
{
  g_autofree char *valid = g_utf8_make_valid (value, -1);

  for (const char *c = valid; *c != '\0'; c++)
    if (*c == '\n')
      g_string_append (text, "\\n");
    else {
      if (strchr (special, *c) != NULL)
        g_string_append_c (text, '\\');
      g_string_append_c (text, *c);
    }
}

/* In as few digits as say it exactly, whatever the locale. */
static void
append_number (GString *text, double value)
{
  char digits[G_ASCII_DTOSTR_BUF_SIZE];

  if (isnan (value))
    g_string_append (text, "NaN");
  else if (isinf (value))
    g_string_append (text, value > 0 ? "+Inf" : "-Inf");
  else {
    g_ascii_formatd (digits, sizeof digits, "%.15g", value);
    if (g_ascii_strtod (digits, NULL) != value)
      g_ascii_formatd (digits, sizeof digits, "%.17g", value);
    g_string_append (text, digits);
  }
}

void
exposition_family (struct exposition *e, enum exposition_type type,
                   const char *name, const char *help)
{
  static const char *const types[] = {
    [EXPOSITION_COUNTER] = "counter",
    [EXPOSITION_GAUGE] = "gauge",
    [EXPOSITION_HISTOGRAM] = "histogram",
  };

  e->family = name;
  g_string_append_printf (e->text, "# HELP %s ", name);
  append_escaped (e->text, help, "\\");
  g_string_append_printf (e->text, "\n# TYPE %s %s\n", name, types[type]);
}

/* "NAME", or "NAME_SUFFIX", and the opening brace. */
static void
begin_sample (struct exposition *e, const char *suffix)
{
  g_string_append_printf (e->text, "%s%s{", e->family, suffix);
}

static void
append_label (struct exposition *e, const char *name, const char *value)
{
  if (e->text->str[e->text->len - 1] != '{')
    g_string_append_c (e->text, ',');
  g_string_append_printf (e->text, "%s=\"", name);
  append_escaped (e->text, value, "\\\"");
  g_string_append_c (e->text, '"');
}

static void
append_labels (struct exposition *e, va_list labels)
{
  const char *name, *value;

  while ((name = va_arg (labels, const char *)) != NULL) {
    value = va_arg (labels, const char *);
    append_label (e, name, value);
  }
}

static void
end_sample (struct exposition *e, double value)
{
  if (e->text->str[e->text->len - 1] == '{')
    g_string_truncate (e->text, e->text->len - 1);
  else
    g_string_append_c (e->text, '}');
  g_string_append_c (e->text, ' ');
  append_number (e->text, value);
  g_string_append_c (e->text, '\n');
}

void
exposition_sample (struct exposition *e, double value, ...)
{
  va_list labels;

  begin_sample (e, "");
  va_start (labels, value);
  append_labels (e, labels);
  va_end (labels);
  end_sample (e, value);
}

static void
add_part (struct exposition *e, const char *suffix, const char *bound,
          double value, va_list labels)
{
  va_list copy;

  begin_sample (e, suffix);
  va_copy (copy, labels);
  append_labels (e, copy);
  va_end (copy);
  if (bound != NULL)
    append_label (e, "le", bound);
  end_sample (e, value);
}

void
exposition_histogram (struct exposition *e,
                      const struct histogram_sums *sums, ...)
{
  g_autoptr (GString) bound = g_string_new (NULL);
  va_list labels;

  va_start (labels, sums);
  for (unsigned i = 0; i <= HISTOGRAM_OCTAVES; i++) {
    g_string_truncate (bound, 0);
    append_number (bound, histogram_octave_seconds (i));
    add_part (e, "_bucket", bound->str, histogram_octave_count (sums, i),
              labels);
  }
  add_part (e, "_bucket", "+Inf", sums->count, labels);
  add_part (e, "_sum", NULL, sums->sum_ns / 1e9, labels);
  add_part (e, "_count", NULL, sums->count, labels);
  va_end (labels);
}

void
exposition_counter (struct exposition *e, const char *name,
                    const char *help, double value)
{
  exposition_family (e, EXPOSITION_COUNTER, name, help);
  exposition_sample (e, value, NULL);
}

void
exposition_gauge (struct exposition *e, const char *name, const char *help,
                  double value)
{
  exposition_family (e, EXPOSITION_GAUGE, name, help);
  exposition_sample (e, value, NULL);
}
