#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <glib.h>
#include <linux/nbd-netlink.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>

#include "conf/kernel_file.h"
#include "ctl/nbd_kernel.h"

enum {
  BLOCK_BYTES = 4096,
  REQUEST_TIMEOUT_S = 30,       /* then its connection is given up */
  ANSWER_TIMEOUT_S = 30,
  POLL_US = 10000,
};

struct nbd_kernel {
  struct nl_sock *sock;         /* for requests */
  struct nl_sock *events;
  int family;
};

/* What a request comes to. */
struct answer {
  int error;                    /* 0 or -errno */
  int index;                    /* -1: none was told */
  bool done;                    /* acknowledged */
};

static struct nl_sock *
open_socket (void)
{
  const struct timeval timeout = { .tv_sec = ANSWER_TIMEOUT_S };
  struct nl_sock *sock = nl_socket_alloc ();

  if (sock == NULL)
    return NULL;
  if (genl_connect (sock) < 0 ||
      setsockopt (nl_socket_get_fd (sock), SOL_SOCKET, SO_RCVTIMEO, &timeout,
                  sizeof timeout) == -1) {
    nl_socket_free (sock);
    return NULL;
  }
  return sock;
}

static bool
join_events (struct nbd_kernel *k)
{
  int group = genl_ctrl_resolve_grp (k->sock, NBD_GENL_FAMILY_NAME,
                                     NBD_GENL_MCAST_GROUP_NAME);

  return group >= 0 && nl_socket_add_membership (k->events, group) == 0 &&
    nl_socket_set_nonblocking (k->events) == 0;
}

struct nbd_kernel *
nbd_kernel_open (char **error)
{
  struct nbd_kernel *k = g_new0 (struct nbd_kernel, 1);

  k->sock = open_socket ();
  k->events = open_socket ();
  if (k->sock == NULL || k->events == NULL) {
    *error = g_strdup_printf ("cannot open a netlink socket: %s",
                              g_strerror (errno));
    goto failed;
  }
  k->family = genl_ctrl_resolve (k->sock, NBD_GENL_FAMILY_NAME);
  if (k->family < 0) {
    *error = g_strdup ("the kernel's nbd driver is not loaded; run: "
                       "modprobe nbd");
    goto failed;
  }
  if (!join_events (k)) {
    *error = g_strdup ("cannot listen to the kernel's nbd driver; it needs "
                       "Linux 4.14");
    goto failed;
  }
  return k;

 failed:
  nbd_kernel_close (k);
  return NULL;
}

void
nbd_kernel_close (struct nbd_kernel *k)
{
  if (k == NULL)
    return;
  nl_socket_free (k->sock);
  nl_socket_free (k->events);
  g_free (k);
}

/* ---- requests ---- */

static int
on_answer (struct nl_msg *msg, void *data)
{
  struct answer *answer = data;
  struct nlattr *attrs[NBD_ATTR_MAX + 1];

  if (genlmsg_parse (nlmsg_hdr (msg), 0, attrs, NBD_ATTR_MAX, NULL) == 0 &&
      attrs[NBD_ATTR_INDEX] != NULL)
    answer->index = nla_get_u32 (attrs[NBD_ATTR_INDEX]);
  return NL_OK;
}

/* libnl's own codes do not tell all errors apart. */
static int
on_error (struct sockaddr_nl *from, struct nlmsgerr *e, void *data)
{
  struct answer *answer = data;

  (void) from;
  answer->error = e->error;
  return NL_STOP;
}

static int
on_ack (struct nl_msg *msg, void *data)
{
  struct answer *answer = data;

  (void) msg;
  answer->done = true;
  return NL_STOP;
}

static struct nl_msg *
new_request (const struct nbd_kernel *k, int command)
{
  struct nl_msg *msg = nlmsg_alloc ();

  if (msg != NULL &&
      genlmsg_put (msg, NL_AUTO_PORT, NL_AUTO_SEQ, k->family, 0, NLM_F_ACK,
                   command, NBD_GENL_VERSION) == NULL) {
    nlmsg_free (msg);
    return NULL;
  }
  return msg;
}

/* Sends and frees it, and waits for the answer. */
static int
ask (struct nbd_kernel *k, struct nl_msg *msg, int *index)
{
  struct answer answer = { .index = -1 };
  struct nl_cb *cb = nl_cb_alloc (NL_CB_DEFAULT);
  int r = -NLE_NOMEM;

  if (cb != NULL) {
    nl_cb_set (cb, NL_CB_VALID, NL_CB_CUSTOM, on_answer, &answer);
    nl_cb_set (cb, NL_CB_ACK, NL_CB_CUSTOM, on_ack, &answer);
    nl_cb_err (cb, NL_CB_CUSTOM, on_error, &answer);
    r = nl_send_auto (k->sock, msg);
    /* An answer, as to CONNECT, comes before the acknowledgement. */
    while (r >= 0 && answer.error == 0 && !answer.done)
      r = nl_recvmsgs_report (k->sock, cb);
    nl_cb_put (cb);
  }
  nlmsg_free (msg);
  if (answer.error != 0)
    return answer.error;
  if (r < 0)
    return r == -NLE_AGAIN ? -ETIMEDOUT : -EIO;
  if (index != NULL)
    *index = answer.index;
  return 0;
}

static bool
put_sockets (struct nl_msg *msg, const int *fds, size_t n)
{
  struct nlattr *list = nla_nest_start (msg, NBD_ATTR_SOCKETS);

  for (size_t i = 0; list != NULL && i < n; i++) {
    struct nlattr *item = nla_nest_start (msg, NBD_SOCK_ITEM);

    if (item == NULL || nla_put_u32 (msg, NBD_SOCK_FD, fds[i]) < 0)
      return false;
    nla_nest_end (msg, item);
  }
  return list != NULL && nla_nest_end (msg, list) == 0;
}

static bool
put_device (struct nl_msg *msg, const struct nbd_kernel_device *d)
{
  return (d->index < 0 || nla_put_u32 (msg, NBD_ATTR_INDEX, d->index) == 0) &&
    nla_put_u64 (msg, NBD_ATTR_SIZE_BYTES, d->size_bytes) == 0 &&
    nla_put_u64 (msg, NBD_ATTR_BLOCK_SIZE_BYTES, BLOCK_BYTES) == 0 &&
    nla_put_u64 (msg, NBD_ATTR_TIMEOUT, REQUEST_TIMEOUT_S) == 0 &&
    nla_put_u64 (msg, NBD_ATTR_SERVER_FLAGS, d->flags) == 0 &&
    nla_put_u64 (msg, NBD_ATTR_DEAD_CONN_TIMEOUT, d->dead_timeout_s) == 0 &&
    nla_put_string (msg, NBD_ATTR_BACKEND_IDENTIFIER, d->identity) == 0;
}

int
nbd_kernel_connect (struct nbd_kernel *k, const struct nbd_kernel_device *d,
                    const int *fds, size_t n, char **error)
{
  struct nl_msg *msg = new_request (k, NBD_CMD_CONNECT);
  int r = -ENOMEM, index = -1;

  if (msg != NULL && put_device (msg, d) && put_sockets (msg, fds, n))
    r = ask (k, msg, &index);
  else
    nlmsg_free (msg);
  if (r == 0 && index >= 0)
    return index;
  if (r == 0)
    r = -EIO;
  if (r == -EBUSY && d->index >= 0)
    *error = g_strdup_printf ("/dev/nbd%d is in use by others; choose another "
                              "device, or leave it out for the first that is "
                              "free", d->index);
  else if (r == -EPERM)
    *error = g_strdup ("the kernel lets only root attach a device");
  else
    *error = g_strdup_printf ("the kernel's nbd driver does not attach the "
                              "device: %s", g_strerror (-r));
  return r;
}

int
nbd_kernel_reconnect (struct nbd_kernel *k, int index, const char *identity,
                      const int *fds, size_t n)
{
  struct nl_msg *msg = new_request (k, NBD_CMD_RECONFIGURE);

  if (msg != NULL && nla_put_u32 (msg, NBD_ATTR_INDEX, index) == 0 &&
      nla_put_string (msg, NBD_ATTR_BACKEND_IDENTIFIER, identity) == 0 &&
      put_sockets (msg, fds, n))
    return ask (k, msg, NULL);
  nlmsg_free (msg);
  return -ENOMEM;
}

int
nbd_kernel_disconnect (struct nbd_kernel *k, int index)
{
  struct nl_msg *msg = new_request (k, NBD_CMD_DISCONNECT);

  if (msg != NULL && nla_put_u32 (msg, NBD_ATTR_INDEX, index) == 0)
    return ask (k, msg, NULL);
  nlmsg_free (msg);
  return -ENOMEM;
}

/* ---- events ---- */

struct count {
  int index;
  int dead;
};

static int
on_event (struct nl_msg *msg, void *data)
{
  struct count *count = data;
  struct nlattr *attrs[NBD_ATTR_MAX + 1];
  struct nlmsghdr *header = nlmsg_hdr (msg);

  if (genlmsg_parse (header, 0, attrs, NBD_ATTR_MAX, NULL) == 0 &&
      genlmsg_hdr (header)->cmd == NBD_CMD_LINK_DEAD &&
      attrs[NBD_ATTR_INDEX] != NULL &&
      (int) nla_get_u32 (attrs[NBD_ATTR_INDEX]) == count->index)
    count->dead++;
  return NL_OK;
}

static int
ignore (struct nl_msg *msg, void *data)
{
  (void) msg;
  (void) data;
  return NL_OK;
}

int
nbd_kernel_events_fd (const struct nbd_kernel *k)
{
  return nl_socket_get_fd (k->events);
}

int
nbd_kernel_read_events (struct nbd_kernel *k, int index)
{
  struct count count = { .index = index };
  struct nl_cb *cb = nl_cb_alloc (NL_CB_DEFAULT);
  int r;

  if (cb == NULL)
    return -1;
  nl_cb_set (cb, NL_CB_VALID, NL_CB_CUSTOM, on_event, &count);
  /* They answer no request. */
  nl_cb_set (cb, NL_CB_SEQ_CHECK, NL_CB_CUSTOM, ignore, NULL);
  do
    r = nl_recvmsgs_report (k->events, cb);
  while (r > 0);
  nl_cb_put (cb);
  return r == 0 || r == -NLE_AGAIN ? count.dead : -1;
}

/* ---- sysfs ---- */

static bool
read_attribute (int index, const char *name, char text[KERNEL_FILE_MAX])
{
  char path[64];

  snprintf (path, sizeof path, "/sys/block/nbd%d/%s", index, name);
  if (kernel_file_read (path, text) < 0)
    return false;
  g_strchomp (text);
  return true;
}

bool
nbd_kernel_in_use (int index)
{
  char text[KERNEL_FILE_MAX];

  return read_attribute (index, "pid", text);
}

bool
nbd_kernel_is (int index, const char *identity)
{
  char text[KERNEL_FILE_MAX];

  return nbd_kernel_in_use (index) &&
    (!read_attribute (index, "backend", text) ||
     strcmp (text, identity) == 0);
}

int
nbd_kernel_find (const char *identity)
{
  GDir *dir = g_dir_open ("/sys/block", 0, NULL);
  char text[KERNEL_FILE_MAX];
  const char *name;
  int index = -1;

  while (dir != NULL && index < 0 && (name = g_dir_read_name (dir)) != NULL)
    if (sscanf (name, "nbd%d", &index) != 1 || !nbd_kernel_in_use (index) ||
        !read_attribute (index, "backend", text) ||
        strcmp (text, identity) != 0)
      index = -1;
  if (dir != NULL)
    g_dir_close (dir);
  return index;
}

bool
nbd_kernel_await_free (int index, int64_t timeout_ns)
{
  const int64_t end_us = g_get_monotonic_time () + timeout_ns / 1000;

  while (nbd_kernel_in_use (index)) {
    if (g_get_monotonic_time () >= end_us)
      return false;
    g_usleep (POLL_US);
  }
  return true;
}
