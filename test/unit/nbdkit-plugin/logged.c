#include "logged.h"

#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Two descriptors, each with a place of its own in the file. */
static int reader = -1, old_stderr;

void
logged_begin (void)
{
  char path[] = "/tmp/logged-XXXXXX";
  const int writer = mkstemp (path);

  ck_assert_int_ne (writer, -1);
  reader = open (path, O_RDONLY | O_CLOEXEC);
  ck_assert_int_ne (reader, -1);
  unlink (path);
  old_stderr = dup (STDERR_FILENO);
  dup2 (writer, STDERR_FILENO);
  close (writer);
  unsetenv ("JOURNAL_STREAM");
}

void
logged_end (void)
{
  dup2 (old_stderr, STDERR_FILENO);
  close (old_stderr);
  close (reader);
}

const char *
logged (void)
{
  static char text[10000];
  const ssize_t n = read (reader, text, sizeof text - 1);

  ck_assert_int_ge (n, 0);
  text[n] = '\0';
  return text;
}
