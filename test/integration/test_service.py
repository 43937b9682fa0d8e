#!/usr/bin/python3
"""What the donor tells the service manager, and --check-config."""

import os
import select
import signal
import socket
import subprocess
import tempfile

from infiniswap import DONOR, SLOWDOWN, case, check, main


def run(*arguments):
    return subprocess.run([DONOR, *arguments], text=True, timeout=20 * SLOWDOWN,
                          stdin=subprocess.DEVNULL, capture_output=True)


@case
def check_config_shows_what_would_be_in_force(box):
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write("[donor]\nmemory = 1G\nready = 3\n")
        file.flush()
        p = run("--config", file.name, "--ready", "1", "--check-config")
        check(p.returncode == 0, p.stderr)
        check("memory = 1G\n" in p.stdout and "ready = 1\n" in p.stdout,
              p.stdout)
        # It is a key file that says the same.
        with open(file.name, "w") as again:
            again.write(p.stdout)
        check(run("--config", file.name, "--check-config").stdout == p.stdout,
              "not the same again")


@case
def a_wrong_configuration_has_a_status_of_its_own(box):
    p = run("--ready", "x", "--check-config")
    check(p.returncode == 2 and p.stderr.count("\n") == 1, p.stderr)
    check("--ready" in p.stderr, p.stderr)


def told(manager, what):
    """Until the donor has told what."""
    seen = []
    while not any(line.startswith(what) for line in seen):
        ready, _, _ = select.select([manager], [], [], 20 * SLOWDOWN)
        check(ready, f"{what} is missing; told: {seen}")
        seen += manager.recv(4096).decode().split("\n")


@case
def the_manager_is_told(box):
    with tempfile.TemporaryDirectory() as folder, \
         socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = os.path.join(folder, "notify")
        manager.bind(path)
        environment = dict(os.environ, NOTIFY_SOCKET=path,
                           WATCHDOG_USEC="600000")
        environment.pop("WATCHDOG_PID", None)
        donor = subprocess.Popen(
            [DONOR, "--listen", "127.0.0.1:0", "--fabric", "tcp",
             "--slab-size", "16M", "--memory", "32M", "--ready", "0"],
            env=environment, stderr=subprocess.DEVNULL)
        try:
            told(manager, "READY=1")
            told(manager, "WATCHDOG=1")
            told(manager, "WATCHDOG=1")
            donor.send_signal(signal.SIGTERM)
            told(manager, "STOPPING=1")
            check(donor.wait(20 * SLOWDOWN) == 0, "status")
        finally:
            donor.kill()
            donor.wait()


main()
