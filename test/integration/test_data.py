#!/usr/bin/python3
"""Whatever is written is read back, wherever it lies."""

import os
import random

from infiniswap import (KIB, MIB, PAGE, SLAB, Clients, case, check, equal,
                        main, read_direct)


def read_all(h, step=32 * MIB):
    size = h.get_size()
    return b"".join(bytes(h.pread(min(step, size - at), at))
                    for at in range(0, size, step))


def write_pattern(h, seed=1):
    """Fill the device with random bytes; returns them."""
    content = random.Random(seed).randbytes(h.get_size())
    for at in range(0, len(content), MIB):
        h.pwrite(content[at:at + MIB], at)
    return content


@case
def mapped_slabs(box):
    """a device on donors reads back, and from donors once flushed"""
    donors = box.donors(2)
    b = box.borrower(donors)
    h = b.connect()
    for slab in range(4):
        h.pwrite(bytes(PAGE), slab * SLAB)
    b.wait_mapped(range(4))
    content = write_pattern(h)
    equal(read_all(h), content, "read after write")
    h.flush()
    before = b.counters()["pages_read_donors"]
    equal(read_all(h), content, "read after flush")
    read = b.counters()["pages_read_donors"] - before
    check(read == len(content) // PAGE, f"{read} pages read from donors")
    return f"{read} pages from donors"


if __name__ == "__main__":
    main()
