#include "nbdkit-plugin/outbox.h"

#include <errno.h>

void
outbox_init (struct outbox *o, size_t limit)
{
  *o = (struct outbox) { .limit = limit };
  g_queue_init (&o->answers);
  g_queue_init (&o->requests);
}

void
outbox_clear (struct outbox *o)
{
  g_queue_clear_full (&o->answers, (GDestroyNotify) g_bytes_unref);
  g_queue_clear_full (&o->requests, (GDestroyNotify) g_bytes_unref);
}

static int
add (struct outbox *o, GQueue *queue, const struct message *m)
{
  char buf[FABRIC_MESSAGE_MAX];
  int r;

  if (o->answers.length + o->requests.length >= o->limit)
    return -ENOBUFS;
  r = message_encode (m, buf, sizeof buf);
  if (r < 0)
    return r;
  g_queue_push_tail (queue, g_bytes_new (buf, r));
  return 0;
}

int
outbox_add_answer (struct outbox *o, const struct message *m)
{
  return add (o, &o->answers, m);
}

int
outbox_add_request (struct outbox *o, const struct message *m)
{
  return add (o, &o->requests, m);
}

void
outbox_note (struct outbox *o, enum message_type type)
{
  switch (type) {
  case MESSAGE_WELCOME:
  case MESSAGE_REFUSED:
  case MESSAGE_FREE_MEM:
  case MESSAGE_MR_INFO:
  case MESSAGE_DONE:
    if (o->unanswered > 0)
      o->unanswered--;
    break;
  default:
    break;
  }
}

/* What is to leave next, or NULL. */
static GQueue *
next_queue (struct outbox *o)
{
  if (o->answers.length > 0)
    return &o->answers;
  if (o->requests.length > 0 && o->unanswered < OUTBOX_REQUESTS_MAX)
    return &o->requests;
  return NULL;
}

int
outbox_send (struct outbox *o, struct fabric_channel *channel)
{
  GQueue *queue;
  int sent = 0;

  while ((queue = next_queue (o)) != NULL) {
    GBytes *bytes = g_queue_peek_head (queue);
    int r = fabric_channel_send (channel, g_bytes_get_data (bytes, NULL),
                                 g_bytes_get_size (bytes));

    if (r == -ENOBUFS)
      break;
    if (r < 0)
      return r;
    g_bytes_unref (g_queue_pop_head (queue));
    if (queue == &o->requests)
      o->unanswered++;
    sent++;
  }
  return sent;
}
