#!/usr/bin/python3
"""infiniswapctl check, and donors and top against what is live."""

import fcntl
import json
import os
import pty
import re
import signal
import stat
import struct
import subprocess
import termios

from infiniswap import (CTL, Load, PLUGIN, SLOWDOWN, WRAPPER, case, check, main,
                        map_all, run, wait_until)


def ctl(*args, status=0):
    got, out, error = run(WRAPPER + [CTL, *args])
    check(got == status, f"exit status {got}, not {status}: {out} {error}")
    return out, error


def rows(table):
    return [line.split() for line in table.splitlines()]


@case
def donors_reachable(box):
    """donors: what they lend, and how far away they are"""
    donors = box.donors(2, memory="64M", ready=1)
    b = box.borrower(donors)
    h = b.connect()
    map_all(b, h)
    out, _ = ctl("donors", donors[0].address + "," + donors[1].address)
    table = {r[0]: r for r in rows(out)}
    for d in donors:
        row = table[d.address]
        check(row[1] == "reachable" and row[5] == "16M" and
              re.fullmatch(r"\d+(us|ms)", row[7]), row)
        lent = d.status()["slabs"]["lent"] * 16
        check(row[3] == f"{lent}M" and row[2] == f"{64 - lent}M", row)
    # It is no session that outlives it.
    wait_until(lambda: all(len(d.status()["sessions"]) == 1 for d in donors),
               5, "sessions of the device alone")


@case
def donors_unreachable(box):
    """donors: why one is not reachable, and exit status 1"""
    donor = box.donor()
    nobody = box.unused_address()
    frozen = box.donor()
    frozen.freeze()
    out, _ = ctl("donors", "--timeout", "1s", donor.address, nobody,
                 frozen.address, "nohost.invalid:9400", status=1)
    frozen.thaw()
    check(f"{donor.address}" in out and "reachable" in out, out)
    check("tcp: Connection refused" in out, out)
    check("tcp: no answer within 1s" in out, out)
    check("nohost.invalid" in out and out.count("unreachable") == 3, out)
    out, _ = ctl("donors", "--json", donor.address, nobody, status=1)
    first, second = json.loads(out)
    check(first["state"] == "reachable" and
          first["fabrics"]["tcp"]["round_trip_us"] > 0, first)
    check(second["state"] == "unreachable" and
          second["fabrics"]["tcp"]["reason"] == "Connection refused", second)


@case
def donors_of_a_file(box):
    """donors: of a file, and of a device's key file, each asked once"""
    donors = box.donors(2)
    lines = "".join(d.address + "\n" for d in donors)
    with open(box.path("donors"), "w") as f:
        f.write("# all\n" + lines)
    with open(box.path("isw0.conf"), "w") as f:
        f.write(f"[device]\nsize = 1G\ndonors = {donors[0].address}\n")
    with open(box.path("empty.conf"), "w") as f:
        f.write("[device]\nsize = 1G\n")
    out, _ = ctl("donors", "--donors-file", box.path("donors"),
                 donors[0].address)
    check(out.count(" reachable ") == 2, out)
    out, _ = ctl("donors", "--config-folder", box.dir, "isw0")
    check(out.count(" reachable ") == 1, out)
    _, error = ctl("donors", "--config-folder", box.dir, "empty", status=2)
    check("names no donors" in error, error)


@case
def donors_wrong(box):
    """donors: wrong arguments are named"""
    for args, problem in (
            ([], "takes HOST:PORT"),
            (["10.0.0.1:"], "10.0.0.1:"),
            (["a/b"], "neither HOST:PORT"),
            (["--timeout", "soon", "a:1"], "soon"),
            (["--donors-file", "/nonexistent"], "/nonexistent"),
            (["isw9"], "isw9.conf")):
        _, error = ctl("donors", *args, status=2)
        check(problem in error and error.count("\n") == 1, error)


@case
def top_in_a_pipe(box):
    """top --count: rates, sources, donors, and one that has gone"""
    donors = box.donors(2)
    b = box.borrower(donors)
    map_all(b, b.connect())
    load = Load(b, range(4))
    out, _ = ctl("top", "--count", "2", "--interval", "500ms", b.state,
                 donors[0].state)
    load.stop()
    pages = out.split("infiniswapctl top")[1:]
    check(len(pages) == 2, out)
    read = float(re.search(r"^  read +([0-9.]+) ", pages[1], re.M).group(1))
    check(read > 0, pages[1])
    check("4 of 4 slabs mapped" in pages[1], pages[1])
    for d in donors:
        check(re.search(rf"^  {d.address} +connected +tcp +\d", pages[1],
                        re.M), pages[1])
    donors[0].kill()
    out, _ = ctl("top", "--count", "1", donors[0].state, b.state, status=1)
    check("1 gone" in out and "gone: " in out, out)
    _, error = ctl("top", "--count", "0", b.state, status=2)
    check("--count" in error, error)
    _, error = ctl("top", "--interval", "1ms", b.state, status=2)
    check("100ms to 1h" in error, error)


def check_device(box, **keys):
    """What check says of a device; this machine may lack something too."""
    path = box.path("isw0.conf")
    with open(path, "w") as f:
        f.write("[device]\n" + "".join(f"{k} = {v}\n"
                                       for k, v in keys.items()))
    status, out, error = run(WRAPPER + [CTL, "check", "--config", path,
                                        "--plugin", PLUGIN, "isw0"])
    check(error == "", error)
    check(status == (out.count("missing  ") > 0), f"{status}: {out}")
    return out


@case
def check_findings(box):
    """check: what is wrong is named, with a remedy"""
    donors = "10.0.0.2:9400"
    out = check_device(box, size="64M", donors=donors)
    check(re.search(r"^ok +plugin: infiniswap \d", out, re.M), out)
    check(re.search(r"^ok +configuration: .* is accepted$", out, re.M), out)
    check(re.search(r"^ok +disk: \S+ has \d", out, re.M), out)
    out = check_device(box, size="64M", donors=donors, sise="1G")
    check("missing  configuration: " in out and "sise" in out, out)
    out = check_device(box, size="64M", priority="high", donors=donors)
    check("line 3: priority=high: must be a number" in out, out)
    out = check_device(box, size="64M", donors=donors,
                       backing="/dev/shm/copy")
    check("missing  disk: /dev/shm lies in memory" in out, out)
    out = check_device(box, size="64M", donors=donors,
                       backing="/nonexistent/copy")
    check("missing  disk: /nonexistent: No such file" in out, out)
    for disk in [d.path for d in os.scandir("/dev")
                 if stat.S_ISBLK(d.stat(follow_symlinks=False).st_mode)][:1]:
        out = check_device(box, size="64M", donors=donors, backing=disk)
        check(re.search(f"^ok +disk: {disk} is a block device$", out, re.M),
              out)
    out = check_device(box, size="4P", donors=donors)
    check("warning  disk: " in out and "for a local copy of 4P" in out, out)
    status, out, _ = run(WRAPPER + [CTL, "check", "--plugin",
                                    "/nonexistent.so"])
    check(status == 1 and "missing  plugin: " in out and
          "remedy: install it" in out, out)
    for args, problem in ((["a", "b"], "one device"), (["a/b"], "a/b"),
                          (["--config", "x"], "with the name")):
        _, error = ctl("check", *args, status=2)
        check(problem in error and error.count("\n") == 1, error)


class Terminal:
    """infiniswapctl in one of 12 lines and 100 columns."""

    def __init__(self, box, *args):
        self.main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 100, 0,
                                                          0))
        self.side = side
        self.before = termios.tcgetattr(side)
        self.process = subprocess.Popen(
            [CTL, *args], stdin=side, stdout=side, start_new_session=True,
            env=dict(os.environ, TERM="xterm"))
        self.seen = b""
        box.before_end(self.process.kill)

    def expect(self, text):
        def seen():
            self.seen += os.read(self.main, 65536)
            return text in self.seen
        wait_until(seen, 10, f"{text} in {self.seen}")

    def end(self):
        status = self.process.wait(10 * SLOWDOWN)
        check(status == 0, f"exit status {status}")
        self.expect(b"\033[?1049l")
        check(termios.tcgetattr(self.side) == self.before, "terminal modes")


@case
def top_in_a_terminal(box):
    """top in a terminal: scrolls, quits, and leaves it as it was"""
    donors = box.donors(3)
    b = box.borrower(donors)
    map_all(b, b.connect())
    for how in b"q", signal.SIGTERM, signal.SIGINT:
        t = Terminal(box, "top", b.state)
        t.expect(b"slabs mapped")
        check(b"DONOR" not in t.seen.replace(b"to donors", b""), t.seen)
        for _ in range(20):
            os.write(t.main, b"j")
        t.expect(donors[2].address.encode())
        if isinstance(how, bytes):
            os.write(t.main, how)
        else:
            t.process.send_signal(how)
        t.end()


if __name__ == "__main__":
    main()
