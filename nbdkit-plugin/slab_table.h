/* The slabs of the device: where each lives, who is using it, how busy it
 * is, and for each of its pages where the last acknowledged content is.
 *
 * A slab goes UNMAPPED -> MAPPING -> MAPPED -> DRAINING -> UNMAPPED.  The
 * mapper alone moves it; workers pin it for the time of one remote
 * access, which keeps its home (session, grant) alive.
 *
 * A page that is not in a slot (slot_pool.h) is:
 *   PAGE_LOCAL        on the local copy only
 *   PAGE_REMOTE       on the donor, and on the local copy
 *   PAGE_REMOTE_ONLY  on the donor; the local copy refused it for good.
 *                     Lost, if the slab is not mapped any more
 *   PAGE_ZERO         zeros, wherever; the local copy is not yet zeroed
 *
 * Locks: one mutex a slab guards its state, pins, home and page states;
 * it is the innermost lock, and never held across I/O.  Counters are
 * atomic.
 */

#ifndef ISW_SLAB_TABLE_H
#define ISW_SLAB_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct session;

enum slab_state { SLAB_UNMAPPED, SLAB_MAPPING, SLAB_MAPPED, SLAB_DRAINING };
const char *slab_state_name (enum slab_state state);

enum page_state { PAGE_LOCAL, PAGE_REMOTE, PAGE_REMOTE_ONLY, PAGE_ZERO };

/* Where a slab lives. */
struct slab_home {
  struct session *session;
  const atomic_bool *session_ended; /* set once, by whoever notices */
  uint64_t grant;
  uint64_t address;
  uint64_t key;
};

enum page_source { SOURCE_DISK, SOURCE_DONOR, SOURCE_ZERO, SOURCE_LOST };

struct slab_table;

struct slab_table_params {
  uint64_t pages, slab_pages;   /* of the device, of a slab (the last may be
                                   short) */
  double smoothing;             /* alpha */
  /* Activity from which a slab is hot; 0: from its next write on. */
  double hot_pages_per_second;
  /* Activity under which it is cold; 0: it never is. */
  double cold_pages_per_second;
  /* Called, from any thread, when the last pin of a draining slab is
   * dropped.
   */
  void (*drained) (void *data);
  void *data;
};

/* NULL if memory is short. */
struct slab_table *slab_table_new (const struct slab_table_params *params);
void slab_table_free (struct slab_table *t);

uint64_t slab_table_slabs (const struct slab_table *t);
uint64_t slab_table_slab_of (const struct slab_table *t, uint64_t page);
uint64_t slab_table_first_page (const struct slab_table *t, uint64_t slab);
uint64_t slab_table_slab_pages (const struct slab_table *t, uint64_t slab);

/* --- for workers --- */

/* The source of `page`, and in *count of how many pages from it on (up to
 * n in all, within the slab).  For SOURCE_DONOR, which is only chosen if
 * use_donor, the slab is pinned and its home copied.
 */
enum page_source slab_table_route (struct slab_table *t, uint64_t page,
                                   uint32_t n, bool use_donor,
                                   uint32_t *count, struct slab_home *home);

/* Pin a slab that is mapped and whose session lives: true, with its home,
 * which stays usable until slab_table_unpin, wherever the slab goes.
 */
bool slab_table_pin (struct slab_table *t, uint64_t slab,
                     struct slab_home *home);
void slab_table_unpin (struct slab_table *t, uint64_t slab,
                       const struct slab_home *home);
/* Could it be pinned now? */
bool slab_table_is_reachable (struct slab_table *t, uint64_t slab);

/* Record where the acknowledged content of n pages is now; within one
 * slab.  PAGE_REMOTE needs a pin, and becomes PAGE_LOCAL if the slab is
 * leaving its home.  True if the local copy of any was not good before
 * (PAGE_REMOTE_ONLY, PAGE_ZERO).
 */
bool slab_table_set_pages (struct slab_table *t, uint64_t page, uint64_t n,
                           enum page_state state);

/* The acknowledged content of n pages has been written to this home as
 * well, which the caller has pinned: they are PAGE_REMOTE if the slab lives
 * there still.  Pages that are PAGE_ZERO by now remain that.
 */
void slab_table_land (struct slab_table *t, uint64_t page, uint64_t n,
                      const struct slab_home *home);

/* The local copy refused a page for good.  True if the donor has it: it
 * is then PAGE_REMOTE_ONLY.
 */
bool slab_table_keep_remote (struct slab_table *t, uint64_t page);

/* The next run of pages of a slab in this state from *page on, at most n:
 * its length, with *page set to its start; 0 if there is none.
 */
uint64_t slab_table_next (struct slab_table *t, uint64_t slab,
                          enum page_state state, uint64_t *page, uint64_t n);

/* Count an access of n pages; true if it has just made an unmapped slab
 * hot, and the mapper is to be woken.
 */
bool slab_table_touch (struct slab_table *t, uint64_t slab, uint32_t n,
                       bool write);

/* Pages of the device that are PAGE_REMOTE_ONLY. */
uint64_t slab_table_remote_only (const struct slab_table *t);

/* --- for the mapper --- */

struct slab_info {
  enum slab_state state;
  bool ended;                   /* mapped, but its session has ended */
  unsigned pins;
  uint64_t remote_only;         /* pages; lost unless it is mapped */
  struct slab_home home;
  double activity;
  uint64_t pages_read, pages_written;
};
void slab_table_info (struct slab_table *t, uint64_t slab,
                      struct slab_info *ret);

/* Once a second: fold the pages counted into the activity. */
void slab_table_tick (struct slab_table *t);
/* Pages per second: the average, or what this second adds up to so far if
 * that is more.
 */
double slab_table_activity (const struct slab_table *t, uint64_t slab);
/* Is the slab unmapped, hot now, and free of lost pages? */
bool slab_table_is_hot (struct slab_table *t, uint64_t slab);
/* Would it be hot if it were unmapped? */
bool slab_table_is_busy (struct slab_table *t, uint64_t slab);
/* Is the slab mapped without need: cold for SLAB_COLD_SECONDS, or none of
 * its pages is with the donor any more, since they were discarded, and it
 * is not hot either?
 */
enum { SLAB_COLD_SECONDS = 10 };
bool slab_table_is_idle (struct slab_table *t, uint64_t slab);

/* An idle slab is given back: it is not hot before its next access. */
void slab_table_rest (struct slab_table *t, uint64_t slab);

/* UNMAPPED -> MAPPING, MAPPING -> UNMAPPED, MAPPING -> MAPPED. */
void slab_table_begin_mapping (struct slab_table *t, uint64_t slab);
void slab_table_abandon_mapping (struct slab_table *t, uint64_t slab);
void slab_table_map (struct slab_table *t, uint64_t slab,
                     const struct slab_home *home);

/* MAPPED -> DRAINING: no new pins; every PAGE_REMOTE is PAGE_LOCAL from
 * now on.  Returns how many pages are lost, being PAGE_REMOTE_ONLY; with
 * `saved` the slab stays as it is if there are any.
 */
uint64_t slab_table_drain (struct slab_table *t, uint64_t slab, bool saved);
/* DRAINING -> UNMAPPED once no pin is left; false if one is. */
bool slab_table_unmap (struct slab_table *t, uint64_t slab);

/* A mapped slab is to move to another home, by copying pages there.  From
 * now on `copied` (a zeroed bit for each page; the caller's until the
 * move ends) tells which pages are there: slab_table_note_copied sets,
 * and a write to the page clears.
 */
void slab_table_begin_move (struct slab_table *t, uint64_t slab,
                            uint64_t *copied);
/* The next run of pages in this state that have not been copied; like
 * slab_table_next.
 */
uint64_t slab_table_next_to_copy (struct slab_table *t, uint64_t slab,
                                  enum page_state state, uint64_t *page,
                                  uint64_t n);
/* n pages, whose claim the caller holds, have been copied. */
void slab_table_note_copied (struct slab_table *t, uint64_t slab,
                             uint64_t page, uint64_t n);
/* The end of a move: the slab lives at the new home from now on, where
 * PAGE_REMOTE pages that were not copied are PAGE_LOCAL.  The caller has
 * claimed all its pages; but a PAGE_REMOTE one may become PAGE_REMOTE_ONLY
 * at any time.  -EAGAIN if such a page was not copied; -ECONNRESET if the
 * slab is not mapped any more.
 */
int slab_table_move (struct slab_table *t, uint64_t slab,
                     const struct slab_home *home);
/* The end of a move that failed. */
void slab_table_abandon_move (struct slab_table *t, uint64_t slab);
/* No pin is left on the home it had before that. */
bool slab_table_has_moved (struct slab_table *t, uint64_t slab);

#endif /* ISW_SLAB_TABLE_H */
