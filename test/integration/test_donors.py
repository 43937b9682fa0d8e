#!/usr/bin/python3
"""Donors that come, go, return, do not fit, or do not answer."""

import os
import random
import socket
import time

import nbd

from infiniswap import (DEADLINE, MIB, PAGE, SLAB, SLOWDOWN, Load, Skip, case,
                        check, equal, main, map_all, read_all, wait_until)


@case
def other_slab_size(box):
    """a donor with another slab size is refused, saying so; others serve"""
    wrong = box.donor(slab_size="32M")
    right = box.donor()
    b = box.borrower([wrong, right], connected=False)
    b.wait_connected([right])
    wait_until(lambda: b.donor(wrong)["last_error"], 5, "an error")
    status = b.donor(wrong)
    check("slab size" in status["last_error"] and
          status["state"] != "connected", f"{status}")
    b.wait_line(f"donor {wrong.address}: .*slab size")
    h = b.connect()
    map_all(b, h)
    check(set(b.slabs().values()) == {right.address}, f"{b.slabs()}")
    # Said once, however often it is tried.
    lines = [s for s in b.lines if "slab size" in s]
    check(len(lines) == 1, f"{lines}")


@case
def name_of_two_addresses(box):
    """of the addresses that a name has, the one that is listened on is found"""
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError as e:
        raise Skip(f"no IPv6: {e}") from e
    donors = [box.donor(), box.donor("[::1]:0")]
    names = [f"localhost:{d.address.rpartition(':')[2]}" for d in donors]
    b = box.borrower(names)
    wait_until(lambda: all(b.donor(n)["state"] == "connected" for n in names),
               10, "a session with both")


@case
def full_donor(box):
    """slabs for which no donor has room are served from disk"""
    small = box.donor(memory="16M")
    b = box.borrower([small])
    h = b.connect()
    for slab in range(4):
        h.pwrite(bytes([slab]) * PAGE, slab * SLAB)
    wait_until(lambda: len(b.slabs()) == 1, 5, "one slab mapped")
    for slab in range(4):
        equal(h.pread(PAGE, slab * SLAB), bytes([slab]) * PAGE, "content")
    check(len(b.slabs()) == 1, f"{b.slabs()}")


@case
def dies_and_returns(box):
    """a donor that dies and returns is used again within 5 s"""
    donors = box.donors(2)
    b = box.borrower(donors)
    h = b.connect()
    map_all(b, h)
    load = Load(b, range(4))
    address = donors[0].address
    donors[0].kill()
    b.wait_line(f"donor {address}: session ended")
    # Long enough for the borrower to try as seldom as it ever does.
    time.sleep(7)
    again = box.donor(address)
    start = time.monotonic()
    b.wait_connected([again], 5)
    seconds = time.monotonic() - start
    # "Used" is more than connected: it gets the next slab.
    donors[1].kill()
    wait_until(lambda: address in b.slabs().values(), 5, "a slab there")
    total = time.monotonic() - start
    load.stop()
    load.check_all(h)
    check(total < 5 * SLOWDOWN, f"used again after {total:.1f} s")
    check(load.slowest < DEADLINE + 1, f"a request took {load.slowest} s")
    return (f"connected after {seconds:.2f} s, lends after {total:.2f} s, "
            f"slowest request {load.slowest:.2f} s")


@case
def last_donor_dies(box):
    """when all donors die nothing is lost, and requests stay in time"""
    donors = box.donors(2)
    b = box.borrower(donors)
    h = b.connect()
    map_all(b, h)
    load = Load(b, range(4))
    wait_until(lambda: load.requests > 200 or load.error, 10, "requests")
    for d in donors:
        d.kill()
    b.wait_line(f"donor {donors[0].address}: session ended")
    b.wait_line(f"donor {donors[1].address}: session ended")
    before = load.requests
    wait_until(lambda: load.requests > before + 200 or load.error, 10,
               "requests")
    load.stop()
    load.check_all(h)
    counters = b.counters()
    check(counters["io_errors"] == 0, f"{counters}")
    check(load.slowest < DEADLINE + 1, f"a request took {load.slowest} s")
    return f"slowest request {load.slowest:.2f} s"


@case
def frozen_and_thawed(box):
    """a donor that stops and goes on costs one deadline, and no byte"""
    donors = box.donors(2)
    b = box.borrower(donors)
    h = b.connect()
    map_all(b, h)
    load = Load(b, range(4))
    wait_until(lambda: load.requests > 200 or load.error, 10, "requests")
    donors[0].freeze()
    b.wait_line(f"donor {donors[0].address}: session ended", 10)
    wait_until(lambda: set(b.slabs().values()) == {donors[1].address} and
               len(b.slabs()) == 4, 5, "all slabs on the other donor")
    donors[0].thaw()
    b.wait_connected([donors[0]])
    wait_until(lambda: donors[0].status()["slabs"]["lent"] == 0, 5,
               "the donor has its slabs back")
    load.stop()
    load.check_all(h)
    h.flush()
    load.check_all(h)
    check(b.counters()["io_errors"] == 0, "I/O errors")
    check(load.slowest < DEADLINE + 1, f"a request took {load.slowest} s")
    return f"slowest request {load.slowest:.2f} s"


@case
def borrower_killed(box):
    """nbdkit killed under load: donors take back, what was flushed stays"""
    donors = box.donors(2)
    path = box.path("copy")
    b = box.borrower(donors, backing=path)
    h = b.connect()
    map_all(b, h)
    content = random.randbytes(32 * MIB)
    for at in range(0, len(content), MIB):
        h.pwrite(content[at:at + MIB], at)
    h.flush()
    load = Load(b, [2, 3])
    wait_until(lambda: load.requests > 200 or load.error, 10, "requests")
    b.kill()
    start = time.monotonic()
    for d in donors:
        wait_until(lambda: d.status()["slabs"]["lent"] == 0, 3,
                   f"{d.name} has its slabs back")
    seconds = time.monotonic() - start
    load.stopped.set()
    load.thread.join()
    check(isinstance(load.error, nbd.Error), f"{load.error}")
    b = box.borrower(donors, backing=path)
    h = b.connect()
    equal(h.pread(len(content), 0), content, "what was flushed")
    map_all(b, h)
    return f"given back after {seconds:.2f} s"


@case
def borrower_frozen(box):
    """a borrower that stops loses its slabs within the donor's deadline"""
    donors = box.donors(1, deadline="3s")
    b = box.borrower(donors)
    h = b.connect()
    map_all(b, h)
    content = random.randbytes(4 * MIB)
    h.pwrite(content, 0)
    b.freeze()
    start = time.monotonic()
    wait_until(lambda: donors[0].status()["slabs"]["lent"] == 0, 4.5,
               "the donor has its slabs back")
    seconds = time.monotonic() - start
    b.thaw()
    equal(h.pread(len(content), 0), content, "content afterwards")
    b.wait_connected(donors)
    map_all(b, h)
    return f"given back after {seconds:.2f} s"


@case
def clean_stop(box):
    """a clean stop gives all memory back"""
    donors = box.donors(2)
    b = box.borrower(donors)
    h = b.connect()
    map_all(b, h)
    seconds = b.terminate()
    for d in donors:
        wait_until(lambda: d.status()["slabs"]["lent"] == 0, 3,
                   f"{d.name} has its slabs back")
        check(not d.status()["sessions"], "a session is left")
    return f"in {seconds:.2f} s"


@case
def clean_stop_with_frozen_donors(box):
    """nbdkit stops cleanly, and soon, while all donors are stopped"""
    donors = box.donors(2)
    path = box.path("copy")
    b = box.borrower(donors, backing=path)
    h = b.connect()
    map_all(b, h)
    for d in donors:
        d.freeze()
    content = random.randbytes(8 * PAGE)
    h.pwrite(content, SLAB)
    seconds = b.terminate(DEADLINE + 3)
    with open(path, "rb") as f:
        f.seek(SLAB)
        equal(f.read(len(content)), content, "the local copy")
    return f"in {seconds:.2f} s"


def write_donors_file(path, text):
    """As an editor does, so that no half of it is ever seen."""
    with open(path + ".new", "w") as f:
        f.write(text)
    os.rename(path + ".new", path)


@case
def donors_file(box):
    """donors-file is read again: added donors are used, removed ones not"""
    first, second = box.donors(2)
    path = box.path("donors")
    write_donors_file(path, f"# the first\n\n{first.address}  # only\n")
    b = box.borrower(donors_file=path)
    b.wait_connected([first])
    h = b.connect()
    map_all(b, h)
    check(set(b.slabs().values()) == {first.address}, f"{b.slabs()}")
    content = bytearray(random.randbytes(h.get_size()))
    for at in range(0, len(content), MIB):
        h.pwrite(content[at:at + MIB], at)

    write_donors_file(path, f"# both\n{first.address}\n{second.address}\n")
    b.wait_connected([second], 5)
    check(len(b.slabs()) == 4, "slabs of a donor that stayed have moved")

    load = Load(b, range(4))
    write_donors_file(path, f"{second.address}\n#{first.address}\n")
    wait_until(lambda: b.donor(first) is None, 5, "the first is gone")
    wait_until(lambda: first.status()["slabs"]["lent"] == 0, 5,
               "the first has its slabs back")
    wait_until(lambda: list(b.slabs().values()) == [second.address] * 4, 5,
               "all slabs on the second")
    load.stop()
    for page, data in load.model.items():
        content[page * PAGE:(page + 1) * PAGE] = data
    equal(read_all(h), content, "content")
    check(b.counters()["io_errors"] == 0, "I/O errors")


@case
def bad_donors_file(box):
    """a donors-file that becomes wrong changes nothing, and is named"""
    donors = box.donors(1)
    path = box.path("donors")
    write_donors_file(path, donors[0].address)
    b = box.borrower(donors_file=path)
    b.wait_connected(donors)
    h = b.connect()
    map_all(b, h)
    write_donors_file(path, f"{donors[0].address}\nno port here\n")
    b.wait_line(f"{path}.*2", 5)
    check(len(b.slabs()) == 4, "the slabs have moved")
    os.unlink(path)
    h.pwrite(b"x", 0)
    write_donors_file(path, f"{donors[0].address}\n# back again\n")
    check(b.donor(donors[0])["state"] == "connected", "the donor has gone")


if __name__ == "__main__":
    main()
