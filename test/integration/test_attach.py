#!/usr/bin/python3
"""infiniswapctl attach and detach where no kernel device can be had."""

import fcntl
import glob
import os

from infiniswap import CTL, PLUGIN, Skip, case, check, main, run

FILES = "/run/infiniswap"
NAME = f"test-{os.getpid()}"
KEYS = ["size=64M", "slab-size=16M", "donors=127.0.0.1:1"]


def files():
    return sorted(glob.glob(f"{FILES}/{NAME}.*"))


def servers():
    """Processes that serve, or supervise, this device."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as f:
                words = f.read().split(b"\0")
        except OSError:
            continue
        if f"{FILES}/{NAME}.nbd".encode() in words or \
                NAME.encode() in words and b"attach" in words:
            found.append(words)
    return found


def infiniswapctl(*args):
    """(exit status, stdout, stderr), the last of one line at most."""
    status, out, error = run([CTL] + list(args))
    check(error.count("\n") <= 1, error)
    return status, out, error


def attach(*args):
    return infiniswapctl("attach", NAME, "--plugin", PLUGIN, *args)


def refused(part, *args, status=1):
    got, out, error = attach(*args)
    check(got == status and out == "", (got, out, error))
    check(part in error, error)


def only_as_root():
    if os.geteuid() != 0:
        raise Skip("only root attaches")


def only_without_nbd():
    only_as_root()
    if os.path.exists("/sys/module/nbd"):
        raise Skip("this kernel has nbd")


@case
def no_module(box):
    """without the kernel's nbd driver attach says so and leaves nothing"""
    only_without_nbd()
    for more in [], ["--foreground"]:
        refused("nbd driver is not loaded; run: modprobe nbd", *more, *KEYS)
        check(not files() and not servers(), (files(), servers()))


@case
def another_is_at_it(box):
    """what another infiniswapctl has locked is left alone"""
    only_as_root()
    os.makedirs(FILES, exist_ok=True)
    path = f"{FILES}/{NAME}.pid"
    with open(path, "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX)
            refused("is attaching or detaching it just now", *KEYS)
            check(files() == [path], files())
        finally:
            os.unlink(path)


@case
def stale_files(box):
    """files that a killed supervisor left are no obstacle, nor left"""
    only_without_nbd()
    os.makedirs(FILES, exist_ok=True)
    for left in "", "half a record", "[attached]\nserver=1\n":
        with open(f"{FILES}/{NAME}.pid", "w") as f:
            f.write(left)
        refused("modprobe nbd", *KEYS)
        check(not files(), files())


@case
def not_attached(box):
    """detaching what is not attached is all right"""
    status, out, error = infiniswapctl("detach", NAME)
    check(status == 0 and "not attached" in out and error == "",
          (status, out, error))
    check(not files(), files())


@case
def wrong_keys(box):
    """a wrong key is named, in the key file or behind the name"""
    refused("priority", "priority=32768", *KEYS)
    refused("connections", "connections=0", *KEYS)
    refused("allow", "allow=everything", *KEYS)
    path = box.path("isw.conf")
    with open(path, "w") as f:
        f.write("[device]\nswap=perhaps\n")
    refused("swap", "--config", path)
    refused("/nowhere", "--config", "/nowhere")
    check(not files(), files())


@case
def checked(box):
    """--check-config has the plugin look at its keys, and starts nothing"""
    status, out, error = attach("--check-config", *KEYS)
    check(status == 0 and "all right" in out, (status, out, error))
    refused("priorty=3: unknown key", "--check-config", "priorty=3", *KEYS)
    refused("slab-size", "--check-config", "size=64M", "slab-size=3M",
            "donors=127.0.0.1:1")
    check(not files() and not servers(), (files(), servers()))


@case
def usage(box):
    """a wrong argument is exit status 2"""
    for args in (["attach"], ["attach", "a/b"], ["attach", "--never", "a"],
                 ["detach"], ["detach", "a", "b"], ["detach", "a/b"],
                 ["detach", "--timeout", "0", "a"]):
        status, out, error = infiniswapctl(*args)
        check(status == 2 and out == "" and "--help" in error,
              (args, status, out, error))


if __name__ == "__main__":
    main()
