#include "programs.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include <glib/gstdio.h>

static char *folder;
static GPtrArray *paths, *sockets;
static GMainContext *context;
static atomic_bool stop;

static void
close_socket (void *socket)
{
  state_socket_close (socket);
}

void
programs_setup (void)
{
  folder = g_dir_make_tmp ("isw-ctl-XXXXXX", NULL);
  context = g_main_context_new ();
  paths = g_ptr_array_new_with_free_func (g_free);
  sockets = g_ptr_array_new_with_free_func (close_socket);
}

void
programs_teardown (void)
{
  g_ptr_array_unref (sockets);
  g_ptr_array_unref (paths);
  g_main_context_unref (context);
  g_rmdir (folder);
  g_free (folder);
}

const char *
programs_folder (void)
{
  return folder;
}

char *
programs_add (const char *name, state_socket_handler answer, void *data)
{
  char *path = g_build_filename (folder, name, NULL), *error = NULL;
  struct state_socket *s = state_socket_bind (path, &error);

  ck_assert_msg (s != NULL, "%s", error);
  state_socket_serve (s, context, answer, data);
  g_ptr_array_add (paths, path);
  g_ptr_array_add (sockets, s);
  return path;
}

static void *
serve (void *data)
{
  while (!atomic_load (&stop))
    g_main_context_iteration (context, TRUE);
  return data;
}

struct outcome
programs_run (int (*command) (const void *options, FILE *out, FILE *err),
              const void *options)
{
  struct outcome r;
  size_t out_len, err_len;
  FILE *out = open_memstream (&r.out, &out_len);
  FILE *err = open_memstream (&r.err, &err_len);
  pthread_t thread;

  atomic_store (&stop, false);
  ck_assert_int_eq (pthread_create (&thread, NULL, serve, NULL), 0);
  r.status = command (options, out, err);
  atomic_store (&stop, true);
  g_main_context_wakeup (context);
  pthread_join (thread, NULL);
  fclose (out);
  fclose (err);
  return r;
}

void
outcome_free (struct outcome *r)
{
  free (r->out);
  free (r->err);
}
