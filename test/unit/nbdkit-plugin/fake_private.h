/* What the files of the fake fabric share.  Everything is guarded by
 * fake.lock; the functions are called with it held, but for those of the
 * fabric and of the engine, which take it.
 */

#ifndef TEST_FAKE_PRIVATE_H
#define TEST_FAKE_PRIVATE_H

#include <check.h>
#include <pthread.h>
#include <time.h>

#include "fake_fabric.h"

/* Check's assertions allocate even when they hold, which would disturb a
 * test that counts.
 */
#define must(condition)                                 \
  do {                                                  \
    if (!(condition))                                   \
      ck_abort_msg ("fake fabric: " #condition);        \
  } while (0)

enum { INBOX = 64, HELD_MESSAGES = 64, GRANTS = 64 };

struct session {
  struct session *next;
  struct fake_donor *donor;
  struct channel *channel;      /* NULL once closed */
  uint64_t id, token;
  uint8_t device_id[MESSAGE_DEVICE_ID_SIZE];
  bool welcomed, ended;
};

struct grant {
  struct session *session;      /* NULL: free entry */
  uint64_t id, key, address, length;
  char *memory;
};

struct fake_donor {
  struct fake_script script;
  struct session *sessions;     /* newest first; freed at the end */
  struct grant grants[GRANTS];
  struct { struct session *session; struct message m; } held[HELD_MESSAGES];
  unsigned n_held;
  unsigned heard[MESSAGE_PONG + 1];
  struct message last[MESSAGE_PONG + 1];
  fake_fate_f decide;
  void *decide_data;
  unsigned posted, late;
};

struct channel {
  struct fabric_channel base;
  int fd;
  struct session *session;
  int error;
  struct { size_t len; char bytes[FABRIC_MESSAGE_MAX]; } inbox[INBOX];
  unsigned first, count;
};
struct domain {
  struct fabric_domain base;
  unsigned users;               /* regions and queues */
};

struct region {
  struct fabric_region base;
  struct domain *domain;
  char *memory;
  size_t len;
};

struct fake {
  pthread_mutex_t lock;
  pthread_cond_t changed;       /* anything */
  struct fake_donor *donors[FAKE_DONORS_MAX];
  unsigned objects;             /* channels, domains, regions, queues */
  unsigned broken_promises;
  uint64_t next_id;
};
extern struct fake fake;

int fake_fd_new (void);
void fake_kick (int fd);

/* Until when to wait for what must happen. */
struct timespec fake_patience (void);
/* Wait until *n is at least count. */
void fake_wait_count (const unsigned *n, unsigned count);

/* fake_fabric.c */
struct fake_donor *fake_donor_at (const struct sockaddr *addr);
void fake_channel_end (struct channel *c, int error);

/* fake_donor.c */
void fake_donor_hear (struct session *s, const struct message *m);
/* Has it something to say of its own accord?  With the fabric locked. */
void fake_donor_chat (struct session *s);
struct grant *fake_grant_find (struct fake_donor *d, uint64_t key);
void fake_session_end (struct session *s);
void fake_donor_free (struct fake_donor *d);

/* fake_queue.c */
void fake_engine_start (void);
void fake_engine_stop (void);
void fake_queues_break (struct session *s);
int fake_queue_connect (struct fabric_domain *domain,
                        const struct sockaddr *addr, socklen_t len,
                        const struct fabric_preface *preface,
                        int64_t timeout_ns, struct fabric_queue **ret);
int fake_queue_fd (struct fabric_queue *q);
int fake_queue_step (struct fabric_queue *queue);
int fake_queue_post (struct fabric_queue *queue, struct fabric_op *op);
int fake_queue_poll (struct fabric_queue *queue);
int fake_queue_arm (struct fabric_queue *queue, struct pollfd *pfd);
void fake_queue_break (struct fabric_queue *queue);
void fake_queue_settle (struct fabric_queue *queue);
void fake_queue_free (struct fabric_queue *queue);

#endif /* TEST_FAKE_PRIVATE_H */
