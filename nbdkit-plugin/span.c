#include "nbdkit-plugin/span.h"

#include <string.h>

_Static_assert (SPAN_PAGES_MAX * PAGE_SIZE_BYTES == FABRIC_TRANSFER_MAX,
                "a span is one transfer at most");

struct span
span_cut (uint64_t slab_size_bytes, void *buf, uint32_t size, uint64_t offset)
{
  uint64_t len = FABRIC_TRANSFER_MAX - offset % PAGE_SIZE_BYTES;

  if (len > slab_size_bytes - offset % slab_size_bytes)
    len = slab_size_bytes - offset % slab_size_bytes;
  if (len > size)
    len = size;
  return (struct span) { .buf = buf, .offset = offset, .len = len };
}

struct span
span_of_pages (void *buf, uint64_t page, uint32_t n)
{
  return (struct span) {
    .buf = buf, .offset = page * PAGE_SIZE_BYTES, .len = n * PAGE_SIZE_BYTES,
  };
}

char *
span_overlap (const struct span *s, uint64_t page, uint32_t *in_page,
              uint32_t *len)
{
  uint64_t start = page * PAGE_SIZE_BYTES, end = start + PAGE_SIZE_BYTES;
  uint64_t from = s->offset > start ? s->offset : start;
  uint64_t to = s->offset + s->len < end ? s->offset + s->len : end;

  *in_page = from - start;
  *len = to - from;
  return s->buf + (from - s->offset);
}

void
span_fill (const struct span *s, uint64_t page, uint32_t n,
           const char *content)
{
  for (uint32_t i = 0; i < n; i++) {
    uint32_t in_page, len;
    char *to = span_overlap (s, page + i, &in_page, &len);

    if (content)
      memcpy (to, content + i * PAGE_SIZE_BYTES + in_page, len);
    else
      memset (to, 0, len);
  }
}
