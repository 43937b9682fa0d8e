"""What trouble is made with: donors that come and go, a disk that is slow or
fails, and the program that loads the device and judges."""

import os
import struct
import subprocess
import time

from infiniswap import (CTL, DONOR, SLOWDOWN, Donor, Process, check, run,
                        wait_until)

BUILD = os.path.dirname(DONOR)
LOAD = os.path.join(BUILD, "test/chaos/load")
SICK_DISK = os.path.join(BUILD, "test/chaos/sick_disk.so")


def can_evict():
    return "evict" in run([CTL, "--help"])[1]


def descriptors(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def resident_kib(process):
    with open(f"/proc/{process.pid}/status") as f:
        return next(int(line.split()[1]) for line in f
                    if line.startswith("VmRSS"))


class Node:
    """A donor's place.  The donor there is another one after each start."""

    def __init__(self, box, name, link, options):
        self.box, self.name, self.link = box, name, link
        self.address = link.address
        self.options = options
        self.starts = 0
        self.donor = None

    def start(self, **other):
        self.starts += 1
        self.donor = Donor(self.box, f"{self.name}-{self.starts}",
                           self.address, dict(self.options, **other),
                           self.link.prefix)
        self.box.processes.append(self.donor)

    def _ended(self):
        # A long run has many.
        self.box.processes.remove(self.donor)
        wrong = self.donor.end()
        self.donor = None
        check(not wrong, wrong)

    def kill(self):
        self.donor.kill()
        self._ended()

    def leave(self):
        self.donor.terminate()
        self._ended()

    def check(self):
        check(self.donor is None or self.donor.is_running(),
              f"{self.name} has ended by itself")


class SickDisk:
    """The control file of sick_disk.c."""

    def __init__(self, box, copy):
        self.path = box.path("sick-disk")
        self.env = {"SICK_DISK_CONTROL": self.path, "SICK_DISK_FILE": copy}
        self.be()

    def be(self, write_errors=0, read_errors=0, flush_errors=0, delay_us=0):
        """Errors are of 1000 operations."""
        # In place, since it is mapped; each word is taken by itself.
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(fd, struct.pack("=4I", write_errors, read_errors,
                                  flush_errors, delay_us), 0)
        os.close(fd)


class Load(Process):
    """test/chaos/load"""

    def __init__(self, box, borrower, copy, size, slab, seed, limits):
        args = [size, slab, seed, 5] + [int(s * 1000) for s in limits]
        super().__init__(box, "load", [LOAD, borrower.uri, copy] +
                         [str(a) for a in args], stdin=subprocess.PIPE)
        box.processes.append(self)
        self.asked = []

    def check(self):
        if self.find_line("^failed: "):
            self.wait(5)
        check(self.is_running(), "the load has failed: " +
              "; ".join(line for line in self.lines[-12:]))

    def ask(self, command):
        self.asked.append(command)
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def has_done(self):
        """Is everything done that was asked for?"""
        self.check()
        return sum(line.startswith("done ") for line in self.lines) >= \
            len(self.asked)

    def do(self, command, seconds=30):
        self.ask(command)
        wait_until(self.has_done, seconds, f"load: {command}")

    def figures(self):
        return next((line[len("figures: "):] for line in reversed(self.lines)
                     if line.startswith("figures: ")), "")

    def finish(self):
        self.do("finish", 120)

    def end_well(self):
        self.process.stdin.close()
        status = self.wait(10)
        self.killed = True
        check(status == 0, f"the load's exit status: {status}")


def steady(borrower, nodes, seconds):
    """A function that tells whether all donors are connected and have been
    for so long."""
    state = {"ended": -1, "since": 0}

    def ended():
        return sum("session ended" in line for line in borrower.lines)

    def is_steady():
        now = time.monotonic()
        connected = all((borrower.donor(n) or {}).get("state") == "connected"
                        for n in nodes)
        if not connected or ended() != state["ended"]:
            state.update(ended=ended(), since=now)
        return now - state["since"] >= seconds * SLOWDOWN
    return is_steady
