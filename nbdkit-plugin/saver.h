/* The thread that saves pages which the local copy refused: to the local
 * copy when it works again, or to another donor.
 */

#ifndef ISW_SAVER_H
#define ISW_SAVER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "nbdkit-plugin/slab_table.h"

struct device;
struct saver;

/* What is to be done for one slab; the caller's from saver_done on. */
struct saver_job {
  uint64_t slab;
  bool move;                    /* device_move to `next`, else device_save */
  struct slab_home next;
  _Atomic int64_t until_ns;     /* for either; may change meanwhile */
  int result;                   /* 0 or -errno */
  struct saver_job *link;       /* private */
};

/* Start the thread.  wake is called by it whenever a job is done.  NULL
 * with errno set.
 */
struct saver *saver_start (struct device *device, void (*wake) (void *data),
                           void *data);
/* Jobs that were not begun are dropped, one under way is waited for; all
 * must have been taken back or are the caller's still.
 */
void saver_free (struct saver *s);

/* Do this job, after those asked for earlier. */
void saver_ask (struct saver *s, struct saver_job *job);
/* A job that is done, or NULL. */
struct saver_job *saver_done (struct saver *s);
/* Try to save all there is when there is no job. */
void saver_save_all (struct saver *s);

#endif /* ISW_SAVER_H */
