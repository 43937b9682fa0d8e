#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fake_aio.h"
#include "nbdkit-plugin/disk_queue.h"
#include "scratch.h"
#include "suite.h"

enum { PAGE = 4096, DEPTH = 8, PAGES = 3 * DEPTH };

static struct disk_queue *queue;
static struct disk_write writes[PAGES];
static struct iovec vectors[PAGES];
static char *memory;
static int fd;

/* Each test once with the kernel's queue, once where it is refused. */
static void
begin (int refused)
{
  fake_aio_be (refused ? FAKE_AIO_REFUSED : FAKE_AIO_REAL);
  fd = open (scratch_path ("file"), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC,
             0600);
  ck_assert_int_ne (fd, -1);
  ck_assert_int_eq (ftruncate (fd, PAGES * PAGE), 0);
  queue = disk_queue_new (fd, DEPTH);
  ck_assert_ptr_nonnull (queue);
  memory = aligned_alloc (PAGE, PAGES * PAGE);
  for (int i = 0; i < PAGES; i++)
    memset (memory + i * PAGE, 'a' + i, PAGE);
}

static void
end (void)
{
  disk_queue_free (queue);
  close (fd);
  free (memory);
}

static void
add (int page, uint64_t at)
{
  vectors[page] = (struct iovec) { memory + page * PAGE, PAGE };
  disk_queue_add (queue, &writes[page], &vectors[page], 1, at * PAGE);
}

static int
result (void)
{
  struct disk_write *w = disk_queue_reap (queue, DISK_QUEUE_EVER);

  ck_assert_ptr_nonnull (w);
  ck_assert (w >= writes && w < writes + PAGES);
  return w->result;
}

static void
assert_page (int page)
{
  static char buf[PAGE] __attribute__ ((aligned (PAGE)));

  ck_assert_int_eq (pread (fd, buf, PAGE, page * PAGE), PAGE);
  ck_assert_mem_eq (buf, memory + page * PAGE, PAGE);
}

START_TEST (a_batch_is_written)
{
  begin (_i);
  /* None is in flight. */
  ck_assert_ptr_null (disk_queue_reap (queue, DISK_QUEUE_EVER));
  for (int page = 0; page < PAGES; page += DEPTH) {
    for (int i = 0; i < DEPTH; i++)
      add (page + i, page + i);
    disk_queue_submit (queue);
    for (int i = 0; i < DEPTH; i++)
      ck_assert_int_eq (result (), 0);
    ck_assert_ptr_null (disk_queue_reap (queue, DISK_QUEUE_EVER));
  }
  for (int page = 0; page < PAGES; page++)
    assert_page (page);
  end ();
}
END_TEST

START_TEST (reaping_need_not_wait)
{
  struct disk_write *w;

  begin (_i);
  ck_assert_ptr_null (disk_queue_reap (queue, 0));
  add (3, 3);
  disk_queue_submit (queue);
  while (!(w = disk_queue_reap (queue, 0)))
    usleep (1000);
  ck_assert_ptr_eq (w, &writes[3]);
  ck_assert_int_eq (w->result, 0);
  ck_assert_ptr_null (disk_queue_reap (queue, 0));
  end ();
}
END_TEST

/* What the kernel refuses at once fails alone. */
START_TEST (a_bad_write_is_not_its_neighbours)
{
  begin (_i);
  add (0, 0);
  vectors[1] = (struct iovec) { memory + 1, PAGE }; /* not aligned */
  disk_queue_add (queue, &writes[1], &vectors[1], 1, PAGE);
  add (2, 2);
  disk_queue_submit (queue);
  for (int i = 0; i < 3; i++)
    result ();
  ck_assert_int_eq (writes[0].result, 0);
  ck_assert_int_eq (writes[1].result, -EINVAL);
  ck_assert_int_eq (writes[2].result, 0);
  assert_page (0);
  assert_page (2);
  end ();
}
END_TEST

/* The file system wrote less than was asked for. */
START_TEST (a_short_write_has_failed)
{
  const struct rlimit two = { 2 * PAGE, RLIM_INFINITY };

  begin (_i);
  ck_assert_int_eq (ftruncate (fd, 0), 0);
  signal (SIGXFSZ, SIG_IGN);
  ck_assert_int_eq (setrlimit (RLIMIT_FSIZE, &two), 0);
  vectors[0] = (struct iovec) { memory, 3 * PAGE };
  disk_queue_add (queue, &writes[0], &vectors[0], 1, 0);
  disk_queue_submit (queue);
  ck_assert_int_lt (result (), 0);
  end ();
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("disk_queue");

  tcase_add_checked_fixture (c, scratch_setup, scratch_teardown);
  tcase_add_loop_test (c, a_batch_is_written, 0, 2);
  tcase_add_loop_test (c, reaping_need_not_wait, 0, 2);
  tcase_add_loop_test (c, a_bad_write_is_not_its_neighbours, 0, 2);
  tcase_add_loop_test (c, a_short_write_has_failed, 0, 2);
  return suite_run ("disk_queue", c);
}
