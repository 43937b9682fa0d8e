#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <glib-unix.h>

#include "conf/state_socket.h"
#include "conf/units.h"
#include "ctl/page.h"
#include "ctl/sockets.h"
#include "ctl/terminal.h"
#include "ctl/top.h"
#include "ctl/top_page.h"

/* How long it is said that a program was restarted. */
static const int64_t restarted_us = 10000000;

struct top;

struct program {
  char *socket;
  struct ask *asking;           /* NULL: not */
  JsonNode *before, *now;
  int64_t before_us, now_us;
  int64_t restarted_at_us;      /* 0: not */
  char *problem;
};

struct top {
  const struct top_options *o;
  FILE *out;
  GPtrArray *programs;          /* struct program * */
  unsigned asking;              /* those that this page waits for */
  bool begun;                   /* there is something to compare with */
  uint64_t pages;
  bool unanswered;
  int status;
  struct terminal *terminal;    /* NULL: plain */
  GMainLoop *loop;
};

/* One question, asked by a thread of its own, so that a program that does
 * not answer holds nothing up.  `top` and the program are used by the main
 * thread alone, and only while `top` still wants to know.
 */
struct ask {
  struct top *top;              /* NULL: it has ended */
  struct program *program;
  bool late;                    /* no page waits for it any more */
  char *socket;
  int64_t timeout_ns;
  JsonNode *answer;
  char *error;
  int64_t at_us;
};

/* ---- showing ---- */

static JsonObject *
object_of (JsonNode *node)
{
  return node != NULL ? json_node_get_object (node) : NULL;
}

static struct top_program
show_program (const struct program *p)
{
  return (struct top_program) {
    .socket = p->socket,
    .rates = { object_of (p->before), object_of (p->now),
               (p->now_us - p->before_us) / 1e6 },
    .restarted = p->restarted_at_us > 0 &&
      g_get_monotonic_time () - p->restarted_at_us < restarted_us,
    .problem = p->problem,
  };
}

static char *
make_page (const struct top *t)
{
  g_autofree struct top_program *shown =
    g_new (struct top_program, t->programs->len);

  for (guint i = 0; i < t->programs->len; i++)
    shown[i] = show_program (t->programs->pdata[i]);
  return top_page (shown, t->programs->len);
}

static char *
make_title (const struct top *t)
{
  char interval[UNITS_TEXT_MAX], now[16];
  time_t seconds = time (NULL);
  struct tm tm;

  localtime_r (&seconds, &tm);
  strftime (now, sizeof now, "%H:%M:%S", &tm);
  return g_strdup_printf ("infiniswapctl top  %s  every %s%s", now,
                          units_format_duration (t->o->interval_ns, interval),
                          t->terminal ? "   q: quit, space: now, up, down" :
                          "");
}

static void
end (struct top *t, int status)
{
  if (t->status == 0)
    t->status = status;
  g_main_loop_quit (t->loop);
}

static void
show (struct top *t)
{
  g_autofree char *title = make_title (t);
  g_autofree char *page = make_page (t);

  if (t->terminal != NULL) {
    terminal_draw (t->terminal, title, page);
    return;
  }
  fprintf (t->out, "%s%s\n%s", t->pages > 0 ? "\n" : "", title, page);
  t->pages++;
  for (guint i = 0; i < t->programs->len; i++)
    if (((struct program *) t->programs->pdata[i])->problem != NULL)
      t->unanswered = true;
  if (fflush (t->out) != 0)
    end (t, 1);                 /* main says so */
  else if (t->pages == t->o->count)
    end (t, t->unanswered);
}

/* The first answers of all are what the next are compared with. */
static void
show_round (struct top *t)
{
  if (t->terminal != NULL || t->begun)
    show (t);
  t->begun = true;
}

/* ---- asking ---- */

static void
take_answer (struct program *p, struct ask *a)
{
  g_clear_pointer (&p->problem, g_free);
  g_clear_pointer (&p->before, json_node_unref);
  if (a->answer == NULL) {
    g_clear_pointer (&p->now, json_node_unref);
    p->problem = g_steal_pointer (&a->error);
    return;
  }
  p->before = p->now;
  p->before_us = p->now_us;
  p->now = g_steal_pointer (&a->answer);
  p->now_us = a->at_us;
  if (p->before != NULL &&
      rates_restarted (object_of (p->before), object_of (p->now))) {
    g_clear_pointer (&p->before, json_node_unref);
    p->restarted_at_us = p->now_us;
  }
}

static void
free_ask (gpointer data)
{
  struct ask *a = data;

  g_clear_pointer (&a->answer, json_node_unref);
  g_free (a->error);
  g_free (a->socket);
  g_free (a);
}

static gboolean
on_answer (gpointer data)
{
  struct ask *a = data;
  struct top *t = a->top;

  if (t == NULL)
    return G_SOURCE_REMOVE;
  a->program->asking = NULL;
  take_answer (a->program, a);
  if (!a->late && --t->asking == 0)
    show_round (t);
  else if (a->late && t->terminal != NULL)
    show (t);
  return G_SOURCE_REMOVE;
}

static void *
ask_in_thread (void *data)
{
  struct ask *a = data;
  GSource *done;

  a->answer = state_socket_ask (a->socket, "status", a->timeout_ns, &a->error);
  a->at_us = g_get_monotonic_time ();
  if (a->answer != NULL && !JSON_NODE_HOLDS_OBJECT (a->answer)) {
    g_clear_pointer (&a->answer, json_node_unref);
    a->error = g_strdup ("the answer is no status document");
  }
  done = g_idle_source_new ();
  g_source_set_callback (done, on_answer, a, free_ask);
  g_source_attach (done, NULL);
  g_source_unref (done);
  return NULL;
}

static void
ask (struct top *t, struct program *p)
{
  struct ask *a = g_new0 (struct ask, 1);
  pthread_attr_t attr;
  pthread_t thread;

  a->top = t;
  a->program = p;
  a->socket = g_strdup (p->socket);
  a->timeout_ns = t->o->timeout_ns;
  pthread_attr_init (&attr);
  pthread_attr_setdetachstate (&attr, PTHREAD_CREATE_DETACHED);
  if (pthread_create (&thread, &attr, ask_in_thread, a) == 0) {
    p->asking = a;
    t->asking++;
  }
  else {
    g_free (p->problem);
    p->problem = g_strdup ("cannot create a thread to ask it");
    free_ask (a);
  }
  pthread_attr_destroy (&attr);
}

static void
add_program (struct top *t, const char *socket)
{
  struct program *p;

  for (guint i = 0; i < t->programs->len; i++)
    if (strcmp (((struct program *) t->programs->pdata[i])->socket,
                socket) == 0)
      return;
  p = g_new0 (struct program, 1);
  p->socket = g_strdup (socket);
  g_ptr_array_add (t->programs, p);
}

/* Those that come later are seen too. */
static bool
find_programs (struct top *t, FILE *err)
{
  g_autoptr (GPtrArray) found = sockets_find (t->o->sockets, t->o->folder,
                                              "top", err);

  for (guint i = 0; found != NULL && i < found->len; i++)
    add_program (t, found->pdata[i]);
  return found != NULL;
}

static void
ask_all (struct top *t)
{
  for (guint i = 0; i < t->programs->len; i++) {
    struct program *p = t->programs->pdata[i];

    if (p->asking == NULL)
      ask (t, p);
  }
}

/* What has been silent for an interval is not waited for. */
static void
give_up_waiting (struct top *t)
{
  for (guint i = 0; i < t->programs->len; i++) {
    struct program *p = t->programs->pdata[i];

    if (p->asking == NULL || p->asking->late)
      continue;
    p->asking->late = true;
    if (p->problem == NULL)
      p->problem = g_strdup ("no answer yet");
  }
  t->asking = 0;
  show_round (t);
}

static gboolean
on_interval (gpointer data)
{
  struct top *t = data;

  if (t->asking > 0)
    give_up_waiting (t);
  if (!g_main_loop_is_running (t->loop))
    return G_SOURCE_CONTINUE;
  find_programs (t, NULL);
  ask_all (t);
  return G_SOURCE_CONTINUE;
}

/* ---- keys and signals ---- */

static gboolean
on_signal (gpointer data)
{
  end (data, 0);
  return G_SOURCE_CONTINUE;
}

static gboolean
on_resize (gpointer data)
{
  show (data);
  return G_SOURCE_CONTINUE;
}

static void
stop (struct top *t)
{
  terminal_leave (t->terminal);
  raise (SIGSTOP);
  terminal_enter (t->terminal);
  show (t);
}

static gboolean
on_key (gint fd, GIOCondition condition, gpointer data)
{
  struct top *t = data;
  enum terminal_key keys[16];
  size_t n = terminal_read (t->terminal, keys);

  (void) fd;
  (void) condition;
  for (size_t i = 0; i < n; i++)
    switch (keys[i]) {
    case TERMINAL_QUIT:
      end (t, 0);
      return G_SOURCE_REMOVE;
    case TERMINAL_NOW:
      ask_all (t);
      break;
    case TERMINAL_STOP:
      stop (t);
      break;
    case TERMINAL_SCROLLED:
      show (t);
      break;
    }
  return G_SOURCE_CONTINUE;
}

/* ---- the whole ---- */

static void
free_program (gpointer data)
{
  struct program *p = data;

  if (p->asking != NULL)
    p->asking->top = NULL;
  g_clear_pointer (&p->before, json_node_unref);
  g_clear_pointer (&p->now, json_node_unref);
  g_free (p->problem);
  g_free (p->socket);
  g_free (p);
}

static int
run_loop (struct top *t)
{
  static const int signals[] = { SIGINT, SIGTERM, SIGHUP };

  t->loop = g_main_loop_new (NULL, FALSE);
  for (size_t i = 0; i < G_N_ELEMENTS (signals); i++)
    g_unix_signal_add (signals[i], on_signal, t);
  if (!t->o->plain && terminal_available ())
    t->terminal = terminal_open ();
  if (t->terminal != NULL) {
    g_unix_signal_add (SIGWINCH, on_resize, t);
    g_unix_fd_add (STDIN_FILENO, G_IO_IN | G_IO_HUP | G_IO_ERR, on_key, t);
    show (t);
  }
  ask_all (t);
  g_timeout_add (MAX (t->o->interval_ns / 1000000, 1), on_interval, t);
  g_main_loop_run (t->loop);
  g_clear_pointer (&t->terminal, terminal_close);
  g_main_loop_unref (t->loop);
  return t->status;
}

int
top_run (const struct top_options *o, FILE *out, FILE *err)
{
  struct top t = {
    .o = o,
    .out = out,
    .programs = g_ptr_array_new_with_free_func (free_program),
  };
  int status = find_programs (&t, err) ? run_loop (&t) : 1;

  g_ptr_array_unref (t.programs);
  return status;
}
