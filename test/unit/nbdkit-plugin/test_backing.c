#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "nbdkit-plugin/backing.h"
#include "scratch.h"
#include "suite.h"

enum { PAGE = 4096, SIZE = 64 * PAGE };

static char *error;

static void
teardown (void)
{
  g_clear_pointer (&error, g_free);
  scratch_teardown ();
}

static struct backing *
must_open (const char *path, uint64_t size)
{
  struct backing *b = backing_open (path, size, false, &error);

  ck_assert_msg (b != NULL, "%s", error);
  ck_assert_ptr_null (error);
  return b;
}

/* Refused, in one line with these words in it. */
static void
assert_refused (const char *path, uint64_t size, bool unsafe,
                const char *word, const char *word2)
{
  ck_assert_ptr_null (backing_open (path, size, unsafe, &error));
  ck_assert_ptr_nonnull (error);
  ck_assert_msg (strstr (error, word) && strstr (error, word2), "%s", error);
  ck_assert_ptr_null (strchr (error, '\n'));
  g_clear_pointer (&error, g_free);
}

static void
make_file (const char *path, off_t size)
{
  int fd = open (path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

  ck_assert_int_ne (fd, -1);
  ck_assert_int_eq (ftruncate (fd, size), 0);
  close (fd);
}

START_TEST (a_missing_folder_is_named)
{
  assert_refused ("/no/such/folder/file", SIZE, false,
                  "/no/such/folder/file", "No such file");
}
END_TEST

START_TEST (memory_is_refused_unless_accepted)
{
  g_autofree char *path =
    g_strdup_printf ("/dev/shm/isw-unit-%d", (int) getpid ());
  struct backing *b;

  assert_refused (path, SIZE, false, path, "backing-unsafe=1");
  b = backing_open (path, SIZE, true, &error);
  unlink (path);
  ck_assert_msg (b != NULL, "%s", error);
  backing_close (b);
}
END_TEST

START_TEST (tmpdir_in_memory_is_refused)
{
  setenv ("TMPDIR", "/dev/shm", 1);
  assert_refused (NULL, SIZE, false, "/dev/shm", "TMPDIR");
}
END_TEST

START_TEST (without_a_path_the_file_has_no_name)
{
  struct backing *b;

  unsetenv ("TMPDIR");
  b = must_open (NULL, SIZE);
  ck_assert_uint_eq (backing_size (b), SIZE);
  ck_assert_ptr_nonnull (strstr (backing_name (b), "/var/tmp"));
  backing_close (b);
}
END_TEST

START_TEST (a_file_with_content_may_not_grow)
{
  const char *path = scratch_path ("small");

  make_file (path, SIZE / 2);
  assert_refused (path, SIZE, false, path, "only 128K");
}
END_TEST

START_TEST (an_odd_size_is_refused)
{
  const char *path = scratch_path ("odd");

  make_file (path, SIZE + 1);
  assert_refused (path, 0, false, path, "multiple of 4096");
}
END_TEST

START_TEST (an_empty_file_needs_a_size)
{
  const char *path = scratch_path ("empty");
  struct backing *b;

  make_file (path, 0);
  assert_refused (path, 0, false, path, "size=");
  b = must_open (path, SIZE);
  ck_assert_uint_eq (backing_size (b), SIZE);
  backing_close (b);
}
END_TEST

START_TEST (the_size_of_a_file_is_the_default)
{
  const char *path = scratch_path ("file");
  struct backing *b;

  make_file (path, SIZE);
  b = must_open (path, 0);
  ck_assert_uint_eq (backing_size (b), SIZE);
  backing_close (b);
}
END_TEST

START_TEST (a_larger_file_serves_a_smaller_device)
{
  const char *path = scratch_path ("file");
  struct backing *b;
  struct stat st;

  make_file (path, 2 * SIZE);
  b = must_open (path, SIZE);
  ck_assert_uint_eq (backing_size (b), SIZE);
  backing_close (b);
  ck_assert_int_eq (stat (path, &st), 0);
  ck_assert_int_eq (st.st_size, 2 * SIZE);
}
END_TEST

START_TEST (a_file_has_one_user)
{
  const char *path = scratch_path ("file");
  struct backing *b = must_open (path, SIZE);

  assert_refused (path, SIZE, false, path, "in use");
  backing_close (b);
  backing_close (must_open (path, SIZE));
}
END_TEST

START_TEST (a_device_or_folder_of_another_kind_is_refused)
{
  assert_refused ("/dev/null", SIZE, false, "/dev/null",
                  "neither a regular file");
  assert_refused ("/var/tmp", SIZE, false, "/var/tmp", "directory");
}
END_TEST

START_TEST (space_is_reserved)
{
  const char *path = scratch_path ("file");
  struct backing *b = must_open (path, SIZE);
  struct stat st;

  ck_assert_int_eq (stat (path, &st), 0);
  ck_assert_int_eq (st.st_size, SIZE);
  ck_assert_int_ge (st.st_blocks * 512, SIZE);
  backing_close (b);
}
END_TEST

START_TEST (what_cannot_be_reserved_is_refused)
{
  const char *mine = scratch_path ("mine"), *new = scratch_path ("new");
  struct stat st;

  make_file (mine, 0);
  assert_refused (mine, UINT64_C (1) << 50, false, mine, "cannot reserve");
  ck_assert_int_eq (stat (mine, &st), 0);
  ck_assert_int_eq (st.st_size, 0);
  assert_refused (new, UINT64_C (1) << 50, false, new, "cannot reserve");
  ck_assert_int_eq (stat (new, &st), -1);
}
END_TEST

static char *
pages (int n, int fill)
{
  char *p = aligned_alloc (PAGE, (size_t) n * PAGE);

  ck_assert_ptr_nonnull (p);
  memset (p, fill, (size_t) n * PAGE);
  return p;
}

START_TEST (what_is_written_is_read)
{
  const char *path = scratch_path ("file");
  struct backing *b = must_open (path, SIZE);
  char *out = pages (4, 'a'), *in = pages (4, 0);
  struct iovec iov[] = {
    { out + 2 * PAGE, PAGE }, { out, 2 * PAGE }, { out + 3 * PAGE, PAGE },
  };

  for (int i = 0; i < 4; i++)
    out[i * PAGE] = '0' + i;
  ck_assert_int_eq (backing_write (b, iov, 3, 5 * PAGE), 0);
  ck_assert_int_eq (backing_flush (b), 0);
  ck_assert_int_eq (backing_read (b, in, 4 * PAGE, 5 * PAGE), 0);
  ck_assert_int_eq (in[0], '2');
  ck_assert_int_eq (in[PAGE], '0');
  ck_assert_int_eq (in[2 * PAGE], '1');
  ck_assert_int_eq (in[3 * PAGE], '3');
  backing_close (b);

  b = must_open (path, 0);      /* and again after a restart */
  ck_assert_int_eq (backing_read (b, in, PAGE, 6 * PAGE), 0);
  ck_assert_int_eq (in[0], '0');
  backing_close (b);
  free (out);
  free (in);
}
END_TEST

START_TEST (a_zeroed_range_reads_as_zeros_and_stays_reserved)
{
  const char *path = scratch_path ("file");
  struct backing *b = must_open (path, SIZE);
  char *out = pages (64, 'x'), *in = pages (64, 1);
  struct iovec iov = { out, SIZE };
  struct stat st;

  ck_assert_int_eq (backing_write (b, &iov, 1, 0), 0);
  ck_assert_int_eq (backing_zero (b, 3 * PAGE, 40 * PAGE), 0);
  ck_assert_int_eq (backing_flush (b), 0);
  ck_assert_int_eq (backing_read (b, in, SIZE, 0), 0);
  memset (out + 3 * PAGE, 0, 40 * PAGE);
  ck_assert_mem_eq (in, out, SIZE);
  ck_assert_int_eq (stat (path, &st), 0);
  ck_assert_int_ge (st.st_blocks * 512, SIZE);
  backing_close (b);
  free (out);
  free (in);
}
END_TEST

START_TEST (a_file_cut_short_gives_an_error)
{
  const char *path = scratch_path ("file");
  struct backing *b = must_open (path, SIZE);
  char *in = pages (1, 0);

  ck_assert_int_eq (truncate (path, SIZE / 2), 0);
  ck_assert_int_eq (backing_read (b, in, PAGE, SIZE - PAGE), -EIO);
  backing_close (b);
  free (in);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("backing");

  tcase_add_checked_fixture (c, scratch_setup, teardown);
  tcase_add_test (c, a_missing_folder_is_named);
  tcase_add_test (c, memory_is_refused_unless_accepted);
  tcase_add_test (c, tmpdir_in_memory_is_refused);
  tcase_add_test (c, without_a_path_the_file_has_no_name);
  tcase_add_test (c, a_file_with_content_may_not_grow);
  tcase_add_test (c, an_odd_size_is_refused);
  tcase_add_test (c, an_empty_file_needs_a_size);
  tcase_add_test (c, the_size_of_a_file_is_the_default);
  tcase_add_test (c, a_larger_file_serves_a_smaller_device);
  tcase_add_test (c, a_file_has_one_user);
  tcase_add_test (c, a_device_or_folder_of_another_kind_is_refused);
  tcase_add_test (c, space_is_reserved);
  tcase_add_test (c, what_cannot_be_reserved_is_refused);
  tcase_add_test (c, what_is_written_is_read);
  tcase_add_test (c, a_zeroed_range_reads_as_zeros_and_stays_reserved);
  tcase_add_test (c, a_file_cut_short_gives_an_error);
  return suite_run ("backing", c);
}
