/* The checks of infiniswapctl check that look at this machine alone. */

#ifndef ISW_CTL_MACHINE_H
#define ISW_CTL_MACHINE_H

#include "ctl/findings.h"

/* Are we root, is there nbdkit with the plugin, the kernel's nbd driver,
 * and can memory be kept from reclaim?
 */
void machine_check_programs (struct findings *f, const char *plugin);
void machine_check_kernel (struct findings *f);
void machine_check_memory (struct findings *f);

/* The RDMA devices, and their MTU. */
void machine_check_rdma (struct findings *f);

/* For each nbd device that is a swap area: can what is out come back? */
void machine_check_room (struct findings *f);

#endif /* ISW_CTL_MACHINE_H */
