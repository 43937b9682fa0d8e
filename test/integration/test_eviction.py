#!/usr/bin/python3
"""Donors that take their slabs back: on demand, because they stop, or
because their borrower is gone."""

import random
import time

from infiniswap import (CTL, DEADLINE, MIB, PAGE, SLAB, SLOWDOWN, Load, case,
                        check, equal, main, map_all, read_all, run,
                        wait_until)

# 100 times all slabs of a device of four.
EVICTIONS = 400
# Of the donors; not less than the borrower's and a second.
DONOR_DEADLINE = 3.0


def evict(donor, what="all"):
    """What infiniswapctl says, and what is counted: slabs that are back."""
    status, text, problem = run([CTL, "evict", donor.state, str(what)])
    check(status == 0, f"infiniswapctl evict: status {status}, {problem}")
    return text.strip()


def check_no_session_ended(b, donors):
    for d in donors:
        failures = b.donor(d)["failures"]
        check(failures == 0, f"{failures} sessions with {d.name} have ended")
    line = b.find_line("session ended")
    check(not line, "a session has ended")


@case
def all_evicted_under_load(box):
    """all slabs evicted 100 times under load: no error, no wrong byte"""
    donors = box.donors(3)
    b = box.borrower(donors)
    h = b.connect()
    map_all(b, h)
    load = Load(b, range(4))
    start = time.monotonic()
    rounds = 0
    while b.counters()["slabs_evicted"] < EVICTIONS:
        check(time.monotonic() - start < 60 * SLOWDOWN,
              f"only {b.counters()['slabs_evicted']} slabs evicted")
        evict(donors[rounds % 3])
        rounds += 1
    seconds = time.monotonic() - start
    load.stop()
    load.check_all(h)
    h.flush()
    load.check_all(h)
    counters = b.counters()
    lent = [d.status()["counters"] for d in donors]
    done = sum(c["evictions_done"] for c in lent)
    median = max(c["eviction_us_median"] for c in lent)
    check(median > 0, f"{lent}")
    check(counters["io_errors"] == 0, f"{counters}")
    check(done == counters["slabs_evicted"],
          f"{done} slabs are back of {counters['slabs_evicted']}")
    check_no_session_ended(b, donors)
    check(load.slowest < DEADLINE + 1, f"a request took {load.slowest} s")
    return (f"{done} slabs in {seconds:.1f} s, {median} us from EVICT to DONE, "
            f"{load.requests} requests, the slowest {load.slowest:.2f} s")


def wait_back(donor, start):
    """Until the donor has its slabs back: seconds since the start."""
    limit = DONOR_DEADLINE + 1
    wait_until(lambda: donor.status()["slabs"]["lent"] == 0, limit + 1,
               f"{donor.name} has its slabs back")
    seconds = time.monotonic() - start
    check(seconds < limit * SLOWDOWN, f"only after {seconds:.2f} s")
    return seconds


@case
def borrower_frozen(box):
    """a stopped borrower's slabs are evicted in time, and it reads all"""
    donors = box.donors(1, deadline="3s")
    b = box.borrower(donors)
    h = b.connect()
    map_all(b, h)
    content = bytearray(random.randbytes(h.get_size()))
    for at in range(0, len(content), MIB):
        h.pwrite(content[at:at + MIB], at)
    b.freeze()
    start = time.monotonic()
    run([CTL, "evict", "--timeout", "100ms", donors[0].state, "all"])
    seconds = wait_back(donors[0], start)
    b.thaw()
    equal(read_all(h), content, "content afterwards")
    b.wait_connected(donors)
    map_all(b, h)
    content[0] = content[SLAB] = content[2 * SLAB] = content[3 * SLAB] = 0
    equal(read_all(h), content, "content at the end")
    return f"given back after {seconds:.2f} s"


@case
def borrower_killed(box):
    """a killed borrower's slabs are back in time"""
    donors = box.donors(2, deadline="3s")
    b = box.borrower(donors)
    map_all(b, b.connect())
    b.kill()
    start = time.monotonic()
    for d in donors:
        run([CTL, "evict", "--timeout", "100ms", d.state, "all"])
    seconds = max(wait_back(d, start) for d in donors)
    return f"given back after {seconds:.2f} s"


@case
def donor_stopped(box):
    """a donor stopped by SIGTERM under load gives its slabs back in order"""
    donors = box.donors(2)
    b = box.borrower(donors)
    h = b.connect()
    map_all(b, h)
    load = Load(b, range(4))
    wait_until(lambda: load.requests > 500 or load.error, 10, "requests")
    before, load.slowest = load.slowest, 0
    had = b.donor(donors[0])["slabs"]
    check(had > 0, "the donor has no slab")
    seconds = donors[0].terminate()
    wait_until(lambda: set(b.slabs().values()) == {donors[1].address} and
               len(b.slabs()) == 4, 5, "all slabs on the other donor")
    b.wait_line(f"donor {donors[0].address}: session ended.* it had 0 slabs")
    load.stop()
    load.check_all(h)
    counters = b.counters()
    check(counters["io_errors"] == 0, f"{counters}")
    check(counters["slabs_evicted"] == had, f"{counters}")
    check(counters["slabs_lost"] == 0, f"{counters}")
    check(counters["deadlines_missed"] == 0, f"{counters}")
    # A request that had waited for the peer would have taken DEADLINE.
    check(load.slowest < DEADLINE / 2 * SLOWDOWN,
          f"a request took {load.slowest:.2f} s")
    return (f"{had} slabs in {seconds:.2f} s, slowest request "
            f"{load.slowest * 1000:.0f} ms, before {before * 1000:.0f} ms")


@case
def donor_comes_back(box):
    """a donor that stopped in order and comes back is used within 5 s"""
    donors = box.donors(2)
    b = box.borrower(donors)
    h = b.connect()
    map_all(b, h)
    load = Load(b, range(4))
    address = donors[0].address
    donors[0].terminate()
    # Long enough for the borrower to try as seldom as it ever does.
    time.sleep(7)
    again = box.donor(address)
    start = time.monotonic()
    b.wait_connected([again], 5)
    # It has no slab of this device yet, so it gets what the other evicts.
    evict(donors[1], 1)
    wait_until(lambda: address in b.slabs().values(), 5, "a slab there")
    seconds = time.monotonic() - start
    load.stop()
    load.check_all(h)
    check(seconds < 5 * SLOWDOWN, f"only after {seconds:.1f} s")
    check(b.counters()["io_errors"] == 0, "I/O errors")
    return f"after {seconds:.2f} s"


@case
def borrowers_come_and_go(box):
    """several borrowers on one donor come and go while it evicts"""
    donor = box.donor()
    going = []
    for n in range(8):
        b = box.borrower([donor])
        h = b.connect()
        map_all(b, h)
        going.append((b, h, Load(b, range(4))))
        evict(donor, 3)
        if n % 2 == 1:
            b, h, load = going.pop(random.randrange(len(going)))
            load.stop()
            load.check_all(h)
            check(b.counters()["io_errors"] == 0, "I/O errors")
            check_no_session_ended(b, [donor])
            if n % 4 == 1:
                b.kill()
            else:
                b.terminate()
    evict(donor)
    for b, h, load in going:
        load.stop()
        load.check_all(h)
        check(b.counters()["io_errors"] == 0, "I/O errors")
        check_no_session_ended(b, [donor])
        b.terminate()
    wait_until(lambda: donor.status()["slabs"]["lent"] == 0, 5,
               "the donor has its slabs back")
    counters = donor.status()["counters"]
    check(counters["sessions_started"] == 8, f"{counters}")
    check(counters["messages_bad"] == 0, f"{counters}")
    return f"8 borrowers, {counters['evictions_done']} slabs evicted"


if __name__ == "__main__":
    main()
