#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include <glib.h>
#include <json-glib/json-glib.h>

#include "conf/state_socket.h"
#include "ctl/attach.h"
#include "ctl/detach.h"
#include "ctl/page.h"
#include "ctl/runtime.h"

enum {
  POLL_US = 200000,
  AGAIN_US = 1000000,           /* between attempts, with --wait */
  LINE_US = 2000000,            /* between lines where there is no terminal */
  END_MS = 10000,               /* for a process that has nothing left to do */
};

static const int64_t ANSWER_NS = INT64_C (90000000000);

struct run {
  const struct detach_options *o;
  FILE *out, *err;
  struct runtime files;
  int supervisor_fd;            /* a pidfd; -1: not known yet */
  int64_t began_us, told_us;
  uint64_t first_mib;           /* that was swapped out at first */
  bool showing;                 /* a line in the terminal that goes on */
  bool asked;                   /* to detach; then for the status */
  bool waiting;                 /* for room */
  bool cancelled;
};

/* ---- what is shown ---- */

static void
end_line (struct run *r)
{
  if (r->showing)
    fprintf (r->out, "\n");
  r->showing = false;
}

static void
show (struct run *r, const char *state, uint64_t mib)
{
  const int64_t now_us = g_get_monotonic_time ();
  g_autofree char *line = strcmp (state, "stopping") == 0 ?
    g_strdup_printf ("%s: all is back in memory; the server stops",
                     r->o->name) :
    g_strdup_printf ("%s: %" G_GUINT64_FORMAT "M of %" G_GUINT64_FORMAT
                     "M still swapped out", r->o->name, mib, r->first_mib);

  if (r->o->terminal) {
    fprintf (r->out, "\r%-60s", line);
    r->showing = true;
  } else if (now_us - r->told_us >= LINE_US) {
    fprintf (r->out, "%s\n", line);
    r->told_us = now_us;
  }
  fflush (r->out);
}

static int
refuse (struct run *r, const char *problem)
{
  end_line (r);
  fprintf (r->err, "infiniswapctl: %s: not detached, it is served as before: "
           "%s\n", r->o->name, problem);
  return 1;
}

static int
succeed (struct run *r, const char *how)
{
  end_line (r);
  fprintf (r->out, "%s: %s\n", r->o->name, how);
  return 0;
}

/* ---- asking the supervisor ---- */

/* An object, for json_node_unref; NULL if nobody answers. */
static JsonNode *
ask (const struct run *r, const char *request)
{
  g_autofree char *error = NULL;
  JsonNode *node = state_socket_ask (r->files.control_path, request,
                                     ANSWER_NS, &error);

  if (node != NULL && !JSON_NODE_HOLDS_OBJECT (node)) {
    json_node_unref (node);
    return NULL;
  }
  return node;
}

static const char *
text (JsonObject *status, const char *name)
{
  JsonNode *node = json_object_get_member (status, name);
  const char *value = node != NULL && JSON_NODE_HOLDS_VALUE (node) ?
    json_node_get_string (node) : NULL;

  return value != NULL ? value : "";
}

static uint64_t
number (JsonObject *status, const char *name)
{
  double value;

  return page_number (status, name, &value) && value > 0 ? value : 0;
}

static void
watch_supervisor (struct run *r, JsonObject *status)
{
  if (r->supervisor_fd == -1)
    r->supervisor_fd = pidfd_open (number (status, "pid"), 0);
}

/* ---- waiting ---- */

static bool
timed_out (const struct run *r)
{
  return r->o->timeout_ns != 0 &&
    g_get_monotonic_time () - r->began_us >= r->o->timeout_ns / 1000;
}

static void
check_time (struct run *r)
{
  JsonNode *node;

  if (r->cancelled || !timed_out (r))
    return;
  r->cancelled = true;
  node = ask (r, "cancel");
  if (node != NULL)
    json_node_unref (node);
}

/* -1 to detach again later. */
static int
refused (struct run *r, const char *problem)
{
  if (r->cancelled)
    return refuse (r, "swapoff was not done within --timeout");
  if (!r->o->wait || timed_out (r))
    return refuse (r, problem);
  if (!r->waiting) {
    end_line (r);
    fprintf (r->err, "infiniswapctl: %s: waiting: %s\n", r->o->name, problem);
  }
  r->waiting = true;
  r->asked = false;
  g_usleep (AGAIN_US);
  return -1;
}

/* -1 to ask again later. */
static int
look (struct run *r, JsonObject *status)
{
  const char *state = text (status, "state");
  const uint64_t mib = number (status, "used_bytes") >> 20;

  watch_supervisor (r, status);
  if (strcmp (state, "attached") == 0)
    return refused (r, text (status, "problem"));
  r->first_mib = MAX (r->first_mib, mib);
  show (r, state, mib);
  if (strcmp (state, "detaching") == 0)
    check_time (r);
  return -1;
}

/* All is gone when the record is, but for the process itself. */
static void
await_supervisor (const struct run *r)
{
  struct pollfd p = { .fd = r->supervisor_fd, .events = POLLIN };

  if (r->supervisor_fd != -1)
    poll (&p, 1, END_MS);
}

/* Is there nobody who could answer?  Then it is taken over first. */
static int
take_over (struct run *r)
{
  g_autofree char *error = NULL;
  int status = runtime_lock (&r->files, &error);

  if (status == -EBUSY)
    return 0;
  if (status < 0) {
    fprintf (r->err, "infiniswapctl: %s\n", error);
    return 1;
  }
  close (r->files.lock_fd);
  r->files.lock_fd = -1;
  return attach_take_over (r->o->name);
}

static int
detach (struct run *r)
{
  const char *request = r->o->force ? "detach force" : "detach";
  bool attached = false;
  int status = -1;

  while (status == -1) {
    JsonNode *node;

    if (!runtime_exists (&r->files)) {
      await_supervisor (r);
      return succeed (r, attached ? "detached" : "not attached");
    }
    node = ask (r, r->asked ? "status" : request);
    if (node != NULL) {
      r->asked = attached = true;
      status = look (r, json_node_get_object (node));
      json_node_unref (node);
    } else {
      r->asked = false;
      if (take_over (r) != 0)
        return 1;
    }
    if (status == -1)
      g_usleep (POLL_US);
  }
  return status;
}

int
detach_run (const struct detach_options *o, FILE *out, FILE *err)
{
  struct run r = {
    .o = o, .out = out, .err = err, .supervisor_fd = -1,
    .began_us = g_get_monotonic_time (), .told_us = g_get_monotonic_time (),
  };
  int status;

  runtime_init (&r.files, o->folder, o->name);
  status = detach (&r);
  runtime_clear (&r.files);
  if (r.supervisor_fd != -1)
    close (r.supervisor_fd);
  return status;
}
