/* The I/O path allocates no memory: guarantee 7. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rig.h"
#include "scratch.h"
#include "suite.h"
#include "thread.h"

/* Volatile, since the compiler believes that malloc looks at neither. */
static _Thread_local volatile bool counting;
static _Thread_local volatile unsigned calls;

static void
count_call (void)
{
  if (counting)
    calls++;
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED
#endif

#ifdef SANITIZED
/* A sanitizer's allocator is its own, and has hooks. */
int __sanitizer_install_malloc_and_free_hooks
  (void (*malloc_hook) (const volatile void *, size_t),
   void (*free_hook) (const volatile void *));

static void
on_malloc (const volatile void *p, size_t size)
{
  (void) p;
  (void) size;
  count_call ();
}

static void
on_free (const volatile void *p)
{
  (void) p;
  count_call ();
}

static void
watch (void)
{
  ck_assert_int_ne (__sanitizer_install_malloc_and_free_hooks (on_malloc,
                                                               on_free), 0);
}
#else
extern void *__libc_malloc (size_t size);
extern void *__libc_calloc (size_t n, size_t size);
extern void *__libc_realloc (void *p, size_t size);
extern void *__libc_memalign (size_t alignment, size_t size);
extern void __libc_free (void *p);

__attribute__ ((visibility ("default"))) void *
malloc (size_t size)
{
  count_call ();
  return __libc_malloc (size);
}

__attribute__ ((visibility ("default"))) void *
calloc (size_t n, size_t size)
{
  count_call ();
  return __libc_calloc (n, size);
}

__attribute__ ((visibility ("default"))) void *
realloc (void *p, size_t size)
{
  count_call ();
  return __libc_realloc (p, size);
}

__attribute__ ((visibility ("default"))) int
posix_memalign (void **p, size_t alignment, size_t size)
{
  count_call ();
  *p = __libc_memalign (alignment, size);
  return *p ? 0 : 12;
}

__attribute__ ((visibility ("default"))) void
free (void *p)
{
  count_call ();
  __libc_free (p);
}

static void
watch (void)
{
}
#endif

static struct rig rig;

/* Check allocates in each assertion that holds. */
static void
must (int r)
{
  if (r != 0)
    ck_abort_msg ("%d", r);
}

/* One round of everything there is on the I/O path: slab 0 is mapped,
 * slab 3 is not.
 */
static void
use_device (char *buf)
{
  static const uint64_t at[] = { 0, 3 * MIB, 2 * MIB - 50 * PAGE + 7 };

  for (int i = 0; i < 3; i++) {
    must (device_write (rig.device, buf, 100 * PAGE, at[i]));
    must (device_read (rig.device, buf, 100 * PAGE, at[i]));
    must (device_write (rig.device, buf, 10, at[i] + 99));
    must (device_read (rig.device, buf, 10, at[i] + 99));
    must (device_zero (rig.device, 3 * PAGE, at[i] + 5));
    must (device_trim (rig.device, 3 * PAGE, at[i] + 5));
    must (device_flush (rig.device));
    must (device_read (rig.device, buf, 100 * PAGE, at[i]));
  }
}

struct worker {
  struct thread thread;
  unsigned calls;
  char buf[100 * PAGE];
};

static void
work (void *data)
{
  struct worker *w = data;

  use_device (w->buf);          /* the first use of things may allocate */
  counting = true;
  for (int i = 0; i < 20; i++)
    use_device (w->buf);
  counting = false;
  w->calls = calls;
}

/* valgrind puts its own functions in place of ours. */
static bool
is_watching (void)
{
  const char *preload = getenv ("LD_PRELOAD");

  return !preload || !strstr (preload, "vgpreload");
}

/* ... and the count counts. */
static void
allocate (void *data)
{
  struct worker *w = data;
  char *volatile p;

  counting = true;
  p = malloc (10);
  p = realloc (p, 10000);
  free (p);
  counting = false;
  w->calls = calls;
}

START_TEST (requests_allocate_nothing)
{
  enum { THREADS = 3 };
  static struct worker workers[THREADS];
  struct rig_params p = rig_defaults ();

  p.read_ahead_bytes = MIB;
  if (!is_watching ()) {
    printf ("skipped: allocations cannot be counted under valgrind\n");
    return;
  }
  watch ();
  rig_prepare (&rig, &p);
  struct fake_script s = fake_donor_script (rig.donors[0]);
  s.slabs = 1;
  fake_donor_follow (rig.donors[0], &s);
  rig_start (&rig);
  rig_write (&rig, 0, 'a');
  rig_wait_mapped (&rig, 0);

  for (int i = 0; i < THREADS; i++)
    thread_start (&workers[i].thread, work, &workers[i]);
  for (int i = 0; i < THREADS; i++) {
    thread_join (&workers[i].thread);
    ck_assert_uint_eq (workers[i].calls, 0);
  }
  ck_assert_uint_gt (rig_written_donors (&rig), 0);
  ck_assert_uint_gt (rig_read_donors (&rig), 0);
  ck_assert_uint_gt (rig.device->counters.written_disk, 0);
  ck_assert_uint_gt (rig.device->counters.read_disk, 0);
  thread_start (&workers[0].thread, allocate, &workers[0]);
  thread_join (&workers[0].thread);
  ck_assert_uint_ge (workers[0].calls, 3);
  ck_assert_int_eq (rig_stop (&rig), 0);
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("allocation");

  tcase_add_checked_fixture (c, scratch_setup, scratch_teardown);
  tcase_add_test (c, requests_allocate_nothing);
  return suite_run ("allocation", c);
}
