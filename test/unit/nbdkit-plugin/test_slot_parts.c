/* What the slot pool is made of: index, list, epochs. */

#include "nbdkit-plugin/epochs.h"
#include "nbdkit-plugin/slot_index.h"
#include "nbdkit-plugin/slot_list.h"
#include "seeded.h"
#include "suite.h"

enum { PAGES = 97, SLOTS = 3 * PAGES, OPS = 20000 };

START_TEST (the_index_is_a_map)
{
  uint32_t model[PAGES];
  struct slot_index x = { 0 };
  struct seeded seed;

  seeded_init (&seed, "index");
  ck_assert_int_eq (slot_index_init (&x, SLOTS), 0);
  for (unsigned i = 0; i < PAGES; i++)
    model[i] = SLOT_NONE;
  for (unsigned i = 0; i < OPS; i++) {
    unsigned k = seeded_below (&seed, PAGES);
    /* Pages far apart share buckets with those nearby. */
    uint64_t page = (uint64_t) k << (k % 3 * 20);

    ck_assert_uint_eq (slot_index_find (&x, page), model[k]);
    if (model[k] != SLOT_NONE)
      slot_index_remove (&x, model[k]);
    model[k] = SLOT_NONE;
    if (!seeded_once_in (&seed, 3)) {
      model[k] = seeded_below (&seed, SLOTS / PAGES) * PAGES + k;
      slot_index_insert (&x, page, model[k]);
    }
  }
  slot_index_destroy (&x);
}
END_TEST

static void
assert_list (const struct slot_list *l, unsigned n, const uint32_t *slots)
{
  uint32_t before = SLOT_NONE, at = l->head;

  for (unsigned i = 0; i < n; i++) {
    ck_assert_uint_eq (at, slots[i]);
    ck_assert_uint_eq (l->links[at].prev, before);
    before = at;
    at = l->links[at].next;
  }
  ck_assert_uint_eq (at, SLOT_NONE);
  ck_assert_uint_eq (l->tail, before);
}

START_TEST (a_list_keeps_its_order)
{
  struct slot_links links[8];
  struct slot_list l, other;

  slot_list_init (&l, links);
  slot_list_init (&other, links);
  assert_list (&l, 0, NULL);
  for (uint32_t i = 1; i < 6; i++)
    slot_list_append (i % 2 ? &l : &other, i);
  assert_list (&l, 3, (uint32_t[]) { 1, 3, 5 });
  assert_list (&other, 2, (uint32_t[]) { 2, 4 });
  slot_list_replace (&l, 3, 7);
  assert_list (&l, 3, (uint32_t[]) { 1, 7, 5 });
  slot_list_replace (&l, 1, 3);
  slot_list_replace (&l, 5, 1);
  assert_list (&l, 3, (uint32_t[]) { 3, 7, 1 });
  slot_list_remove (&l, 7);
  assert_list (&l, 2, (uint32_t[]) { 3, 1 });
  slot_list_remove (&l, 1);
  slot_list_remove (&l, 3);
  assert_list (&l, 0, NULL);
  slot_list_append (&l, 0);
  slot_list_replace (&l, 0, 6);
  assert_list (&l, 1, (uint32_t[]) { 6 });
}
END_TEST

START_TEST (a_flush_waits_for_what_came_before_it)
{
  struct epochs e = { 0 };
  uint32_t first = epochs_enter (&e), second, flush = epochs_close (&e);

  second = epochs_enter (&e);
  ck_assert_uint_ne (first, second);
  ck_assert (!epochs_are_clear (&e, flush));
  ck_assert (epochs_leave (&e, first));
  ck_assert (epochs_are_clear (&e, flush));
  ck_assert (!epochs_are_clear (&e, epochs_close (&e)));
  epochs_enter (&e);
  ck_assert (epochs_leave (&e, second));
  ck_assert (epochs_are_clear (&e, second));
}
END_TEST

START_TEST (a_flush_of_nothing_is_clear)
{
  struct epochs e = { 0 };

  for (unsigned i = 0; i < 3 * EPOCHS_MAX; i++)
    ck_assert (epochs_are_clear (&e, epochs_close (&e)));
}
END_TEST

/* More flushes than are told apart wait for more than they have to. */
START_TEST (the_oldest_epoch_is_never_mistaken)
{
  struct epochs e = { 0 };
  uint32_t oldest = epochs_enter (&e), flush = epochs_close (&e), last = 0;

  for (unsigned i = 0; i < 3 * EPOCHS_MAX; i++) {
    last = epochs_enter (&e);
    ck_assert_uint_lt (last - oldest, EPOCHS_MAX);
    epochs_close (&e);
    ck_assert (!epochs_are_clear (&e, flush));
  }
  ck_assert (epochs_leave (&e, oldest));
  ck_assert (epochs_are_clear (&e, flush));
  ck_assert (!epochs_are_clear (&e, last));
}
END_TEST

int
main (void)
{
  TCase *c = tcase_create ("slot parts");

  tcase_add_test (c, the_index_is_a_map);
  tcase_add_test (c, a_list_keeps_its_order);
  tcase_add_test (c, a_flush_waits_for_what_came_before_it);
  tcase_add_test (c, a_flush_of_nothing_is_clear);
  tcase_add_test (c, the_oldest_epoch_is_never_mistaken);
  return suite_run ("slot_parts", c);
}
