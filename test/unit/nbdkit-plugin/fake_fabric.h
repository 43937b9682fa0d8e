/* A fabric in memory, in place of both fabric_tcp and fabric_verbs, and
 * the donors at its other end; what they do is in the hands of the test.
 *
 * Channels end in a fake donor, found by its port, which answers as its
 * script says.  Queues act on the memory of its grants; what becomes of
 * each operation is the test's to say.  Two rules of fabric.h are
 * checked: the local memory of a WRITE does not change until the
 * operation is done, and a queue is freed with nothing outstanding.
 *
 * One lock inside; every function may be called from any thread.
 * Whatever is waited for fails the test when it does not happen.
 */

#ifndef TEST_FAKE_FABRIC_H
#define TEST_FAKE_FABRIC_H

#include <stdbool.h>
#include <stdint.h>

#include "fabric/fabric.h"
#include "fabric/message.h"

struct fake_donor;

enum { FAKE_DONORS_MAX = 8, FAKE_PORT = 9400 };

void fake_fabric_start (void);
/* Everything must have been closed; fails the test if a rule was broken
 * or something is left.
 */
void fake_fabric_stop (void);

/* Make fabric_verbs available; at first it is not. */
void fake_fabric_have_verbs (bool have);

/* Memory cannot be registered. */
void fake_fabric_no_memory (bool none);

/* No channel has room for a message. */
void fake_fabric_full (bool full);

/* How long queue_settle takes: the fabric holds on to its operations. */
void fake_fabric_slow_settle (int64_t ns);

/* ---- donors ---- */

/* A bit for each type of message. */
#define FAKE_BIT(type) (1u << (type))
#define FAKE_ALL (~0u)

struct fake_script {
  bool down;                    /* refuses connections */
  bool no_verbs;                /* refuses those over verbs */
  uint64_t slab_size_bytes;     /* in WELCOME */
  uint64_t free_bytes;          /* in FREE_MEM */
  unsigned slabs;               /* lent at most; then MAP is refused */
  const char *refuse_hello;     /* a reason */
  unsigned ignore;              /* messages that it does not answer */
  unsigned hold;                /* those it answers in fake_donor_answer */
  enum message_type chatter;    /* what it says without end; 0: nothing */
  int lanes;                    /* 0, -errno, or -EAGAIN: never stand */
  uint64_t mr_info_length_bytes; /* 0: that of the slab */
};

/* Donor i at 127.0.0.1:FAKE_PORT + i, with slabs of this size and no end
 * of memory.
 */
struct fake_donor *fake_donor_new (unsigned i, uint64_t slab_size_bytes);

/* Change the script; what has been said and done stays. */
struct fake_script fake_donor_script (struct fake_donor *d);
void fake_donor_follow (struct fake_donor *d, const struct fake_script *s);

/* Answer what was held, as the script is now. */
void fake_donor_answer (struct fake_donor *d);

/* End all its sessions, abruptly. */
void fake_donor_end_sessions (struct fake_donor *d);

/* Say something of its own accord to its newest session. */
void fake_donor_say (struct fake_donor *d, const struct message *m);

/* Ask for the newest grant of its newest session back, if there is one. */
void fake_donor_evict (struct fake_donor *d);

/* Messages of a type that it has heard, sessions it has had. */
unsigned fake_donor_heard (struct fake_donor *d, enum message_type type);
void fake_donor_wait_heard (struct fake_donor *d, enum message_type type,
                            unsigned count);
/* The last message of a type. */
struct message fake_donor_last (struct fake_donor *d,
                                enum message_type type);
/* Wait until the borrower has closed all channels to it. */
void fake_donor_wait_let_go (struct fake_donor *d);
/* Grants that live now, and the newest of them. */
unsigned fake_donor_lent (struct fake_donor *d);
uint64_t fake_donor_newest_grant (struct fake_donor *d);

/* Copy from the memory of the grant with this key, on any donor; false
 * if it does not live.
 */
bool fake_grant_copy (uint64_t key, uint64_t offset, void *buf, size_t len);

/* ---- operations ---- */

enum { FAKE_HELD = -1 };

/* What becomes of an operation. */
struct fake_fate {
  int64_t delay_ns;             /* until it completes; FAKE_HELD: when
                                   released */
  bool lands_first;             /* a WRITE is carried out at the post */
  int status;
  bool lands_late;              /* if the queue is broken first, a WRITE is
                                   carried out then, all the same */
  int late_status;              /* and completes with this */
};

/* Called at the post, with the fabric locked.  NULL: at once, well. */
typedef struct fake_fate (*fake_fate_f) (void *data,
                                         const struct fabric_op *op);
void fake_donor_decide (struct fake_donor *d, fake_fate_f decide,
                        void *data);

/* Operations held now; release those there are. */
unsigned fake_donor_held (struct fake_donor *d);
void fake_donor_wait_held (struct fake_donor *d, unsigned count);
void fake_donor_release (struct fake_donor *d, bool newest_first);

/* Operations posted, and WRITEs carried out late, so far. */
unsigned fake_donor_posted (struct fake_donor *d);
unsigned fake_donor_late (struct fake_donor *d);

#endif /* TEST_FAKE_FABRIC_H */
