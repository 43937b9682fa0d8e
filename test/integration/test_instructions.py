#!/usr/bin/python3
"""What a page costs in our own code, in instructions, as callgrind counts
them: those of the plugin itself and of nothing that it calls.  A page over
tcp, whose system calls are not among them.

The limits are what was counted, and a tenth: less is a reason to lower them.
"""

import os
import re
import subprocess
import time

from infiniswap import (KIB, PAGE, PLUGIN, SLAB, case, check, main, map_all,
                        nbdkit_env)

LIMITS = {"a 4K read": 1900, "a 4K read in a row": 1640,
          "a 4K write": 1440, "a 128K read": 5100,
          "a 128K read in a row": 8350, "a 128K write": 21100}
N = 2000


def instructions(path):
    """Of each program or library and source file, (object, file), without
    their folders, in what callgrind has dumped: of that itself and of
    nothing that it calls."""
    names, at, total, call = {}, {"ob": "", "fl": ""}, {}, False
    with open(path, encoding="utf-8") as f:
        for line in f:
            # "cob" and "cfi" are of the callee that comes next, "fi" and
            # "fe" of a function that was put into another.
            name = re.match(r"(c?)(ob|f[ile])=\((\d+)\)(?: (.*))?", line)
            if name:
                kind = "ob" if name[2] == "ob" else "fl"
                if name[4]:
                    names[kind, name[3]] = os.path.basename(name[4])
                if not name[1]:
                    at[kind] = names[kind, name[3]]
            elif line.startswith("calls="):
                call = True     # the next line is what the callee cost
            elif re.match(r"[+*\-\d]", line):
                if not call:
                    key = at["ob"], at["fl"]
                    total[key] = total.get(key, 0) + int(line.split()[1])
                call = False
    return total


def of_plugin(counts):
    """What of these are of the plugin."""
    return sum(n for (of, _), n in counts.items()
               if of == os.path.basename(PLUGIN))


class Counted:
    """A borrower whose instructions callgrind counts; `keys` as for
    Box.borrower."""

    def __init__(self, box, donors, **keys):
        self.out = box.path("callgrind")
        self.dumps = 0
        self.borrower = box.borrower(
            donors, prefix=["valgrind", "--tool=callgrind", "--quiet",
                            f"--callgrind-out-file={self.out}"], **keys)
        self.handle = self.borrower.connect()

    def _tell(self, option):
        # It and valgrind look for each other in TMPDIR.
        subprocess.run(["callgrind_control", option,
                        str(self.borrower.process.pid)],
                       check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, env=nbdkit_env())

    def _dump(self, work):
        """Instructions while it works, and the seconds that took."""
        self._tell("-z")
        start = time.monotonic()
        work()
        seconds = time.monotonic() - start
        self._tell("-d")
        self.dumps += 1
        return instructions(f"{self.out}.{self.dumps}"), seconds

    def parts(self, task, n):
        """What n times task(i) cost, as `instructions` tells, and the
        seconds."""
        def work():
            for i in range(n):
                task(i)
            self.handle.flush()

        for i in range(10):
            task(i)
        self.handle.flush()
        return self._dump(work)

    def count(self, task, n):
        """What task(i) costs the plugin on average of n, and the seconds of
        all n."""
        counts, seconds = self.parts(task, n)
        return of_plugin(counts) / n, seconds

    def idle(self, seconds):
        """What a second costs in which nothing is asked."""
        counts, seconds = self._dump(lambda: time.sleep(seconds))
        return of_plugin(counts) / seconds


@case
def instructions_a_page(box):
    """the instructions of a page are no more than they were"""
    counted = Counted(box, [box.donor()])
    h = counted.handle
    map_all(counted.borrower, h)
    slab, part = bytes(SLAB), bytes(128 * KIB)
    h.pwrite(slab, 0)
    h.flush()

    def write_part(i):
        """Nothing is superseded before it is written, or not, as the
        machine's load would have it."""
        h.pwrite(part, i % 128 * 128 * KIB)
        if i % 128 == 127:
            h.flush()

    tasks = {
        "a 4K read": lambda i: h.pread(PAGE, 37 * i % N * PAGE),
        "a 4K read in a row": lambda i: h.pread(PAGE, i * PAGE),
        "a 4K write": lambda i: h.pwrite(part[:PAGE], i * PAGE),
        "a 128K read": lambda i: h.pread(128 * KIB,
                                         37 * i % 128 * 128 * KIB),
        "a 128K read in a row": lambda i: h.pread(128 * KIB,
                                                  i % 128 * 128 * KIB),
        "a 128K write": write_part}
    figures, over = [], []
    for what, task in tasks.items():
        count, _ = counted.count(task, N)
        figures.append(f"{what} {count:.0f}")
        if count > LIMITS[what]:
            over.append(f"{what}: {count:.0f}, not {LIMITS[what]}")
    check(not over, "; ".join(over))
    return ", ".join(figures)


if __name__ == "__main__":
    main()
