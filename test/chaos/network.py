"""A network that can be cut: the donors in network namespaces of their own,
each joined to this process's by a pair of veth devices.  All of it is gone
when the processes are."""

import ctypes
import os
import shutil
import socket
import subprocess

from infiniswap import Skip, die_with_parent, run, wait_until

PORT = 9400
CLONE_NEWNET = 0x40000000
# Packets to this station reach nobody.
NOBODY = "02:00:00:00:00:99"

_libc = ctypes.CDLL(None, use_errno=True)


def ip(*args, prefix=()):
    status, _, text = run([*prefix, "ip", *args])
    if status != 0:
        raise Skip(f"ip {' '.join(args)}: {text.strip()}")


class Link:
    """The way to one donor: its address, and how to break it."""

    def __init__(self, box, n):
        self.device = f"donor{n}"
        self.near, self.far = f"10.7.{n}.1", f"10.7.{n}.2"
        self.address = f"{self.far}:{PORT}"
        # Keeps the namespace where the donors come and go.
        self.holder = subprocess.Popen(
            ["unshare", "--net", "sleep", "infinity"],
            preexec_fn=die_with_parent)
        box.cleanup(self._end)
        own = os.readlink("/proc/thread-self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") !=
                   own, 5, "a network namespace")
        self.prefix = ("nsenter", f"--net=/proc/{self.holder.pid}/ns/net")
        ip("link", "add", self.device, "type", "veth", "peer", "name", "eth0",
           "netns", str(self.holder.pid))
        ip("addr", "add", f"{self.near}/24", "dev", self.device)
        ip("link", "set", self.device, "up")
        ip("addr", "add", f"{self.far}/24", "dev", "eth0", prefix=self.prefix)
        ip("link", "set", "eth0", "up", prefix=self.prefix)
        ip("link", "set", "lo", "up", prefix=self.prefix)

    def _end(self):
        self.holder.kill()
        self.holder.wait()

    # Each returns what undoes it.

    def unplug(self):
        ip("link", "set", self.device, "down")
        return lambda: ip("link", "set", self.device, "up")

    def lose_requests(self):
        """What the borrower sends is lost."""
        return self._misdirect(self.far, self.device)

    def lose_answers(self):
        """What the donor sends is lost."""
        return self._misdirect(self.near, "eth0", self.prefix)

    def _misdirect(self, address, device, prefix=()):
        ip("neigh", "replace", address, "lladdr", NOBODY, "dev", device,
           "nud", "permanent", prefix=prefix)
        return lambda: ip("neigh", "del", address, "dev", device,
                          prefix=prefix)


class Fixed:
    """An address on a network that stays as it is."""

    prefix = ()

    def __init__(self, address):
        self.address = address


def free_address():
    """Of this machine, for a donor to listen on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % s.getsockname()[1]


def links(box, n):
    """n links that can be cut, or Skip."""
    if not shutil.which("nsenter") or not shutil.which("ip"):
        raise Skip("no nsenter or ip")
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise Skip("no network namespaces: "
                   f"{os.strerror(ctypes.get_errno())}")
    ip("link", "set", "lo", "up")
    return [Link(box, i) for i in range(n)]
