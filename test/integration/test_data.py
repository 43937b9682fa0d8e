#!/usr/bin/python3
"""Whatever is written is read back, wherever it lies, and every copy of
it is the same."""

import random

from infiniswap import (KIB, MIB, PAGE, SLAB, Clients, case, check, equal,
                        main, map_all, read_all, read_direct)

REQUEST_MAX = 64 * MIB          # nbdkit's


def fill(h):
    """Fill the device with random bytes; returns them."""
    content = bytearray(random.randbytes(h.get_size()))
    for at in range(0, len(content), MIB):
        h.pwrite(content[at:at + MIB], at)
    return content


def random_requests(h, model, n, biggest):
    """Single reads and writes at any offset, of 1 byte and more; sizes of
    all magnitudes are equally likely."""
    for _ in range(n):
        size = min(int(2 ** random.uniform(0, biggest.bit_length())),
                   biggest)
        offset = random.randrange(len(model) - size)
        if random.random() < 0.5:
            equal(h.pread(size, offset), model[offset:offset + size],
                  f"{size} bytes at {offset}")
        else:
            data = random.randbytes(size)
            h.pwrite(data, offset)
            model[offset:offset + size] = data


@case
def mapped_slabs(box):
    """a device on donors reads back, once flushed from donors"""
    b = box.borrower(box.donors(2))
    h = b.connect()
    map_all(b, h)
    content = fill(h)
    equal(read_all(h), content, "read after write")
    h.flush()
    before = b.counters()["pages_read_donors"]
    equal(read_all(h), content, "read after flush")
    read = b.counters()["pages_read_donors"] - before
    check(read == len(content) // PAGE, f"{read} pages read from donors")


@case
def unmapped_slabs(box):
    """a device whose slabs stay unmapped reads back from disk"""
    donors = box.donors(1)
    b = box.borrower(donors, hot_slab=1000000)
    h = b.connect()
    content = fill(h)
    equal(read_all(h), content, "read after write")
    random_requests(h, content, 300, 256 * KIB)
    equal(read_all(h), content, "read at the end")
    status = b.status()
    check(status["slabs"]["mapped"] == 0, "a slab is mapped")
    check(status["counters"]["pages_read_donors"] == 0, "read from a donor")
    check(donors[0].status()["counters"]["maps"] == 0, "the donor was asked")


@case
def no_donor(box):
    """without any donor all data are right, from disk"""
    b = box.borrower([box.unused_address(), box.unused_address()],
                     size="32M")
    h = b.connect()
    content = fill(h)
    random_requests(h, content, 300, 256 * KIB)
    equal(read_all(h), content, "read at the end")
    counters = b.counters()
    check(counters["pages_written_disk"] == counters["pages_written"] > 0,
          f"{counters}")


@case
def any_offset_and_length(box):
    """requests of 1 byte to 64 MiB at odd offsets"""
    b = box.borrower(box.donors(2), size="144M", backing=box.path("copy"))
    h = b.connect()
    map_all(b, h)
    model = bytearray(len(read_all(h)))
    noise = random.randbytes(REQUEST_MAX + 3)
    for i, offset in enumerate((1, 4095, SLAB - 1, 3 * SLAB + 4097)):
        data = noise[i:i + REQUEST_MAX]
        h.pwrite(data, offset)
        model[offset:offset + REQUEST_MAX] = data
        equal(h.pread(REQUEST_MAX, offset), data, f"64 MiB at {offset}")
    for offset in (0, 1, 4095, 4096, SLAB - 1, SLAB, len(model) - 1):
        h.pwrite(b"!", offset)
        model[offset] = ord("!")
        equal(h.pread(1, offset), b"!", f"1 byte at {offset}")
    for offset in (SLAB - 5, 2 * SLAB - 4097):
        h.pwrite(b"across the edge", offset)
        model[offset:offset + 15] = b"across the edge"
    random_requests(h, model, 400, 512 * KIB)
    equal(read_all(h), model, "read at the end")
    h.flush()
    equal(read_direct(box.path("copy")), model, "the local copy")


@case
def last_slab_short(box):
    """the last slab may be short"""
    b = box.borrower(box.donors(1), size=str(2 * SLAB + 3 * PAGE),
                     backing=box.path("copy"))
    h = b.connect()
    map_all(b, h)
    content = fill(h)
    h.flush()
    equal(read_all(h), content, "read after flush")
    check(2 in b.slabs(), "the short slab is not mapped")
    equal(read_direct(box.path("copy")), content, "the local copy")


class Overlapping:
    """Writes of several connections on top of each other.

    Each has a byte of its own for its content.  A byte of the device may
    in the end be of any write there after whose acknowledgement no other
    one there has begun.
    """

    def __init__(self, b, connections):
        self.clients = Clients(b, connections)
        self.clock = 0
        self.writes = []        # [start, end, offset, size, byte]
        self.errors = []

    def start(self, i, offset, size):
        self.clock += 1
        w = [self.clock, None, offset, size, 1 + len(self.writes) % 255]
        self.writes.append(w)

        def done(error):
            self.clock += 1
            w[1] = self.clock
            if error:
                self.errors.append(error)
        self.clients.start(i, lambda h: h.aio_pwrite(bytes([w[4]]) * size,
                                                     offset), done)

    def run(self, n, ranges, depth):
        """n writes, each in one of the ranges (offset, length)."""
        started = 0
        while started < n:
            for i in range(len(self.clients.handles)):
                while started < n and self.clients.in_flight(i) < depth:
                    at, length = random.choice(ranges)
                    size = min(int(2 ** random.uniform(0, 18)), length)
                    self.start(i, at + random.randrange(length - size + 1),
                               size)
                    started += 1
            self.clients.wait(1)
        self.clients.finish()
        check(not self.errors, self.errors)

    def check_content(self, content):
        edges = sorted({e for _, _, at, size, _ in self.writes
                        for e in (at, at + size)})
        for low, high in zip(edges, edges[1:]):
            here = [w for w in self.writes
                    if w[2] <= low and high <= w[2] + w[3]]
            if not here:
                continue
            last_start = max(w[0] for w in here)
            may_be = {w[4] for w in here if w[1] > last_start}
            wrong = set(content[low:high]) - may_be
            check(not wrong, f"bytes {low} to {high}: {wrong}, but only "
                  f"{may_be} were written last")


def overlap_and_compare(box, hot_slab):
    """Writes of four connections on a few pages and ranges; then every
    copy is compared."""
    donors = box.donors(2)
    path = box.path("copy")
    b = box.borrower(donors, size="64M", backing=path, hot_slab=hot_slab)
    h = b.connect()
    ranges = [(0, 8 * PAGE), (5 * PAGE + 17, 40 * PAGE),
              (SLAB - 10 * PAGE, 20 * PAGE), (2 * SLAB, MIB)]
    writes = Overlapping(b, 4)
    writes.run(400, ranges, 4)
    if hot_slab == 0:
        b.wait_mapped([0, 1, 2])
    writes.run(800, ranges, 8)

    content = read_all(h)
    writes.check_content(content)
    h.flush()
    equal(read_direct(path), content, "the local copy after the flush")
    before = b.counters()
    equal(read_all(h), content, "read again after the flush")
    after = b.counters()
    from_donors = after["pages_read_donors"] - before["pages_read_donors"]
    if hot_slab == 0:
        check(from_donors > 250, f"only {from_donors} pages from donors")
    for d in donors:
        d.kill()
    equal(read_all(h), content, "read without donors")
    check(b.counters()["pages_read_donors"] == after["pages_read_donors"],
          "read from dead donors")
    equal(read_direct(path), content, "the local copy at the end")
    return f"{len(writes.writes)} writes"


@case
def overlapping_mapped(box):
    """overlapping writes of four connections leave all copies equal"""
    return overlap_and_compare(box, 0)


@case
def overlapping_unmapped(box):
    """the same where no slab is mapped"""
    return overlap_and_compare(box, 1000000)


@case
def overlapping_while_donors_go(box):
    """the same while donors die, stop and return"""
    donors = box.donors(3)
    path = box.path("copy")
    b = box.borrower(donors, backing=path, deadline="500ms")
    h = b.connect()
    ranges = [(slab * SLAB + at, length) for slab in range(4)
              for at, length in ((0, 8 * PAGE), (PAGE // 2, 64 * PAGE))]
    writes = Overlapping(b, 4)
    writes.run(200, ranges, 4)
    b.wait_mapped(range(4))
    frozen = donors[1]
    for step in (lambda: donors[0].kill(), frozen.freeze,
                 lambda: donors.append(box.donor(donors[0].address)),
                 frozen.thaw):
        step()
        writes.run(250, ranges, 8)
        content = read_all(h)
        writes.check_content(content)
    h.flush()
    equal(read_direct(path), content, "the local copy")
    equal(read_all(h), content, "read again")
    lost = b.counters()["slabs_lost"]
    check(lost > 0, "no slab was lost")
    return f"{len(writes.writes)} writes, {lost} slabs lost"


if __name__ == "__main__":
    main()
