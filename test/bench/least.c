/* The least that a plugin over verbs can be: each request is posted, polled
 * for and copied.  Its memory is in the same process, a queue pair of each
 * thread's own leads there, and nothing is kept safe.  What it does not reach
 * is lost to the kernel, to nbdkit and to the device.
 */

#define NBDKIT_API_VERSION 2
#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#include <infiniband/verbs.h>
#include <nbdkit-plugin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { TRANSFER_MAX = 128 << 10, READS = 16, PORT = 1 };

struct lane {
  struct ibv_cq *cq;
  struct ibv_qp *here, *there;
  struct ibv_mr *landing;
};

static int64_t size_bytes = 128 << 20;
static struct ibv_context *device;
static struct ibv_pd *pd;
static struct ibv_mr *memory;
static int gid_index;
static union ibv_gid gid;
static __thread struct lane *own;

static int
least_config (const char *key, const char *value)
{
  if (strcmp (key, "size") == 0)
    size_bytes = nbdkit_parse_size (value);
  return strcmp (key, "size") == 0 && size_bytes > 0 ? 0 : -1;
}

/* The RoCE v2 address of an IPv4 address. */
static int
find_gid (void)
{
  struct ibv_gid_entry e;

  for (gid_index = 0;
       ibv_query_gid_ex (device, PORT, gid_index, &e, 0) == 0; gid_index++)
    if (e.gid_type == IBV_GID_TYPE_ROCE_V2 && e.gid.raw[10] == 0xff &&
        e.gid.raw[11] == 0xff) {
      gid = e.gid;
      return 0;
    }
  nbdkit_error ("no RoCE v2 address");
  return -1;
}

static struct ibv_mr *
allocate (size_t bytes, int access)
{
  void *p = aligned_alloc (4096, bytes);

  if (!p)
    return NULL;
  memset (p, 0, bytes);
  return ibv_reg_mr (pd, p, bytes, IBV_ACCESS_LOCAL_WRITE | access);
}

static int
least_after_fork (void)
{
  struct ibv_device **list = ibv_get_device_list (NULL);

  if (list && list[0])
    device = ibv_open_device (list[0]);
  if (list)
    ibv_free_device_list (list);
  if (device)
    pd = ibv_alloc_pd (device);
  if (pd)
    memory = allocate (size_bytes, IBV_ACCESS_REMOTE_READ |
                       IBV_ACCESS_REMOTE_WRITE);
  if (!memory) {
    nbdkit_error ("no RDMA device, or no memory on it");
    return -1;
  }
  return find_gid ();
}

static int
connect_qp (struct ibv_qp *qp, uint32_t peer)
{
  struct ibv_qp_attr init = {
    .qp_state = IBV_QPS_INIT, .port_num = PORT,
    .qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE,
  }, receive = {
    .qp_state = IBV_QPS_RTR, .path_mtu = IBV_MTU_4096, .dest_qp_num = peer,
    .max_dest_rd_atomic = READS, .min_rnr_timer = 12,
    .ah_attr = { .is_global = 1, .port_num = PORT,
                 .grh = { .dgid = gid, .sgid_index = gid_index,
                          .hop_limit = 1 } },
  }, send = {
    .qp_state = IBV_QPS_RTS, .timeout = 14, .retry_cnt = 6, .rnr_retry = 6,
    .max_rd_atomic = READS,
  };

  if (ibv_modify_qp (qp, &init, IBV_QP_STATE | IBV_QP_PKEY_INDEX |
                     IBV_QP_PORT | IBV_QP_ACCESS_FLAGS) != 0 ||
      ibv_modify_qp (qp, &receive, IBV_QP_STATE | IBV_QP_AV |
                     IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                     IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER) != 0 ||
      ibv_modify_qp (qp, &send, IBV_QP_STATE | IBV_QP_TIMEOUT |
                     IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                     IBV_QP_MAX_QP_RD_ATOMIC) != 0)
    return -1;
  return 0;
}

/* The calling thread's; it lives as long as the process. */
static struct lane *
lane (void)
{
  struct ibv_qp_init_attr attr = {
    .qp_type = IBV_QPT_RC, .sq_sig_all = 1,
    .cap = { .max_send_wr = READS, .max_recv_wr = 1, .max_send_sge = 1,
             .max_recv_sge = 1 },
  };
  struct lane *l = own;

  if (l)
    return l;
  l = calloc (1, sizeof *l);
  if (!l)
    return NULL;
  l->cq = attr.send_cq = attr.recv_cq =
    ibv_create_cq (device, 2 * READS, NULL, NULL, 0);
  l->landing = allocate (TRANSFER_MAX, 0);
  if (!l->cq || !l->landing)
    return NULL;
  l->here = ibv_create_qp (pd, &attr);
  l->there = ibv_create_qp (pd, &attr);
  if (!l->here || !l->there ||
      connect_qp (l->here, l->there->qp_num) < 0 ||
      connect_qp (l->there, l->here->qp_num) < 0)
    return NULL;
  return own = l;
}

static int
transfer (struct lane *l, enum ibv_wr_opcode opcode, uint32_t count,
          uint64_t offset)
{
  struct ibv_sge sge = {
    .addr = (uintptr_t) l->landing->addr, .length = count,
    .lkey = l->landing->lkey,
  };
  struct ibv_send_wr *bad, wr = {
    .sg_list = &sge, .num_sge = 1, .opcode = opcode,
    .wr.rdma = { .remote_addr = (uintptr_t) memory->addr + offset,
                 .rkey = memory->rkey },
  };
  struct ibv_wc wc;
  int n;

  if (ibv_post_send (l->here, &wr, &bad) != 0)
    return -1;
  do
    n = ibv_poll_cq (l->cq, 1, &wc);
  while (n == 0);
  return n == 1 && wc.status == IBV_WC_SUCCESS ? 0 : -1;
}

static int
least_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
             uint32_t flags)
{
  struct lane *l = count <= TRANSFER_MAX ? lane () : NULL;

  (void) handle;
  (void) flags;
  if (!l || transfer (l, IBV_WR_RDMA_READ, count, offset) < 0)
    return -1;
  memcpy (buf, l->landing->addr, count);
  return 0;
}

static int
least_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
              uint32_t flags)
{
  struct lane *l = count <= TRANSFER_MAX ? lane () : NULL;

  (void) handle;
  (void) flags;
  if (!l)
    return -1;
  memcpy (l->landing->addr, buf, count);
  return transfer (l, IBV_WR_RDMA_WRITE, count, offset);
}

static int
least_block_size (void *handle, uint32_t *minimum, uint32_t *preferred,
                  uint32_t *maximum)
{
  (void) handle;
  *minimum = 1;
  *preferred = 4096;
  *maximum = TRANSFER_MAX;
  return 0;
}

static void *
least_open (int readonly)
{
  (void) readonly;
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
least_get_size (void *handle)
{
  (void) handle;
  return size_bytes;
}

static int
least_can_multi_conn (void *handle)
{
  (void) handle;
  return 1;
}

static struct nbdkit_plugin plugin = {
  .name = "least", .config = least_config, .after_fork = least_after_fork,
  .open = least_open, .get_size = least_get_size,
  .block_size = least_block_size, .can_multi_conn = least_can_multi_conn,
  .pread = least_pread, .pwrite = least_pwrite,
};

NBDKIT_REGISTER_PLUGIN (plugin)
