#!/usr/bin/python3
"""The file of the local copy: kept, locked, reserved, or refused."""

import contextlib
import os
import random

from infiniswap import (MIB, PAGE, Skip, case, check, equal, main, map_all,
                        read_all, read_direct, small_disk)


def says(text, *words):
    """One line of refusal with all these words."""
    lines = [line for line in text.splitlines() if line]
    check(len(lines) == 1, f"{len(lines)} lines: {text}")
    for word in words:
        check(word in text, f"no \"{word}\" in: {text}")


def on_disk(path):
    """Bytes a file occupies."""
    return os.stat(path).st_blocks * 512


def open_files(pid):
    """What the process's descriptors name. One that it closed while they
    were listed (a probe's connection, say) is left out."""
    names = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return names


@case
def reopened(box):
    """a clean stop leaves the whole content in a named backing"""
    path = box.path("copy")
    b = box.borrower(box.donors(2), backing=path)
    h = b.connect()
    map_all(b, h)
    content = bytearray(random.randbytes(h.get_size()))
    for at in range(0, len(content), MIB):
        h.pwrite(content[at:at + MIB], at)
    h.zero(3 * MIB + 5, 7 * MIB + 1)
    content[7 * MIB + 1:10 * MIB + 6] = bytes(3 * MIB + 5)
    h.trim(MIB, 32 * MIB)
    content[32 * MIB:33 * MIB] = bytes(MIB)
    h.pwrite(b"the last word", 32 * MIB + 100)
    content[32 * MIB + 100:32 * MIB + 113] = b"the last word"
    # No flush: the stop alone has to do it.
    b.terminate()
    equal(read_direct(path), content, "the file after the stop")
    b = box.borrower([box.unused_address()], backing=path)
    equal(read_all(b.connect()), content, "served again, without donors")


@case
def size_of_backing(box):
    """size may be left out where the backing has one"""
    path = box.path("copy")
    content = random.randbytes(20 * MIB + PAGE)
    with open(path, "wb") as f:
        f.write(content)
    b = box.borrower(box.donors(1), backing=path, size=None)
    h = b.connect()
    check(h.get_size() == len(content), f"size {h.get_size()}")
    equal(read_all(h), content, "content")


@case
def no_size(box):
    """without size, a new backing is refused and not left there"""
    path = box.path("copy")
    says(box.refused([box.unused_address()], backing=path, size=None),
         path, "size=")
    check(not os.path.exists(path), "the file was left there")
    says(box.refused([box.unused_address()], size=None), "size=")


@case
def used_twice(box):
    """a backing in use is refused, by name"""
    path = box.path("copy")
    b = box.borrower(box.donors(1), backing=path)
    h = b.connect()
    h.pwrite(b"mine", 0)
    says(box.refused([box.unused_address()], backing=path), path, "in use")
    equal(h.pread(4, 0), b"mine", "the first user's content")
    b.terminate()
    box.borrower(backing=path, donors=[box.unused_address()])


@case
def too_small(box):
    """a backing smaller than size is refused and left as it is"""
    path = box.path("copy")
    with open(path, "wb") as f:
        f.write(b"x" * (8 * MIB))
    says(box.refused([box.unused_address()], backing=path),
         path, "8M", "64M")
    check(os.path.getsize(path) == 8 * MIB, "the file has changed")


@case
def larger(box):
    """a backing larger than size serves size bytes"""
    path = box.path("copy")
    content = random.randbytes(16 * MIB)
    with open(path, "wb") as f:
        f.write(content)
    b = box.borrower(box.donors(1), backing=path, size="8M")
    h = b.connect()
    equal(read_all(h), content[:8 * MIB], "content")
    b.terminate()
    check(os.path.getsize(path) == 16 * MIB, "the file was cut")


@case
def reserved(box):
    """the space of a backing is reserved at start"""
    path = box.path("copy")
    box.borrower(box.donors(1), backing=path, size="64M")
    check(os.path.getsize(path) == 64 * MIB, "the size")
    check(on_disk(path) >= 64 * MIB, f"{on_disk(path)} bytes are reserved")


@case
def unnamed(box):
    """without backing=, nothing is left in TMPDIR"""
    b = box.borrower(box.donors(1))
    h = b.connect()
    h.pwrite(b"x" * PAGE, 0)
    h.flush()
    links = open_files(b.pid)
    check(any(s.startswith("/var/tmp/") and s.endswith("(deleted)")
              for s in links), f"open files: {links}")


@case
def memory_file_system(box):
    """tmpfs is refused, and accepted with backing-unsafe=1"""
    shm = "/dev/shm"
    if not os.path.isdir(shm):
        raise Skip("no tmpfs at /dev/shm")
    path = os.path.join(shm, os.path.basename(box.dir))
    box.cleanup(lambda: os.path.exists(path) and os.unlink(path))
    says(box.refused([box.unused_address()], backing=path),
         path, "tmpfs", "backing-unsafe=1")
    check(not os.path.exists(path), "the file was left there")
    b = box.borrower(box.donors(1), backing=path, backing_unsafe=1)
    h = b.connect()
    h.pwrite(b"in memory", 12345)
    h.flush()
    equal(read_direct(path, 12345, 9), b"in memory", "the file")


@case
def full_disk(box):
    """a full disk is refused, and nothing is left there"""
    mount = small_disk(box, 32 * MIB)
    path = os.path.join(mount, "copy")
    before = os.statvfs(mount).f_bfree
    says(box.refused([box.unused_address()], backing=path, size="64M"),
         path, "64M", "No space left")
    check(not os.path.exists(path), "the file was left there")
    check(os.statvfs(mount).f_bfree == before, "space was left reserved")
    b = box.borrower([box.unused_address()], backing=path, size="16M")
    b.connect().pwrite(b"fits", 0)


@case
def beyond_disk(box):
    """more than the disk has free is refused, and nothing is left there"""
    path = box.path("copy")
    st = os.statvfs(box.dir)
    size = (st.f_bfree * st.f_frsize + (1 << 40)) // MIB
    says(box.refused([box.unused_address()], backing=path, size=f"{size}M"),
         path)
    check(not os.path.exists(path), "the file was left there")


@case
def refused_for_another_reason(box):
    """a start refused for another key leaves no backing behind"""
    path = box.path("copy")
    says(box.refused([box.unused_address()], backing=path,
                     state="/nonexistent/state"), "state=")
    check(not os.path.exists(path), "the file was left there")


@case
def no_such_place(box):
    """a backing that cannot be opened is refused, by name"""
    for path in ("/nonexistent/copy", box.dir, "/dev/null"):
        says(box.refused([box.unused_address()], backing=path),
             path, "backing")


if __name__ == "__main__":
    main()
