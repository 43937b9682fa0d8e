#!/usr/bin/python3
"""What the programs log: a line an event, and none for a read or write."""

import re

from infiniswap import (PAGE, SLAB, Load, case, check, main, map_all,
                        wait_until)


def found(lines, pattern):
    return {m.groups() for s in lines if (m := re.fullmatch(pattern, s))}


def placed_on(donor, b):
    """(slab, grant), by the borrower's log."""
    return found(b.lines, rf"infiniswap: slab (\d+): placed on donor "
                 rf"{donor.address} \(grant (\d+)\)")


def lent_by(donor):
    return found(donor.lines, r"infiniswap-donor: peer 127\.0\.0\.1:\d+: "
                 r"slab (\d+) lent \(grant (\d+)\)")


def wait_placed(b, donors, n):
    """Until both ends have logged their n slabs: the lines come after the
    state that status shows."""
    wait_until(lambda: sum(len(placed_on(d, b)) for d in donors) == n and
               all(placed_on(d, b) == lent_by(d) for d in donors), 15,
               f"{n} slabs with the same grants at both ends")


@case
def no_line_per_io(box):
    """thousands of requests, flushes and discards log nothing"""
    donors = box.donors(2)
    b = box.borrower(donors)
    h = b.connect()
    map_all(b, h)
    wait_placed(b, donors, 4)
    programs = [b] + donors
    before = [len(p.lines) for p in programs]
    load = Load(b, range(4))
    wait_until(lambda: load.requests > 2000 or load.error, 60, "requests")
    load.stop()
    for i in range(100):
        h.flush()
        h.trim(PAGE, SLAB // 2 + i * PAGE)
        h.zero(PAGE, SLAB // 2 + i * PAGE)
    for p, n in zip(programs, before):
        check(len(p.lines) == n, f"{p.name} logged {p.lines[n:]}")


@case
def both_ends_name_the_same(box):
    """each slab's lines name the peer, and have the same grant at both
    ends"""
    donors = box.donors(2)
    b = box.borrower(donors)
    map_all(b, b.connect())
    wait_placed(b, donors, 4)
    # A donor that dies: a line for its session, one for each slab, and one
    # that it is not reached, however often it is tried.
    first = donors[0]
    slabs = [s for s, a in b.slabs().items() if a == first.address]
    start = len(b.lines)
    first.kill()
    b.wait_line(f"warning: donor {first.address}: session ended: .*; it had "
                f"{len(slabs)} slabs$", start=start)
    for slab in slabs:
        b.wait_line(f"slab {slab}: left donor {first.address} "
                    r"\(grant \d+, its session has ended\)$", start=start)
    b.wait_line(f"warning: donor {first.address}: Connection refused$",
                start=start)
    wait_until(lambda: b.donor(first)["failures"] >= 4, 20, "four failures")
    lines = [s for s in b.lines[start:] if "Connection refused" in s]
    check(len(lines) == 1, f"{lines}")


if __name__ == "__main__":
    main()
