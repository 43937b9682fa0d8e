#!/usr/bin/python3
"""What is true of any block device: flush, FUA, TRIM, ZERO, and what it
advertises."""

import json
import os
import random
import shutil
import signal
import time

import nbd

from infiniswap import (KIB, MIB, PAGE, SLAB, WRAPPER, Clients, Skip,
                        borrower_keys, case, check, equal, main, map_all,
                        nbdkit_args, nbdkit_env, read_all, read_direct, run,
                        wait_until)


def device(box, **keys):
    """A mapped device with a named local copy, full of random bytes."""
    path = box.path("copy")
    b = box.borrower(box.donors(2), backing=path, **keys)
    h = b.connect()
    if keys.get("hot_slab", 0) == 0:
        map_all(b, h)
    model = bytearray(random.randbytes(h.get_size()))
    for at in range(0, len(model), MIB):
        h.pwrite(model[at:at + MIB], at)
    return b, h, model, path


def write_block(clients, model, block, done):
    """Write some of a block of 64 KiB."""
    size = random.randrange(1, 64 * KIB)
    at = block * 64 * KIB + random.randrange(64 * KIB - size)
    model[at:at + size] = random.randbytes(size)
    clients.start(0, lambda h: h.aio_pwrite(model[at:at + size], at), done)


@case
def flush(box):
    """after a flush the local copy holds what was acknowledged before"""
    b, h, model, path = device(box)
    clients, errors = Clients(b), []
    for i in range(8):
        # Fast, so that much is behind when the flush comes; in different
        # blocks, so that the order does not matter.
        for block in random.sample(range(len(model) // (64 * KIB)), 300):
            while clients.in_flight() == 16:
                clients.wait(1)
            write_block(clients, model, block, errors.append)
        clients.finish()
        clients.handles[0].flush()
        equal(read_direct(path), model, f"the local copy after flush {i}")
    check(not any(errors), errors)


@case
def fua(box):
    """after a FUA write the local copy holds it"""
    _, h, model, path = device(box)
    for i in range(200):
        size = random.randrange(1, 64 * KIB)
        at = random.randrange(len(model) - size)
        h.pwrite(random.randbytes(size), at)
        data = random.randbytes(size)
        h.pwrite(data, at, nbd.CMD_FLAG_FUA)
        equal(read_direct(path, at, size), data, f"write {i}")
        model[at:at + size] = data
    h.zero(3 * PAGE, 5 * PAGE, nbd.CMD_FLAG_FUA)
    equal(read_direct(path, 5 * PAGE, 3 * PAGE), bytes(3 * PAGE), "zero")
    h.trim(3 * PAGE, 50 * PAGE, nbd.CMD_FLAG_FUA)
    equal(read_direct(path, 50 * PAGE, 3 * PAGE), bytes(3 * PAGE), "trim")


def odd_ranges(size):
    """Within a page, at its edges, over pages, over slabs."""
    yield from ((1, 1), (PAGE - 1, 2), (PAGE, PAGE), (3 * PAGE, 2 * PAGE),
                (10 * PAGE + 1, PAGE), (20 * PAGE - 1, PAGE + 2),
                (SLAB - PAGE - 7, 2 * PAGE + 20), (SLAB, SLAB),
                (size - 1, 1), (size - 3 * PAGE - 5, 3 * PAGE + 5))
    for _ in range(30):
        length = int(2 ** random.uniform(0, 22))
        yield random.randrange(size - length), length


def zero_all_kinds(box, **keys):
    _, h, model, path = device(box, **keys)
    for n, (at, length) in enumerate(odd_ranges(len(model))):
        flags = (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO)[n % 3]
        h.zero(length, at, flags)
        model[at:at + length] = bytes(length)
        equal(h.pread(length, at), bytes(length), f"zero {length} at {at}")
    equal(read_all(h), model, "what lies around")
    h.flush()
    equal(read_direct(path), model, "the local copy")
    equal(read_all(h), model, "after the flush")


@case
def zero_mapped(box):
    """ZERO of odd ranges, fast or not, gives zeros in all copies"""
    zero_all_kinds(box)


@case
def zero_unmapped(box):
    """the same where no slab is mapped"""
    zero_all_kinds(box, hot_slab=1000000)


@case
def trim(box):
    """TRIM gives zeros for whole pages, and leaves what lies around"""
    _, h, model, path = device(box)
    for at, length in odd_ranges(len(model)):
        h.trim(length, at)
        first = (at + PAGE - 1) // PAGE * PAGE
        end = (at + length) // PAGE * PAGE
        if first < end:
            model[first:end] = bytes(end - first)
    equal(read_all(h), model, "after the trims")
    h.flush()
    equal(read_direct(path), model, "the local copy")


@case
def whole_device(box):
    """ZERO and TRIM of the whole device"""
    _, h, model, path = device(box)
    size = len(model)
    h.zero(size, 0)
    equal(read_all(h), bytes(size), "after zero")
    h.pwrite(b"rewritten", SLAB - 4)
    model = bytearray(size)
    model[SLAB - 4:SLAB + 5] = b"rewritten"
    h.flush()
    equal(read_direct(path), model, "the local copy after zero")
    h.trim(size, 0)
    equal(read_all(h), bytes(size), "after trim")
    h.flush()
    equal(read_direct(path), bytes(size), "the local copy after trim")


@case
def zero_and_rewrite(box):
    """a page zeroed and rewritten, in any order, is what came last"""
    _, h, model, path = device(box)
    for i in range(600):
        page = random.randrange(8)
        count = random.randrange(1, 9 - page)
        at, length = page * PAGE, count * PAGE
        what = random.randrange(5)
        if what < 2:
            data = random.randbytes(length)
            h.pwrite(data, at)
        elif what < 4:
            data = bytes(length)
            (h.zero if what == 2 else h.trim) (length, at)
        else:
            at, data = at + 9, random.randbytes(length - 100)
            h.pwrite(data, at)
        model[at:at + len(data)] = data
        if i % 20 == 0:
            h.flush()
            equal(read_direct(path, 0, 8 * PAGE), model[:8 * PAGE],
                  f"step {i}: the local copy")
        equal(h.pread(8 * PAGE, 0), model[:8 * PAGE], f"step {i}")


@case
def zero_survives_donors(box):
    """zeroed pages stay zero when their donors die"""
    path = box.path("copy")
    donors = box.donors(2)
    b = box.borrower(donors, backing=path)
    h = b.connect()
    map_all(b, h)
    h.pwrite(b"\xff" * (4 * MIB), SLAB)
    h.flush()
    h.zero(MIB, SLAB)
    h.trim(MIB, SLAB + MIB)
    for d in donors:
        d.kill()
    equal(h.pread(4 * MIB, SLAB), bytes(2 * MIB) + b"\xff" * (2 * MIB),
          "read")


@case
def advertised(box):
    """nbdinfo shows multi-conn, FUA, zeroes and a block size of 4096"""
    if not shutil.which("nbdinfo"):
        raise Skip("no nbdinfo")
    b = box.borrower(box.donors(1))
    # Where file(1) is missing, nbdinfo shows what its memory holds as content.
    status, text, error = run(["nbdinfo", "--json", "--no-content", b.uri])
    check(status == 0, error)
    export = json.loads(text)["exports"][0]
    want = {
        "export-size": 64 * MIB, "is_read_only": False,
        "can_multi_conn": True, "can_flush": True, "can_fua": True,
        "can_trim": True, "can_zero": True, "can_fast_zero": True,
        "block_size_minimum": 1, "block_size_preferred": 4096,
    }
    for key, value in want.items():
        check(export.get(key) == value, f"{key}: {export.get(key)}")
    h = b.connect()
    check(h.get_block_size(nbd.SIZE_PREFERRED) == 4096, "preferred size")


@case
def outlives_its_parent(box):
    """nbdkit -f ends with who started it, and with outlive-parent=1 not"""
    donor = box.donor()
    for outlives in False, True:
        keys = borrower_keys({"outlive_parent": int(outlives)}, [donor],
                             box.path(f"state{outlives:d}"))
        pidfile = box.path(f"pid{outlives:d}")
        argv = WRAPPER + nbdkit_args(["-f", "-U", pidfile + ".sock",
                                      "-P", pidfile], keys)
        # The shell ends when the server is there.
        run(["bash", "-c", '"$@" 2>/dev/null & until [ -s "$0" ]; do '
             "sleep 0.05; done", pidfile, *argv], env=nbdkit_env())
        with open(pidfile) as f:
            pid = int(f.read())
        if outlives:
            time.sleep(1)       # for what must not come
            os.kill(pid, signal.SIGTERM)
        # Of a zombie there is no such link.
        wait_until(lambda: not os.path.exists(f"/proc/{pid}/exe"), 20,
                   "the end of nbdkit")


if __name__ == "__main__":
    main()
