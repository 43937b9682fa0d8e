/* A piece of a request: within one slab, at most SPAN_PAGES_MAX pages. */

#ifndef ISW_SPAN_H
#define ISW_SPAN_H

#include <stdint.h>

#include "nbdkit-plugin/lane_pool.h"
#include "nbdkit-plugin/slot_pool.h"

struct span {
  char *buf;
  uint64_t offset;              /* bytes, in the device */
  uint32_t len;
};

/* The longest span at the front of a request. */
struct span span_cut (uint64_t slab_size_bytes, void *buf, uint32_t size,
                      uint64_t offset);

/* The n whole pages from `page` on, in buf. */
struct span span_of_pages (void *buf, uint64_t page, uint32_t n);

/* Pages that it touches. */
static inline uint64_t
span_first_page (const struct span *s)
{
  return s->offset / PAGE_SIZE_BYTES;
}

static inline uint32_t
span_pages (const struct span *s)
{
  return (s->offset + s->len - 1) / PAGE_SIZE_BYTES - span_first_page (s) + 1;
}

/* Where a page's bytes that belong to the span are: from *in_page on in
 * the page, at the returned place in the span's buffer, *len bytes.
 */
char *span_overlap (const struct span *s, uint64_t page, uint32_t *in_page,
                    uint32_t *len);

/* Give the span its part of n pages from `page` on; NULL: zeros. */
void span_fill (const struct span *s, uint64_t page, uint32_t n,
                const char *content);

/* Sets of a span's pages: bit i is page i.  n bits from bit i on; and how
 * many bits are set in a row from bit i on.
 */
static inline uint32_t
pages_mask (uint32_t i, uint32_t n)
{
  return ((UINT64_C (1) << n) - 1) << i;
}

static inline uint32_t
pages_run (uint32_t set, uint32_t i)
{
  uint64_t clear = ~(uint64_t) set >> i;

  return __builtin_ctzll (clear);
}

#endif /* ISW_SPAN_H */
