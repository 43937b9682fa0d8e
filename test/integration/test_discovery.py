#!/usr/bin/python3
"""Donors that DNS knows: a real server (dnsmasq) on a network of the
test's own, so that the machine's resolver is left alone."""

import os
import random
import shutil
import subprocess
import sys

from infiniswap import (DEADLINE, MIB, SLAB, Load, Process, Skip, case,
                        check, equal, main, read_all, wait_until)

DOMAIN = "example.org"
SERVICE = "_infiniswap._tcp." + DOMAIN
INSIDE = "ISW_TEST_DISCOVERY"   # "yes", or why it cannot be
# The C library asks 127.0.0.1 then, and soon gives up.
RESOLV_CONF = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"


def enter():
    """Run again with a network, and an /etc/resolv.conf, of its own."""
    unshare = ["unshare", "--net", "--mount"]
    if os.geteuid() != 0:
        unshare.append("--map-root-user")
    try:
        p = subprocess.run(unshare + ["true"], stderr=subprocess.PIPE,
                           text=True, check=False)
        wrong = p.stderr.strip() if p.returncode else None
    except FileNotFoundError as e:
        wrong = str(e)
    if not shutil.which("dnsmasq"):
        wrong = "there is no dnsmasq"
    if wrong:
        os.environ[INSIDE] = wrong
        return
    os.environ[INSIDE] = "yes"
    os.execvp("unshare", unshare + [sys.executable] + sys.argv)


def set_up(box):
    """The network, once; a loopback address alone would not do, since the C
    library then takes IPv4 to be missing."""
    if os.environ[INSIDE] != "yes":
        raise Skip(os.environ[INSIDE])
    path = box.path("resolv.conf")
    with open(path, "w") as f:
        f.write(RESOLV_CONF)
    real = os.path.realpath("/etc/resolv.conf")
    for command in (["ip", "link", "set", "lo", "up"],
                    ["ip", "addr", "replace", "10.9.0.1/24", "dev", "lo"],
                    ["mount", "--bind", path, real]):
        subprocess.run(command, check=True)
    box.cleanup(lambda: subprocess.run(["umount", real], check=True))


class Dns(Process):
    """dnsmasq that knows these donors; it reads records when it starts."""

    def __init__(self, box, name, donors):
        conf = box.path(name + ".conf")
        with open(conf, "w") as f:
            f.write("no-resolv\nno-hosts\nuser=root\nlisten-address=127.0.0.1"
                    "\nbind-interfaces\nlog-facility=-\npid-file=\n"
                    f"local=/{DOMAIN}/\n")
            for d in donors:
                host, port = d.address.split(":")
                f.write(f"host-record={host},10.9.0.1\n"
                        f"srv-host={SERVICE},{host},{port}\n")
        super().__init__(box, name, ["dnsmasq", "--keep-in-foreground",
                                     "--conf-file=" + conf])
        self.wait_line("started, version")


class World:
    """Named donors, and DNS that knows some of them."""

    def __init__(self, box, donors, known):
        set_up(box)
        self.box = box
        self.donors = box.donors(donors, listen="10.9.0.1:0")
        for i, d in enumerate(self.donors):
            d.address = f"n{i}.{DOMAIN}:{d.address.split(':')[1]}"
        self.dns = None
        self.publish(self.donors[:known])

    def publish(self, donors):
        if self.dns and self.dns.is_running():
            self.dns.terminate()
        self.dns = self.box._start(Dns, donors)

    def borrower(self, **keys):
        return self.box.borrower(["srv:" + SERVICE], resolve_interval="200ms",
                                 **keys)


def place(b, h, slabs):
    """Fill slabs with random bytes, which has them placed; the bytes."""
    content = random.randbytes(len(slabs) * SLAB)
    for i, slab in enumerate(slabs):
        for at in range(0, SLAB, MIB):
            h.pwrite(content[i * SLAB + at:i * SLAB + at + MIB],
                     slab * SLAB + at)
    b.wait_mapped(slabs)
    return content


def traffic(load):
    before = load.requests
    wait_until(lambda: load.requests > before + 100 or load.error, 20,
               "requests")


@case
def one_comes_and_one_goes(box):
    """a donor added to DNS is used and one removed drained, under load"""
    w = World(box, 3, 2)
    first, second, third = w.donors
    b = w.borrower(size="96M")
    b.wait_connected([first, second])
    h = b.connect()
    content = place(b, h, range(5))
    check(set(b.slabs().values()) == {first.address, second.address},
          f"{b.slabs()}")
    load = Load(b, range(5))
    traffic(load)

    w.publish(w.donors)
    b.wait_connected([third])
    content += place(b, h, [5])
    check(b.slabs()[5] == third.address, f"{b.slabs()}")
    check(third.status()["slabs"]["lent"] == 1, "the third lends nothing")
    traffic(load)

    w.publish([second, third])
    b.wait_line(f"donor {first.address}: no longer listed; [1-9]")
    wait_until(lambda: b.donor(first) is None, 20, "the first is gone")
    check(first.status()["slabs"]["lent"] == 0, "the first still lends")
    check(not first.status()["sessions"], "the first has a session")
    wait_until(lambda: len(b.slabs()) == 6, 10, "all slabs placed")
    check(set(b.slabs().values()) == {second.address, third.address},
          f"{b.slabs()}")
    traffic(load)
    load.stop()

    content = bytearray(content)
    for page, data in load.model.items():
        content[page * 4096:page * 4096 + len(data)] = data
    equal(read_all(h), content, "content")
    status = b.status()
    check(status["counters"]["io_errors"] == 0, "I/O errors")
    check(all(d["failures"] == 0 for d in status["donors"]),
          f"sessions have failed: {status['donors']}")
    check(not b.find_line("session ended"), "a session has failed")
    check(load.slowest < DEADLINE + 1, f"a request took {load.slowest} s")
    return f"{load.requests} requests, the slowest took {load.slowest:.2f} s"


@case
def dns_stops(box):
    """while DNS is down the donors stay, and so it is said once"""
    w = World(box, 2, 2)
    b = w.borrower()
    b.wait_connected(w.donors)
    h = b.connect()
    place(b, h, range(4))
    slabs = b.slabs()
    load = Load(b, range(4))
    w.dns.terminate()
    b.wait_line(f"warning: service {SERVICE}: DNS gives no donors, the 2 "
                "known stay: .")
    traffic(load)
    check(b.slabs() == slabs, f"{slabs} and {b.slabs()}")
    check(all(b.donor(d)["state"] == "connected" for d in w.donors),
          "a donor is no longer connected")
    service = b.status()["services"][0]
    check(service["name"] == SERVICE and service["error"], f"{service}")

    w.publish(w.donors)
    b.wait_line(f"service {SERVICE}: DNS gives donors again: 2")
    load.stop()
    load.check_all(h)
    check(b.slabs() == slabs, f"{slabs} and {b.slabs()}")
    # However often it was asked for.
    lines = [s for s in b.lines if "DNS gives no donors" in s]
    check(len(lines) == 1, f"{lines}")
    check(b.counters()["io_errors"] == 0, "I/O errors")


@case
def unknown_name(box):
    """a name that DNS does not have is named, once, and asked for again"""
    w = World(box, 1, 0)
    b = w.borrower()
    line = b.wait_line(f"warning: service {SERVICE}: DNS .*").group(0)
    h = b.connect()
    h.pwrite(b"x" * 4096, 0)
    equal(h.pread(4096, 0), b"x" * 4096, "content without any donor")
    service = b.status()["services"][0]
    check(service["donors"] == 0 and service["error"] in line, f"{service}")
    w.publish(w.donors)
    b.wait_connected(w.donors)
    h.pwrite(b"y" * 4096, 0)
    b.wait_mapped([0])
    return line


if __name__ == "__main__":
    if INSIDE not in os.environ:
        enter()
    main()
