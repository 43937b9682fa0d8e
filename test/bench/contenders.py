"""What is read and written in a machine of test/vm/run: ours and
what a user would pick instead, each a block device of MIB [128] MiB.

  ours        /dev/nbd0, the plugin, one donor over verbs
  nbd tcp     /dev/nbd1 to a remote nbdkit memory over TCP
  nbd local   /dev/nbd2 to a nbdkit memory over a Unix socket: the front end
  least       /dev/nbd3 to a plugin over verbs that does nothing but transfers
  nvme rdma   NVMe-oF/RDMA to a null_blk over the same Soft-RoCE
"""

import contextlib
import os
import subprocess

import bench
import infiniswap

MIB = int(os.environ.get("MIB", "128"))
SLAB = 16 << 20
DONOR, REMOTE, TARGET = "10.7.0.2", "10.7.0.3", "10.7.0.4"
NQN = "infiniswap-bench"
NVMET = "/sys/kernel/config/nvmet"


class Disk:
    """A block device, measured past the page cache."""

    def __init__(self, path, settle=None):
        self.path = path
        self.fio = [f"--filename={path}", "--direct=1", "--ioengine=libaio",
                    f"--size={MIB}m"]
        self.settle = settle or (lambda: None)

    def measure(self, case):
        return bench.fio(self.fio, case)

    def fill(self):
        bench.run("dd", "if=/dev/urandom", "of=" + self.path, "bs=1M",
                  f"count={MIB}", "oflag=direct", "status=none")


class OurDisk(Disk):
    """One figure more: how long the plugin is at a request."""

    def __init__(self, path, settle, borrower):
        super().__init__(path, settle)
        self.borrower = borrower

    def measure(self, case):
        what = "read" if case.reads else "write"
        before = bench.latency(self.borrower, what)
        figures = super().measure(case)
        after = bench.latency(self.borrower, what)
        return figures | {"plugin_us": bench.mean_latency(before, after)}


@contextlib.contextmanager
def attached(device, server, connections, settle=None):
    """The kernel's nbd client.  It comes back before the size is known."""
    bench.run("nbd-client", *server, device, "-b", "4096", "-C",
              str(connections), stderr=subprocess.DEVNULL)
    size = f"/sys/block/{os.path.basename(device)}/size"
    infiniswap.wait_until(lambda: open(size).read() != "0\n", 10, device)
    try:
        yield Disk(device, settle)
    finally:
        bench.run("nbd-client", "-d", device)


class Nbd:
    """Something that nbd-client attaches."""
    device = server = None

    def settle(self):
        pass

    def open(self, connections):
        return attached(self.device, self.server, connections, self.settle)

    def fill(self):
        with self.open(1) as disk:
            disk.fill()


class Ours(Nbd):
    def __init__(self, box, name="ours", device="/dev/nbd0", port=9400,
                 backing="/mnt/scratch/copy", **keys):
        self.name, self.device = name, device
        donor = box.donor(f"{DONOR}:{port}", fabric="verbs",
                          memory=f"{MIB}M", ready=MIB * 2**20 // SLAB,
                          headroom="128M")
        self.borrower = box.borrower([donor], size=f"{MIB}M", fabric="verbs",
                                     backing=backing, options=bench.NBDKIT,
                                     **keys)
        self.server = ["-unix", self.borrower.socket]
        self.fill()
        self.borrower.wait_mapped(range(MIB * 2**20 // SLAB), 60)

    def settle(self):
        infiniswap.wait_until(
            lambda: self.borrower.status()["write_behind"]["in_use"] == 0,
            300, "everything is on the local copy")

    @contextlib.contextmanager
    def open(self, connections):
        with super().open(connections) as disk:
            yield OurDisk(disk.path, self.settle, self.borrower)


class Plugin(Nbd):
    """Another one of nbdkit's, with these arguments."""

    def __init__(self, box, name, device, where, server, *plugin):
        self.name, self.device, self.server = name, device, server
        pidfile = box.path(name.replace(" ", "-") + ".pid")
        process = infiniswap.Process(
            box, name.replace(" ", "-"),
            ["nbdkit", "-f", "-P", pidfile, *bench.NBDKIT, *where, *plugin])
        box.processes.append(process)
        infiniswap.wait_until(lambda: os.path.exists(pidfile), 20, name)
        self.fill()


def put(path, text):
    with open(path, "w") as f:
        f.write(text)


def null_disk(memory):
    """As fast as a disk can be; it keeps something only with memory."""
    bench.run("modprobe", "null_blk", "nr_devices=0")
    name = "nullb0"             # older kernels count, newer ones use it
    disk = "/sys/kernel/config/nullb/" + name
    os.mkdir(disk)
    for key, value in (("size", MIB), ("blocksize", 4096), ("irqmode", 0),
                       ("memory_backed", int(memory)), ("power", 1)):
        put(f"{disk}/{key}", str(value))
    return "/dev/" + name


class Nvme:
    name = "nvme rdma"

    def __init__(self, memory=False):
        if not os.path.isdir("/sys/kernel/config"):
            bench.run("modprobe", "configfs")
        if not os.path.ismount("/sys/kernel/config"):
            bench.run("mount", "-t", "configfs", "none", "/sys/kernel/config")
        for module in "nvmet-rdma", "nvme-rdma":
            bench.run("modprobe", module)
        subsystem, port = f"{NVMET}/subsystems/{NQN}", f"{NVMET}/ports/1"
        os.mkdir(subsystem)
        put(subsystem + "/attr_allow_any_host", "1")
        os.mkdir(subsystem + "/namespaces/1")
        put(subsystem + "/namespaces/1/device_path", null_disk(memory))
        put(subsystem + "/namespaces/1/enable", "1")
        os.mkdir(port)
        for key, value in (("trtype", "rdma"), ("adrfam", "ipv4"),
                           ("traddr", TARGET), ("trsvcid", "4420")):
            put(f"{port}/addr_{key}", value)
        os.symlink(subsystem, f"{port}/subsystems/{NQN}")

    @contextlib.contextmanager
    def open(self, connections):
        with open("/dev/nvme-fabrics", "r+b", buffering=0) as f:
            f.write(f"transport=rdma,traddr={TARGET},trsvcid=4420,nqn={NQN},"
                    f"nr_io_queues={connections}".encode())
            instance = f.read(256).decode().split(",")[0].split("=")[1]
        device = f"/dev/nvme{instance}n1"
        try:
            infiniswap.wait_until(lambda: os.path.exists(device), 20, device)
            yield Disk(device)
        finally:
            put(f"/sys/class/nvme/nvme{instance}/delete_controller", "1")


def remote(box):
    return Plugin(box, "nbd tcp", "/dev/nbd1", ["-i", REMOTE, "-p", "10809"],
                  [REMOTE, "10809"], "memory", f"{MIB}M")


def local(box):
    path = box.path("local.sock")
    return Plugin(box, "nbd local", "/dev/nbd2", ["-U", path],
                  ["-unix", path], "memory", f"{MIB}M")


def least(box):
    path = box.path("least.sock")
    plugin = os.path.join(os.path.dirname(bench.OUT), "test/bench/least.so")
    return Plugin(box, "least", "/dev/nbd3", ["-U", path], ["-unix", path],
                  plugin, f"size={MIB}M")
