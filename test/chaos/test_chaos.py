#!/usr/bin/python3
"""Random requests against a model, while everything goes wrong.

Donors are killed, stopped, restarted, told to evict, lose their network and
run out of memory, and the local disk is slow or fails.  No byte read may be
wrong, no request late, and an error is right only where no good copy can be
left.

From the environment, besides what infiniswap.py says:
  CHAOS_SECONDS  how long (default 60)
  FABRIC         tcp (default) or verbs, for which 10.7.0.1 ... must be there
  SEED           gives the same requests and the same trouble again
"""

import collections
import os
import random
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../integration"))

import nbd  # noqa: E402

import network  # noqa: E402
from infiniswap import (MIB, SEED, SLOWDOWN, Borrower, Clients,  # noqa: E402
                        Skip, case, check, main, run, wait_until)
from lab import (CTL, SICK_DISK, Load, Node, SickDisk, can_evict,  # noqa: E402
                 descriptors, resident_kib, steady)

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
FABRIC = os.environ.get("FABRIC", "tcp")
DONORS = 3
SIZE, SLAB = 96 * MIB, 4 * MIB
DEADLINE = 2.0
# A request that waits on peers, and one that waits for the disk: the
# kernel's nbd time-out.
LIMITS = ((DEADLINE + 1) * SLOWDOWN, 30 * SLOWDOWN)
# How much more than before may be left over.
MORE_DESCRIPTORS, MORE_KIB = 0, 8 << 10
# nbdkit's buffers for large requests go back to the kernel when they are
# freed, so that what is left over shows.
TIDY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

DONOR_OPTIONS = {"slab_size": "4M", "memory": "48M", "headroom": "256M",
                 "fabric": FABRIC}


class Trouble:
    """What happens to donors.  Each trouble takes one of them out of the
    game until it is over; node 0 lives on through all, so that what leaks
    shows there."""

    def __init__(self, nodes, rng):
        self.nodes, self.random = nodes, rng
        self.over = {}          # node: (when, how)
        self.next = 0
        self.calm = False
        self.counts = collections.Counter()
        self.choices = [self.stop] * 3 + [self.kill] * 3 + \
            [self.leave, self.lack_memory]
        if can_evict():
            self.choices += [self.evict] * 3
        if isinstance(nodes[0].link, network.Link):
            self.choices += [self.cut] * 3

    def _until(self, node, seconds, how):
        self.over[node] = time.monotonic() + seconds, how

    def _away(self, node, end, **options):
        """Gone for a while, then there again."""
        if node is self.nodes[0]:
            return False
        end()
        self._until(node, self.random.choice((0, 1, 3)),
                    lambda: node.start(**options))
        return True

    def kill(self, node):
        return self._away(node, node.kill)

    def leave(self, node):
        return self._away(node, node.leave)

    def lack_memory(self, node):
        """It comes back with little to lend."""
        memory = self.random.choice(("4M", "8M", "12M"))
        return self._away(node, node.kill, memory=memory)

    def stop(self, node):
        node.donor.freeze()
        self._until(node, self.random.choice((0.1, 1, DEADLINE, 5)),
                    node.donor.thaw)
        return True

    def cut(self, node):
        way = self.random.choice((node.link.unplug, node.link.lose_requests,
                                  node.link.lose_answers))
        self._until(node, self.random.choice((0.2, 1, DEADLINE, 4)), way())
        return True

    def evict(self, node):
        """It may have none to evict, so the status says nothing."""
        count = self.random.choice(("1", "2", "all"))
        run([CTL, "evict", node.donor.state, count])
        return True

    def go_on(self):
        now = time.monotonic()
        for node, (when, how) in list(self.over.items()):
            if now >= when or self.calm:
                del self.over[node]
                how()
        if self.calm or now < self.next:
            return
        self.next = now + self.random.uniform(0.1, 1.5)
        node = self.random.choice(self.nodes)
        trouble = self.random.choice(self.choices)
        if node not in self.over and trouble(node):
            self.counts[trouble.__name__] += 1


class DiskTrouble:
    """What happens to the disk: a story that is told in steps, each of
    which says for how many seconds, or until what, to wait."""

    def __init__(self, disk, load, borrower, donors, rng):
        self.disk, self.load, self.borrower = disk, load, borrower
        self.donors, self.random = donors, rng
        self.counts = collections.Counter()
        self.quiet = True
        self.story = self._tell()
        self.awaited = lambda: True
        self.give_up = 0

    def go_on(self, until_quiet=False):
        """False: it has come to where the disk is well and is to stay so."""
        if self.awaited():
            if until_quiet and self.quiet:
                return False
            what = next(self.story)
            self.give_up = time.monotonic() + 2 * LIMITS[1]
            if callable(what):
                self.awaited = what
            else:
                end = time.monotonic() + what
                self.awaited = lambda: time.monotonic() >= end
        check(time.monotonic() < self.give_up, "the disk's story stands still"
              f" after {self.load.asked[-3:]}")
        return True

    def _tell(self):
        while True:
            self.quiet = True
            yield self.random.uniform(1, 5)
            self.quiet = False
            tale = self.random.choice((self._slow, self._fail, self._fail))
            self.counts[tale.__name__[1:]] += 1
            yield from tale()

    def _ask(self, command):
        self.load.ask(command)
        return self.load.has_done

    def _slow(self):
        yield self._ask("open slow")
        self.disk.be(delay_us=self.random.choice((2000, 20000, 100000)))
        yield self.random.uniform(1, 4)
        self.disk.be()
        # What is queued goes to the disk first.
        yield lambda: self.borrower.status()["write_behind"]["in_use"] < 200
        yield self._ask("close slow")

    def _fail(self):
        """Until donors are lost as well, there is an error for no read."""
        calm = self.random.random() < 0.5
        if calm:
            self.donors.calm = True
            yield steady(self.borrower, self.donors.nodes, DEADLINE + 0.5)
            self.counts["calm"] += 1
        else:
            yield self._ask("open losses")
        yield self._ask("open errors")
        often = self.random.choice((1000, 1000, 700))
        self.disk.be(write_errors=often, flush_errors=often)
        yield self.random.uniform(1, 3)
        if calm:
            yield self._ask("open losses")
            self.donors.calm = False
            yield self.random.uniform(1, 3)
        if self.random.random() < 0.3:
            yield self._ask("open read-errors")
            self.disk.be(write_errors=often, read_errors=300)
            yield 1
            self.disk.be(write_errors=often)
            yield self._ask("close read-errors")
        self.disk.be()
        yield self._ask("recover")


class Resources:
    """What programs have when there are no sessions."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.donor_fds = max(descriptors(n.donor) for n in nodes)
        self.donor_kib = max(resident_kib(n.donor) for n in nodes)
        self.borrower, self.fds, self.kib = None, 0, 0

    def _idle(self):
        return all(not s["sessions"] and s["slabs"]["lent"] == 0
                   for s in (n.donor.status() for n in self.nodes))

    def note_borrower(self, borrower):
        self.borrower = borrower
        self.fds = descriptors(borrower)
        self.kib = resident_kib(borrower)

    def check_donors(self):
        """The borrower has stopped: they end its sessions and take all
        back."""
        wait_until(self._idle, 10, "donors that have ended the sessions")
        for n in self.nodes:
            wait_until(lambda: descriptors(n.donor) <= self.donor_fds +
                       MORE_DESCRIPTORS, 5, f"{n.name} closes: "
                       f"{self.donor_fds} descriptors before, "
                       f"{descriptors(n.donor)} now")
            kib = resident_kib(n.donor)
            check(kib <= self.donor_kib + MORE_KIB, f"{n.name}: {kib} KiB "
                  f"resident, {self.donor_kib} before")
        return (f"donors {self.donor_kib} KiB before, "
                f"{max(resident_kib(n.donor) for n in self.nodes)} after")

    def check_borrower(self):
        wait_until(lambda: descriptors(self.borrower) <= self.fds +
                   MORE_DESCRIPTORS, 15, f"nbdkit closes: {self.fds} "
                   f"descriptors before, {descriptors(self.borrower)} now")
        kib = resident_kib(self.borrower)
        check(kib <= self.kib + MORE_KIB, f"nbdkit: {kib} KiB resident, "
              f"{self.kib} before")
        return f"nbdkit {self.kib} KiB before, {kib} after"


def rdma_resources():
    return run(["rdma", "resource"])[1] if FABRIC == "verbs" else ""


def make_links(box):
    """Links that can be cut, if possible; a word on it."""
    if FABRIC == "verbs":
        return [network.Fixed(f"10.7.0.{i + 1}:{network.PORT}")
                for i in range(DONORS)], "the network stays: verbs in one VM"
    try:
        return network.links(box, DONORS), ""
    except Skip as e:
        return [network.Fixed(network.free_address())
                for _ in range(DONORS)], f"the network stays: {e}"


def start_borrower(box, nodes, disk, copy):
    borrower = Borrower.__new__(Borrower)
    try:
        borrower.__init__(box, "nbdkit", {
            "size": f"{SIZE // MIB}M", "slab_size": "4M", "fabric": FABRIC,
            "backing": copy, "hot_slab": "20", "cold_slab": "5",
            "smoothing": "0.4", "lanes": "4", "write_behind": "8M",
            "deadline": f"{DEADLINE:g}s",
        }, nodes, SICK_DISK, dict(disk.env, **TIDY))
    finally:
        box.processes.append(borrower)
    return borrower


def read_much(borrower):
    """nbdkit's threads keep memory of the size of their largest requests,
    and the C library some of what they leave."""
    clients, errors = Clients(borrower, 6), []
    for i in range(6):
        for _ in range(16):
            clients.start(i, lambda h: h.aio_pread(
                nbd.Buffer(3 * MIB), 0), errors.append)
    clients.finish(60)
    check(not any(errors), f"{errors}")


def use_all(borrower, nodes):
    """Until each donor was used, so that what is kept for good is there."""
    borrower.wait_connected(nodes)
    h = borrower.connect()

    def used():
        for slab in range(SIZE // SLAB):
            h.pwrite(bytes(1 * MIB), slab * SLAB)
        return set(borrower.slabs().values()) == {n.address for n in nodes}
    wait_until(used, 20, "every donor is used")
    read_much(borrower)
    borrower.disconnect()


def warm_up(box, nodes, disk, copy):
    """The borrower, and what it and the donors have when they are idle."""
    for n in nodes:
        n.start()
    resources = Resources(nodes)
    borrower = start_borrower(box, nodes, disk, copy)
    use_all(borrower, nodes)
    for n in nodes:
        n.leave()
    wait_until(lambda: not borrower.slabs(), 10, "no slab is mapped")
    resources.note_borrower(borrower)
    for n in nodes:
        n.start()
    borrower.wait_connected(nodes)
    return borrower, resources


def play(load, donors, disk_trouble):
    """All the trouble, until time is up and all is well again."""
    end = time.monotonic() + SECONDS
    said, asked = "", time.monotonic()
    while True:
        late = time.monotonic() >= end
        donors.calm = donors.calm or late and disk_trouble.quiet
        donors.go_on()
        if not disk_trouble.go_on(until_quiet=late) and not donors.over:
            return
        for n in donors.nodes:
            n.check()
        load.check()
        if time.monotonic() > asked + 10:
            asked = time.monotonic()
            load.ask("figures")
        if load.figures() != said:
            said = load.figures()
            print(f"# {said}")
        time.sleep(0.02)


def stop_all(load, borrower, donors, resources):
    """Everything ends, and nothing is left over or missing."""
    wait_until(steady(borrower, donors.nodes, 0), 20, "all are connected")
    load.finish()
    counters = borrower.counters()
    borrower.freeze()
    said = [resources.check_donors()]
    for n in donors.nodes:
        n.leave()
    borrower.thaw()
    wait_until(lambda: not borrower.slabs(), 10, "no slab is mapped")
    said.append(resources.check_borrower())
    borrower.terminate()
    load.do("compare")
    load.end_well()
    return counters, said


def summary(load, donors, disk_trouble, counters, said):
    troubles = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in
                         (donors.counts + disk_trouble.counts).items())
    pages = ", ".join(f"{counters['pages_read_' + s]} {s}"
                      for s in ("donors", "slots", "disk", "zero"))
    return (f"{FABRIC}, {SECONDS:g} s, seed {SEED}: {load.figures()}; "
            f"trouble: {troubles}; slabs mapped {counters['slabs_mapped']}, "
            f"lost {counters['slabs_lost']}; pages read: {pages}; "
            f"{'; '.join(said)}")


@case
def chaos(box):
    """no wrong byte, late answer or needless error in chaos"""
    rng = random.Random(SEED)
    before = rdma_resources()
    links, word = make_links(box)
    copy = box.path("copy")
    disk = SickDisk(box, copy)
    nodes = [Node(box, f"donor{i}", link, DONOR_OPTIONS)
             for i, link in enumerate(links)]
    borrower, resources = warm_up(box, nodes, disk, copy)
    load = Load(box, borrower, copy, SIZE, SLAB, SEED, LIMITS)
    donors = Trouble(nodes, random.Random(rng.random()))
    trouble = DiskTrouble(disk, load, borrower, donors,
                          random.Random(rng.random()))
    try:
        play(load, donors, trouble)
    except AssertionError:
        if borrower.is_running():
            print(f"# {borrower.status()}")
        raise
    counters, said = stop_all(load, borrower, donors, resources)
    check(rdma_resources() == before, f"left on the RDMA device: "
          f"{rdma_resources()}; before: {before}")
    if word:
        said.append(word)
    return summary(load, donors, trouble, counters, said)


chaos.limit = SECONDS * 2 + 180

if __name__ == "__main__":
    main()
