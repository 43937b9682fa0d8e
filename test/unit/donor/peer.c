#include <check.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "conf/state_socket.h"
#include "donor/wake.h"
#include "test/unit/donor/peer.h"

static const int64_t second_ns = 1000000000;

static gboolean
ignore (gpointer unused)
{
  (void) unused;
  return G_SOURCE_CONTINUE;
}

static gboolean
give_up (gpointer what)
{
  ck_abort_msg ("waited too long for %s", (const char *) what);
  return G_SOURCE_CONTINUE;
}

/* While this exists, waiting in the context ends by failing the test. */
static GSource *
new_alarm (struct donor *d, const char *what)
{
  GSource *alarm = wake_new (d->context, -1, give_up, (gpointer) what);

  wake_at (alarm, fabric_now_ns () + PATIENCE_NS);
  return alarm;
}

void
donor_turn (struct donor *d)
{
  g_main_context_iteration (d->context, TRUE);
}

void
donor_set_node (struct donor *d, uint64_t total_bytes,
                uint64_t available_bytes)
{
  g_autofree char *text =
    g_strdup_printf ("MemTotal: %llu kB\nMemAvailable: %llu kB\n",
                     (unsigned long long) total_bytes / 1024,
                     (unsigned long long) available_bytes / 1024);

  ck_assert (g_file_set_contents (d->meminfo_path, text, -1, NULL));
}

const struct fabric_ops *
peer_fabric (void)
{
  const char *host = getenv ("FABRIC_ADDRESS");

  return host && *host ? &fabric_verbs : &fabric_tcp;
}

void
donor_start (struct donor *d, ...)
{
  const char *host = getenv ("FABRIC_ADDRESS");
  g_autofree char *listen =
    g_strdup_printf ("%s:0", host && *host ? host : "127.0.0.1");
  g_autoptr (GPtrArray) argv = g_ptr_array_new ();
  g_autofree char *error = NULL;
  const char *option;
  va_list args;
  int r;

  memset (d, 0, sizeof *d);
  d->context = g_main_context_new ();
  d->folder = g_dir_make_tmp ("donor-XXXXXX", NULL);
  d->meminfo_path = g_build_filename (d->folder, "meminfo", NULL);
  d->state_path = g_build_filename (d->folder, "state", NULL);
  donor_set_node (d, 1 << 30, 1 << 30);

  g_ptr_array_add (argv, "infiniswap-donor");
  g_ptr_array_add (argv, "--listen");
  g_ptr_array_add (argv, listen);
  g_ptr_array_add (argv, "--fabric");
  g_ptr_array_add (argv, (char *) peer_fabric ()->name);
  g_ptr_array_add (argv, "--slab-size=1M");
  g_ptr_array_add (argv, "--headroom=0");
  g_ptr_array_add (argv, "--lock=no");
  g_ptr_array_add (argv, "--state");
  g_ptr_array_add (argv, d->state_path);
  va_start (args, d);
  while ((option = va_arg (args, const char *)))
    g_ptr_array_add (argv, (char *) option);
  va_end (args);
  g_ptr_array_add (argv, NULL);

  r = donor_config_parse ((char **) argv->pdata, &d->config, &error);
  ck_assert_msg (r == 0, "%s", error);
  d->config->meminfo_path = d->meminfo_path;
  d->config->cgroup_path = "/nonexistent";
  d->config->mountinfo_path = "/nonexistent";
  d->config->pressure_path = "/nonexistent";
  d->server = server_new (d->config, &d->lock, d->context, &error);
  ck_assert_msg (d->server, "%s", error);
}

void
donor_stop (struct donor *d)
{
  server_free (d->server);
  donor_config_free (d->config);
  g_main_context_unref (d->context);
  g_unlink (d->meminfo_path);
  /* The state socket is gone, or this fails. */
  ck_assert_int_eq (g_rmdir (d->folder), 0);
  g_free (d->meminfo_path);
  g_free (d->state_path);
  g_free (d->folder);
}

struct asking {
  const char *path, *request;
  int done_fd;
  JsonNode *answer;
  char *error;
};

static void *
ask (void *data)
{
  struct asking *a = data;

  a->answer = state_socket_ask (a->path, a->request, PATIENCE_NS, &a->error);
  eventfd_write (a->done_fd, 1);
  return NULL;
}

JsonObject *
donor_ask (struct donor *d, const char *request, char **error)
{
  struct asking a = { .path = d->state_path, .request = request,
                      .done_fd = eventfd (0, EFD_NONBLOCK) };
  GSource *done = wake_new (d->context, a.done_fd, ignore, NULL);
  pthread_t thread;
  eventfd_t count;
  JsonObject *answer = NULL;

  ck_assert_int_eq (pthread_create (&thread, NULL, ask, &a), 0);
  while (eventfd_read (a.done_fd, &count) == -1)
    donor_turn (d);
  pthread_join (thread, NULL);
  wake_free (done);
  close (a.done_fd);
  if (a.answer) {
    answer = json_object_ref (json_node_get_object (a.answer));
    json_node_unref (a.answer);
  }
  *error = a.error;
  return answer;
}

JsonObject *
donor_status (struct donor *d)
{
  g_autofree char *error = NULL;
  JsonObject *status = donor_ask (d, "status", &error);

  ck_assert_msg (status, "%s", error);
  return status;
}

gint64
donor_number (struct donor *d, const char *object, const char *member)
{
  JsonObject *status = donor_status (d);
  JsonObject *part = json_object_get_object_member (status, object);
  gint64 value;

  ck_assert (json_object_has_member (part, member));
  value = json_object_get_int_member (part, member);
  json_object_unref (status);
  return value;
}

void
donor_wait_number (struct donor *d, const char *object, const char *member,
                   gint64 value)
{
  const int64_t end_ns = fabric_now_ns () + PATIENCE_NS;

  while (donor_number (d, object, member) != value)
    ck_assert_msg (fabric_now_ns () < end_ns, "%s.%s is not %lld", object,
                   member, (long long) value);
}

void
peer_connect (struct peer *p, struct donor *d)
{
  socklen_t len;
  const struct sockaddr *addr = server_address (d->server, &len);

  memset (p, 0, sizeof *p);
  p->donor = d;
  ck_assert_int_eq (fabric_channel_connect (peer_fabric (), addr, len,
                                            PATIENCE_NS, &p->channel), 0);
  p->source = wake_new (d->context, fabric_channel_fd (p->channel),
                        ignore, NULL);
}

void
peer_close (struct peer *p)
{
  wake_free (p->source);
  fabric_channel_close (p->channel);
}

void
peer_send_raw (struct peer *p, const void *buf, size_t len)
{
  ck_assert_int_eq (fabric_channel_send (p->channel, buf, len), 0);
}

void
peer_answer (struct peer *p, const struct message *m)
{
  uint8_t buf[FABRIC_MESSAGE_MAX];
  const int len = message_encode (m, buf, sizeof buf);

  ck_assert_int_gt (len, 0);
  peer_send_raw (p, buf, len);
}

void
peer_send (struct peer *p, struct message *m)
{
  m->id = ++p->last_id;
  peer_answer (p, m);
}

static void
answer_ping (struct peer *p, const struct message *ping)
{
  p->pings++;
  if (!p->mute)
    peer_answer (p, &(struct message) { .type = MESSAGE_PONG,
                                        .id = ping->id });
}

int
peer_receive (struct peer *p, struct message *m)
{
  GSource *alarm = new_alarm (p->donor, "a message");
  uint8_t buf[FABRIC_MESSAGE_MAX];
  int r;

  for (;;) {
    r = fabric_channel_receive (p->channel, buf, sizeof buf);
    if (r < 0)
      break;
    if (r == 0) {
      donor_turn (p->donor);
      continue;
    }
    ck_assert_int_eq (message_decode (buf, r, m), 0);
    if (m->type != MESSAGE_PING) {
      r = 0;
      break;
    }
    answer_ping (p, m);
  }
  wake_free (alarm);
  return r;
}

void
peer_call (struct peer *p, struct message *m)
{
  struct message answer;

  peer_send (p, m);
  ck_assert_int_eq (peer_receive (p, &answer), 0);
  ck_assert_uint_eq (answer.id, m->id);
  *m = answer;
}

enum message_type
peer_hello_with (struct peer *p, uint8_t device, uint64_t slab_size_bytes,
                 uint64_t deadline_ns, struct message *answer)
{
  *answer = (struct message) { .type = MESSAGE_HELLO };
  memset (answer->hello.device_id, device, MESSAGE_DEVICE_ID_SIZE);
  answer->hello.slab_size_bytes = slab_size_bytes;
  answer->hello.deadline_ns = deadline_ns;
  peer_call (p, answer);
  if (answer->type == MESSAGE_WELCOME) {
    p->session = answer->welcome.session;
    p->token = answer->welcome.token;
  }
  else
    ck_assert_int_eq (answer->type, MESSAGE_REFUSED);
  return answer->type;
}

enum message_type
peer_hello (struct peer *p, uint8_t device)
{
  struct message m;

  return peer_hello_with (p, device, SLAB_BYTES, 2 * second_ns, &m);
}

void
peer_begin (struct peer *p, struct donor *d, uint8_t device)
{
  peer_connect (p, d);
  ck_assert_int_eq (peer_hello (p, device), MESSAGE_WELCOME);
}

enum message_type
peer_map (struct peer *p, uint64_t slab, struct message *m)
{
  *m = (struct message) { .type = MESSAGE_MAP };
  m->map.slab = slab;
  peer_call (p, m);
  if (m->type != MESSAGE_REFUSED)
    ck_assert_int_eq (m->type, MESSAGE_MR_INFO);
  return m->type;
}

void
peer_unmap (struct peer *p, uint64_t grant)
{
  struct message m = { .type = MESSAGE_UNMAP };

  m.unmap.grant = grant;
  peer_call (p, &m);
  ck_assert_int_eq (m.type, MESSAGE_DONE);
  ck_assert_uint_eq (m.done.grant, grant);
}

void
peer_query (struct peer *p, struct message *m)
{
  *m = (struct message) { .type = MESSAGE_QUERY_MEM };
  peer_call (p, m);
  ck_assert_int_eq (m->type, MESSAGE_FREE_MEM);
}

static void
receive_grants (struct peer *p, struct message *m, enum message_type type,
                uint32_t count)
{
  ck_assert_int_eq (peer_receive (p, m), 0);
  ck_assert_int_eq (m->type, type);
  ck_assert_uint_eq (m->grants.count, count);
}

void
peer_receive_check (struct peer *p, struct message *m, uint32_t count)
{
  receive_grants (p, m, MESSAGE_CHECK_ACTIVITY, count);
}

void
peer_receive_evict (struct peer *p, struct message *m, uint32_t count)
{
  receive_grants (p, m, MESSAGE_EVICT, count);
}

void
peer_activity (struct peer *p, const struct message *check,
               uint64_t activity_milli)
{
  struct message m = { .type = MESSAGE_ACTIVITY, .id = check->id };
  uint32_t i;

  m.activity.count = check->grants.count;
  for (i = 0; i < m.activity.count; i++) {
    m.activity.of[i].grant = check->grants.grants[i];
    m.activity.of[i].activity_milli = activity_milli;
  }
  peer_answer (p, &m);
}

void
peer_done (struct peer *p, uint64_t id, uint64_t grant)
{
  struct message m = { .type = MESSAGE_DONE, .id = id };

  m.done.grant = grant;
  peer_answer (p, &m);
}

void
peer_expect_end (struct peer *p)
{
  struct message m;

  ck_assert_int_lt (peer_receive (p, &m), 0);
}

static void
open_memory (struct peer_lane *l)
{
  l->buffer = aligned_alloc (4096, FABRIC_TRANSFER_MAX);
  ck_assert_ptr_nonnull (l->buffer);
  memset (l->buffer, 0, FABRIC_TRANSFER_MAX);
  ck_assert_int_eq (fabric_domain_create (l->peer->channel, &l->domain), 0);
  ck_assert_int_eq (fabric_region_add (l->domain, l->buffer,
                                       FABRIC_TRANSFER_MAX, false,
                                       &l->region), 0);
}

int
peer_lane_open_with (struct peer_lane *l, struct peer *p,
                     uint64_t session, uint64_t token)
{
  const struct fabric_preface preface = { FABRIC_LANE, session, token };
  GSource *alarm = new_alarm (p->donor, "a lane"), *source;
  socklen_t len;
  const struct sockaddr *addr = server_address (p->donor->server, &len);
  int r;

  memset (l, 0, sizeof *l);
  l->peer = p;
  open_memory (l);
  ck_assert_int_eq (fabric_queue_connect (l->domain, addr, len, &preface,
                                          PATIENCE_NS, &l->queue), 0);
  source = wake_new (p->donor->context, fabric_queue_fd (l->queue),
                     ignore, NULL);
  while ((r = fabric_queue_step (l->queue)) == -EAGAIN)
    donor_turn (p->donor);
  wake_free (source);
  wake_free (alarm);
  if (r < 0)
    peer_lane_close (l);
  return r;
}

int
peer_lane_open (struct peer_lane *l, struct peer *p)
{
  return peer_lane_open_with (l, p, p->session, p->token);
}

void
peer_lane_close (struct peer_lane *l)
{
  fabric_queue_free (l->queue);
  fabric_region_remove (l->region);
  fabric_domain_free (l->domain);
  free (l->buffer);
}

int
peer_lane_io (struct peer_lane *l, enum fabric_type type,
              const struct message *mr_info, uint64_t offset,
              uint32_t length)
{
  struct fabric_op op = {
    .type = type,
    .region = l->region,
    .local = l->buffer,
    .length = length,
    .remote = mr_info->mr_info.address + offset,
    .key = mr_info->mr_info.key,
  };
  int r;

  r = fabric_queue_post (l->queue, &op);
  if (r < 0)
    return r;
  fabric_wait (&l->queue, 1, fabric_now_ns () + PATIENCE_NS);
  ck_assert (op.done);
  return op.status;
}
