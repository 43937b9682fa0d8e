#!/usr/bin/python3
"""infiniswapctl against a live device and live donors."""

import json

from infiniswap import (CTL, PAGE, SLAB, case, check, main, map_all, run,
                        wait_landed)


def ctl(*args, status=0):
    got, out, error = run([CTL] + list(args))
    check(got == status, f"exit status {got}: {error}")
    return out if status == 0 else error


def system(box):
    """A device with four slabs on two donors, a third without a process."""
    donors = box.donors(2)
    nobody = box.unused_address()
    b = box.borrower(donors + [nobody])
    h = b.connect()
    map_all(b, h)
    h.pwrite(bytes(10 * PAGE), 2 * SLAB)
    h.flush()
    h.pread(10 * PAGE, 2 * SLAB)
    return b, donors, nobody


@case
def json_of_device(box):
    """status --json of a device: slabs, donors, counters, configuration"""
    b, donors, nobody = system(box)
    s = json.loads(ctl("status", "--json", b.state))
    check(s["kind"] == "device", s["kind"])
    check(s["device"]["slabs"] == 4 and
          s["device"]["size_bytes"] == 4 * SLAB, s["device"])
    check(s["slabs"]["mapped"] == 4, s["slabs"])
    listed = {x["index"]: x for x in s["slabs"]["list"]}
    addresses = {d.address for d in donors}
    check(set(listed) == {0, 1, 2, 3} and
          all(x["donor"] in addresses for x in listed.values()), listed)
    check(listed[2]["reads"] == 10 and listed[2]["writes"] >= 10, listed[2])
    known = {d["address"]: d for d in s["donors"]}
    check(set(known) == addresses | {nobody}, known)
    for d in donors:
        d = known[d.address]
        check(d["state"] == "connected" and d["fabric"] == "tcp" and
              d["last_error"] is None, d)
    check(sum(d["slabs"] for d in s["donors"]) == 4, known)
    check(any(d["free_bytes"] > 0 for d in s["donors"]), known)
    check(known[nobody]["last_error"] and known[nobody]["failures"] > 0,
          known[nobody])
    c = s["counters"]
    check(c["pages_read_donors"] + c["pages_read_slots"] >= 10, c)
    check(c["slabs_mapped"] == 4 and c["io_errors"] == 0, c)
    wait_landed(b)
    check(s["config"]["donors"].count(",") == 2 and
          s["config"]["state"] == b.state, s["config"])
    check(s["lock"]["mode"] == "try", s["lock"])


@case
def json_of_donor(box):
    """status --json of a donor: memory, sessions, slabs"""
    b, donors, _ = system(box)
    lent = 0
    for d in donors:
        s = json.loads(ctl("status", "--json", d.state))
        check(s["kind"] == "donor" and s["listen"] == d.address, s)
        check(len(s["sessions"]) == 1, s["sessions"])
        session = s["sessions"][0]
        check(session["slabs"] == s["slabs"]["lent"] ==
              s["counters"]["maps"], s)
        check(session["device"] == b.status()["device"]["id"], session)
        m = s["memory"]
        check(m["lent_bytes"] == s["slabs"]["lent"] * SLAB, m)
        check(m["held_bytes"] >= m["lent_bytes"], m)
        check(m["total_bytes"] > m["available_bytes"] > 0, m)
        lent += s["slabs"]["lent"]
    check(lent == 4, f"{lent} slabs lent")


@case
def several(box):
    """several sockets give an array, and one page each"""
    b, donors, nobody = system(box)
    sockets = [b.state] + [d.state for d in donors]
    kinds = [s["kind"] for s in json.loads(ctl("status", "--json",
                                               *sockets))]
    check(kinds == ["device", "donor", "donor"], kinds)
    text = ctl("status", *sockets)
    for word in sockets + [d.address for d in donors] + [nobody, "mapped"]:
        check(word in text, f"no {word} in: {text}")


@case
def dead(box):
    """a socket whose program is gone or stopped is named; others answer"""
    b, donors, _ = system(box)
    donors[0].kill()
    got, out, error = run([CTL, "status", "--json", donors[0].state,
                           b.state])
    check(got == 1 and donors[0].state in error, f"{got}: {error}")
    check('"device"' in out, out)
    donors[1].freeze()
    error = ctl("status", "--timeout", "500ms", donors[1].state, status=1)
    check(donors[1].state in error, error)
    donors[1].thaw()
    ctl("status", donors[1].state)
    check(b.is_running(), "the borrower has ended")


if __name__ == "__main__":
    main()
