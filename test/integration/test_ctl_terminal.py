#!/usr/bin/python3
"""infiniswapctl top leaves the terminal as it was, whatever ends it."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios

from infiniswap import CTL, SLOWDOWN, case, check, die_with_parent, main

ENTER, LEAVE = b"\033[?1049h", b"\033[?1049l"
LINES, COLUMNS = 12, 60


class Terminal:
    """infiniswapctl in a terminal of its own."""

    def __init__(self, box, *args):
        self.side, inside = pty.openpty()
        self.inside = inside
        fcntl.ioctl(inside, termios.TIOCSWINSZ,
                    struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.before = termios.tcgetattr(inside)
        self.process = subprocess.Popen(
            [CTL, *args], stdin=inside, stdout=inside,
            env=dict(os.environ, TERM="xterm"), preexec_fn=self.take)
        self.seen = b""

    def take(self):
        """Be the terminal's foreground, so that its keys are signals."""
        die_with_parent()
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def read_until(self, text):
        """What is printed up to and with the text."""
        while text not in self.seen:
            check(select.select([self.side], [], [], 10 * SLOWDOWN)[0],
                  f"not printed: {text}; but {self.seen}")
            self.seen += os.read(self.side, 65536)
        at = self.seen.index(text) + len(text)
        part, self.seen = self.seen[:at], self.seen[at:]
        return part

    def check_restored(self, how):
        self.read_until(LEAVE)
        status = self.process.wait(10 * SLOWDOWN)
        check(termios.tcgetattr(self.inside) == self.before,
              f"{how}: the terminal's modes differ")
        os.close(self.side)
        os.close(self.inside)
        return status


def begin(box, donor):
    t = Terminal(box, "top", donor.state)
    t.read_until(ENTER)
    t.read_until(b"donor on")
    check(termios.tcgetattr(t.inside) != t.before, "it has taken nothing over")
    return t


@case
def ended_by_key(box):
    """q, ctrl-C and ctrl-\\ end it in order"""
    donor = box.donor()
    for key, want in (b"q", 0), (b"\x03", 0), (b"\x1c", -signal.SIGQUIT):
        t = begin(box, donor)
        os.write(t.side, key)
        status = t.check_restored(key)
        check(status == want, f"{key}: status {status}")


@case
def ended_by_signal(box):
    """so do signals, also those of a fault"""
    donor = box.donor()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT,
                   signal.SIGQUIT, signal.SIGABRT, signal.SIGSEGV,
                   signal.SIGUSR1):
        t = begin(box, donor)
        os.kill(t.process.pid, number)
        status = t.check_restored(number)
        check(status in (0, -number), f"{number}: status {status}")


@case
def stopped_and_continued(box):
    """ctrl-Z gives the terminal back, and takes it again"""
    donor = box.donor()
    t = begin(box, donor)
    os.write(t.side, b"\x1a")
    t.read_until(LEAVE)
    _, status = os.waitpid(t.process.pid, os.WUNTRACED)
    check(os.WIFSTOPPED(status), f"status {status}")
    check(termios.tcgetattr(t.inside) == t.before, "modes while it is stopped")
    os.kill(t.process.pid, signal.SIGCONT)
    t.read_until(ENTER)
    t.read_until(b"donor on")
    os.write(t.side, b"q")
    check(t.check_restored("q") == 0, "exit status")


@case
def lines_fit(box):
    """no line is longer than the terminal is wide, nor more than fit"""
    donor = box.donor()
    t = begin(box, donor)
    t.read_until(b"\033[H")
    page = t.read_until(b"\033[J").decode()
    lines = page.replace("\033[J", "").split("\r\n")
    check(1 < len(lines) <= LINES, f"{len(lines)} lines: {page}")
    for line in lines:
        line = line.rstrip("\r").removesuffix("\033[K")
        check(len(line) <= COLUMNS, repr(line))
    os.write(t.side, b"q")
    check(t.check_restored("q") == 0, "exit status")


if __name__ == "__main__":
    main()
