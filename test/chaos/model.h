/* What a device may hold, while many requests are in flight.
 *
 * Each byte is a register of its own.  A read may return what was written
 * by any write that had begun before the read ended, unless another write,
 * which began only after that one had ended, had itself ended before the
 * read began.  Of acknowledged writes that overlapped in time one stays;
 * which, a read decides, and all later reads must agree.  A write that
 * ended with an error has been done or not, for each byte.
 *
 * Functions may be called by any thread and do not block for long.  Times
 * are of the model's own clock, which steps with each request's begin and
 * end.
 */

#ifndef CHAOS_MODEL_H
#define CHAOS_MODEL_H

#include <stdbool.h>
#include <stdint.h>

enum { MODEL_PAGE = 4096 };

struct model;
struct model_write;

/* One request; offset, len and seed are the caller's, the rest is the
 * model's.
 */
struct model_range {
  uint64_t offset;
  uint32_t len;
  uint64_t seed;                /* of what is written: see pattern.h */
  uint64_t start, end;
  struct model_write *write;
};

/* All zeros.  Never fails: a test that has no memory ends. */
struct model *model_new (uint64_t size_bytes);
void model_free (struct model *m);

/* Before a request is sent.  False: too much goes on there for now, or the
 * range is empty; take another one.
 */
bool model_begin_read (struct model *m, struct model_range *r);
bool model_begin_write (struct model *m, struct model_range *r);

/* When it was answered.  False: wrong, and explained on standard error.
 * A read without a result passes NULL.
 */
bool model_end_read (struct model *m, const struct model_range *r,
                     const unsigned char *got);
void model_end_write (struct model *m, struct model_range *r, bool failed);

/* A flush that begins, and that has succeeded. */
uint64_t model_now (struct model *m);
void model_flushed (struct model *m, uint64_t start);

/* Has anything there been written since the last successful flush began?
 * Then there may have been no copy of it on the disk.
 */
bool model_is_unflushed (struct model *m, uint64_t offset, uint32_t len);

/* A flush, or a write with FUA, has succeeded: copy a page that it must have
 * brought to the disk, and whose content is known.  False if it is not like
 * that, as where another write met it.  *version is for model_is_unchanged.
 */
bool model_get_flushed (struct model *m, uint64_t page,
                        const struct model_range *r, unsigned char *content,
                        uint64_t *version);
bool model_is_unchanged (struct model *m, uint64_t page, uint64_t version);

/* With nothing in flight and everything read since: what each page is. */
const unsigned char *model_content (const struct model *m);

#endif /* CHAOS_MODEL_H */
