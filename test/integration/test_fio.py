#!/usr/bin/python3
"""fio over a device of which one donor dies and another stops for 10 s:
no wrong byte, no I/O error, no I/O longer than the deadline and a second.

FIO_SECONDS: how long fio runs (default 60)."""

import collections
import json
import os
import shutil
import subprocess
import time

from infiniswap import (DEADLINE, SLOWDOWN, Process, Skip, case, check,
                        main, wait_until)

SECONDS = float(os.environ.get("FIO_SECONDS", "60"))
# The donor's end, and the beginning and length of the other's silence.
KILL_AT, FREEZE_AT = SECONDS / 3, SECONDS * 7 / 12
FROZEN = 10 if SECONDS >= 60 else max(SECONDS / 6, DEADLINE * 1.5)
SLABS_AT_LEAST = 5


def fio_args(b, seconds, output):
    return [
        "fio", "--name=isw", "--ioengine=nbd", f"--uri={b.uri}",
        "--rw=randrw", "--bsrange=4k-128k", "--iodepth=16",
        "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=256",
        "--verify_backlog_batch=256", "--serialize_overlap=1",
        "--verify_state_save=0", "--size=512m", "--time_based",
        f"--runtime={seconds:g}",
        "--output-format=json", f"--output={output}",
    ]


def owners(b):
    return collections.Counter(b.slabs().values())


class Phases:
    """Waits until moments after the start, and looks at what was read
    from donors in between."""

    def __init__(self, b, fio):
        self.b, self.fio = b, fio
        self.start = time.monotonic()
        self.read = self.b.counters()["pages_read_donors"]
        self.said = []

    def until(self, seconds, name, running=True):
        while time.monotonic() < self.start + seconds:
            check(self.fio.is_running(), f"fio ended in phase {name}")
            time.sleep(0.1)
        read = self.b.counters()["pages_read_donors"]
        self.said.append(f"{name} {read - self.read}")
        check(read > self.read, f"no page was read from donors {name}")
        self.read = read


def check_holds(b, donor):
    n = owners(b)[donor.address]
    check(n >= SLABS_AT_LEAST, f"{donor.name} holds only {n} slabs: "
          f"{owners(b)}")
    return n


def check_report(path):
    with open(path) as f:
        job = json.load(f)["jobs"][0]
    check(job["error"] == 0, f"fio's error: {job['error']}")
    check(job["total_err"] == 0 if "total_err" in job else True,
          f"{job.get('total_err')} errors")
    worst = 0
    for direction in ("read", "write"):
        n = job[direction]
        check(n["total_ios"] > 1000, f"only {n['total_ios']} {direction}s")
        worst = max(worst, n["clat_ns"]["max"] / 1e9)
    limit = (DEADLINE + 1) * SLOWDOWN
    check(worst <= limit, f"an I/O took {worst:.2f} s")
    return worst, job


@case
def donor_dies_and_donor_stops(box):
    """fio verifies while a donor is killed and another stopped"""
    if not shutil.which("fio"):
        raise Skip("no fio")
    donors = box.donors(3)
    b = box.borrower(donors, size="512M", hot_slab=5, smoothing=0.5,
                     deadline="2s")
    output = box.path("fio.json")
    fio = Process(box, "fio", fio_args(b, SECONDS, output))
    box.processes.append(fio)
    fio.killed = True           # it may end by itself, and be ended so
    phases = Phases(b, fio)
    killed, frozen, last = donors

    phases.until(KILL_AT, "before")
    had = [check_holds(b, killed)]
    killed.kill()
    phases.until(FREEZE_AT, "after the kill")
    had.append(check_holds(b, frozen))
    frozen.freeze()
    phases.until(FREEZE_AT + FROZEN, "while stopped")
    check(set(owners(b)) == {last.address}, f"owners: {owners(b)}")
    frozen.thaw()
    b.wait_connected([frozen], 5)
    phases.until(SECONDS - 1, "at the end")
    status = fio.wait(60)
    check(status == 0, f"fio: exit status {status}")
    worst, job = check_report(output)
    counters = b.counters()
    check(counters["io_errors"] == 0, f"{counters}")
    check(counters["slabs_lost"] >= sum(had) > 0, f"{counters}")
    ios = job["read"]["total_ios"] + job["write"]["total_ios"]
    return (f"{ios} I/Os, the longest {worst:.2f} s; slabs lost {had}; "
            f"pages from donors: {', '.join(phases.said)}")


donor_dies_and_donor_stops.limit = SECONDS + 90

if __name__ == "__main__":
    main()
