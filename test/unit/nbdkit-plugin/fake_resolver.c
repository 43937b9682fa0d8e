#include "fake_resolver.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <gio/gio.h>

static struct {
  pthread_mutex_t lock;         /* guards all below */
  pthread_cond_t changed;
  char *targets, *error;        /* neither: hold */
  GPtrArray *held;              /* GTask * */
  unsigned asked;
  char name[256];
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER,
           .changed = PTHREAD_COND_INITIALIZER };

typedef struct { GResolver parent; } FakeResolver;
typedef struct { GResolverClass parent; } FakeResolverClass;
GType fake_resolver_get_type (void);
G_DEFINE_TYPE (FakeResolver, fake_resolver, G_TYPE_RESOLVER)

static void
free_targets (gpointer list)
{
  g_resolver_free_targets (list);
}

/* Under the lock. */
static void
answer (GTask *task)
{
  g_auto (GStrv) words = NULL;
  GList *list = NULL;

  if (fake.error) {
    g_task_return_new_error (task, G_RESOLVER_ERROR,
                             G_RESOLVER_ERROR_TEMPORARY_FAILURE, "%s",
                             fake.error);
    return;
  }
  words = g_strsplit (fake.targets, " ", -1);
  for (char **w = words; *w && **w; w++) {
    char *colon = strrchr (*w, ':');

    *colon = '\0';
    list = g_list_append (list,
                          g_srv_target_new (*w, atoi (colon + 1), 1, 1));
  }
  g_task_return_pointer (task, list, free_targets);
}

static void
ask (GResolver *resolver, const gchar *name, GCancellable *cancellable,
     GAsyncReadyCallback callback, gpointer data)
{
  GTask *task = g_task_new (resolver, cancellable, callback, data);

  pthread_mutex_lock (&fake.lock);
  fake.asked++;
  g_strlcpy (fake.name, name, sizeof fake.name);
  if (fake.targets || fake.error) {
    answer (task);
    g_object_unref (task);
  }
  else
    g_ptr_array_add (fake.held, task);
  pthread_cond_broadcast (&fake.changed);
  pthread_mutex_unlock (&fake.lock);
}

static GList *
finish (GResolver *resolver, GAsyncResult *result, GError **error)
{
  (void) resolver;
  return g_task_propagate_pointer (G_TASK (result), error);
}

static void
fake_resolver_class_init (FakeResolverClass *class)
{
  class->parent.lookup_service_async = ask;
  class->parent.lookup_service_finish = finish;
}

static void
fake_resolver_init (FakeResolver *resolver)
{
  (void) resolver;
}

void
fake_resolver_start (void)
{
  g_autoptr (GResolver) resolver =
    g_object_new (fake_resolver_get_type (), NULL);

  fake.held = g_ptr_array_new_with_free_func (g_object_unref);
  g_resolver_set_default (resolver);
  fake_resolver_answer ("");
}

static void
set (const char *targets, const char *error)
{
  pthread_mutex_lock (&fake.lock);
  g_free (fake.targets);
  g_free (fake.error);
  fake.targets = g_strdup (targets);
  fake.error = g_strdup (error);
  if (targets || error) {
    for (guint i = 0; i < fake.held->len; i++)
      answer (fake.held->pdata[i]);
    g_ptr_array_set_size (fake.held, 0);
  }
  pthread_mutex_unlock (&fake.lock);
}

void
fake_resolver_answer (const char *targets)
{
  set (targets, NULL);
}

void
fake_resolver_fail (const char *error)
{
  set (NULL, error);
}

void
fake_resolver_hold (void)
{
  set (NULL, NULL);
}

void
fake_resolver_wait_asked (unsigned times)
{
  pthread_mutex_lock (&fake.lock);
  times += fake.asked;
  while (fake.asked < times)
    pthread_cond_wait (&fake.changed, &fake.lock);
  pthread_mutex_unlock (&fake.lock);
}

const char *
fake_resolver_name (void)
{
  return fake.name;
}
