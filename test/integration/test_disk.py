#!/usr/bin/python3
"""What is not yet on the local copy: the disk is stuck, as a frozen file
system, while clients go on."""

import fcntl
import os
import random
import threading
import time

from infiniswap import (KIB, MIB, PAGE, SLAB, Clients, case, check, equal,
                        main, map_all, read_direct, small_disk, wait_until)

FIFREEZE, FITHAW = 0xc0045877, 0xc0045878


class Disk:
    """A small file system whose writes can be held up, for 20 s at most:
    a program that waits for it cannot even be killed."""

    def __init__(self, box, size):
        self.mount = small_disk(box, size)
        self.fd = os.open(self.mount, os.O_RDONLY | os.O_CLOEXEC)
        self.stuck = False
        self.watchdog = None
        box.cleanup(lambda: os.close(self.fd))
        box.before_end(self.release)

    def hold(self):
        fcntl.ioctl(self.fd, FIFREEZE, 0)
        self.stuck = True
        self.watchdog = threading.Timer(20, self._thaw)
        self.watchdog.start()

    def _thaw(self):
        fcntl.ioctl(self.fd, FITHAW, 0)
        self.stuck = False

    def release(self):
        if self.watchdog:
            self.watchdog.cancel()
            self.watchdog.join()
            self.watchdog = None
        if self.stuck:
            self._thaw()


def system(box, **keys):
    """A mapped device of 32 MiB, its local copy on a disk of its own."""
    disk = Disk(box, 64 * MIB)
    path = os.path.join(disk.mount, "copy")
    donors = box.donors(2)
    b = box.borrower(donors, size="32M", backing=path, **keys)
    h = b.connect()
    map_all(b, h)
    h.flush()
    return disk, path, donors, b, h


def write_some(h, model, n=100):
    for _ in range(n):
        size = random.randrange(1, 16 * KIB)
        at = random.randrange(len(model) - size)
        model[at:at + size] = random.randbytes(size)
        h.pwrite(model[at:at + size], at)


def began(clients, begin):
    """Start a request; returns a list that gets its result."""
    ended = []
    clients.start(0, begin, ended.append)
    return ended


def still_waits(clients, ended, seconds=0.7):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        clients.wait(end - time.monotonic())
        check(not ended, f"answered without the disk: {ended}")


@case
def flush_waits(box):
    """a flush is not answered before the disk has everything"""
    disk, path, _, b, h = system(box)
    model = bytearray(read_direct(path))
    disk.hold()
    write_some(h, model)
    clients = Clients(b)
    ended = began(clients, lambda h: h.aio_flush())
    still_waits(clients, ended)
    disk.release()
    clients.finish()
    check(ended == [None], f"{ended}")
    equal(read_direct(path), model, "the local copy")


@case
def fua_waits(box):
    """a FUA write is not answered before the disk has it"""
    disk, path, _, b, h = system(box)
    disk.hold()
    clients = Clients(b)
    data = random.randbytes(3 * PAGE)
    ended = began(clients, lambda h: h.aio_pwrite(data, SLAB + 5, flags=1))
    still_waits(clients, ended)
    disk.release()
    clients.finish()
    check(ended == [None], f"{ended}")
    equal(read_direct(path, SLAB + 5, len(data)), data, "the local copy")


@case
def donors_die_first(box):
    """what is on no disk yet is read back after its donors died"""
    disk, path, donors, b, h = system(box)
    model = bytearray(read_direct(path))
    disk.hold()
    write_some(h, model)
    h.zero(3 * PAGE + 7, SLAB - PAGE)
    model[SLAB - PAGE:SLAB + 2 * PAGE + 7] = bytes(3 * PAGE + 7)
    for d in donors:
        d.kill()
    equal(h.pread(len(model), 0), model, "read without donors and disk")
    check(b.counters()["pages_read_slots"] > 0, "nothing came from slots")
    disk.release()
    h.flush()
    equal(read_direct(path), model, "the local copy")
    equal(h.pread(len(model), 0), model, "read at the end")


@case
def overwritten_while_stuck(box):
    """of writes on top of each other the last is what the disk gets"""
    disk, path, _, b, h = system(box)
    model = bytearray(read_direct(path))
    for _ in range(3):
        disk.hold()
        for i in range(200):
            page = random.randrange(4)
            at = page * PAGE + random.choice((0, 0, 100))
            size = PAGE - at % PAGE
            if random.random() < 0.2:
                data = bytes(size)
                h.zero(size, at)
            else:
                data = random.randbytes(size)
                h.pwrite(data, at)
            model[at:at + size] = data
            equal(h.pread(4 * PAGE, 0), model[:4 * PAGE], f"write {i}")
        disk.release()
        h.flush()
        equal(read_direct(path), model, "the local copy")


@case
def write_behind_full(box):
    """when write-behind is full, writes wait for the disk, reads do not"""
    disk, path, _, b, h = system(box, write_behind="1M")
    content = random.randbytes(3 * MIB)
    h.pwrite(content[:64 * KIB], 20 * MIB)
    h.flush()
    disk.hold()
    clients = Clients(b)
    ended = []
    for at in range(0, len(content), 64 * KIB):
        clients.start(0, lambda h: h.aio_pwrite(content[at:at + 64 * KIB],
                                                at), ended.append)
    wait_until(lambda: clients.wait(0.05) or
               b.status()["write_behind"]["in_use"] >= 240, 10,
               "write-behind is full")
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        clients.wait(0.1)
        start = time.monotonic()
        equal(h.pread(64 * KIB, 20 * MIB), content[:64 * KIB], "a read")
        check(time.monotonic() - start < 1, "a read had to wait")
    done = len(ended)
    check(done < 24, f"{done} writes of 64 KiB are in a MiB")
    disk.release()
    clients.finish()
    check(ended == [None] * 48, f"{ended}")
    h.flush()
    equal(read_direct(path, 0, len(content)), content, "the local copy")
    return f"{done} of 48 writes before the disk went on"


if __name__ == "__main__":
    main()
