#include "nbdkit-plugin/sequences.h"

#include <stddef.h>

static struct sequence *
find_continued (struct sequences *s, uint64_t first)
{
  for (unsigned i = 0; i < SEQUENCES; i++)
    if (s->of[i].next == first && s->of[i].reads > 0)
      return &s->of[i];
  return NULL;
}

static struct sequence *
replace_oldest (struct sequences *s)
{
  struct sequence *oldest = &s->of[0];

  for (unsigned i = 1; i < SEQUENCES; i++)
    if (s->of[i].turn < oldest->turn)
      oldest = &s->of[i];
  *oldest = (struct sequence) { 0 };
  return oldest;
}

struct sequence *
sequences_note (struct sequences *s, uint64_t first, uint32_t n)
{
  struct sequence *q = find_continued (s, first);

  if (!q)
    q = replace_oldest (s);
  q->next = first + n;
  q->pages += n;
  q->reads++;
  q->turn = ++s->turn;
  return q;
}
