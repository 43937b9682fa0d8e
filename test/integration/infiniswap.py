"""What the integration tests share: donors, borrowers, and TAP.

A test file declares its cases with @case and ends with main ().  A case
gets a Box: it starts programs and holds files, all of which end with the
case, and judges at the end how each program ended.

From the environment:
  PLUGIN, DONOR, CTL  the programs under test (default: under build/)
  NBDKIT_PRELOAD      LD_PRELOAD for nbdkit (a sanitizer's library)
  NBDKIT_WRAPPER      words before nbdkit and the donors (valgrind ...)
  SLOWDOWN            factor on every time limit that is no promise of ours
  SEED                of the random numbers; printed
  DISK                a folder on a real disk, where local copies are made
"""

import ctypes
import functools
import json
import mmap
import os
import random
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import nbd

TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
os.environ["PATH"] += ":/usr/sbin:/sbin"


def program(variable, name):
    path = os.environ.get(variable, os.path.join("build", name))
    return os.path.join(TOP, path)


PLUGIN = program("PLUGIN", "nbdkit-infiniswap-plugin.so")
DONOR = program("DONOR", "infiniswap-donor")
CTL = program("CTL", "infiniswapctl")
PRELOAD = os.environ.get("NBDKIT_PRELOAD", "")
WRAPPER = shlex.split(os.environ.get("NBDKIT_WRAPPER", ""))
SLOWDOWN = float(os.environ.get("SLOWDOWN", "1"))
SEED = int(os.environ.get("SEED", str(random.SystemRandom().getrandbits(32))))

LOGS = os.path.join(TOP, "build/test/integration")

# A local copy must lie on a real disk, which /tmp need not be.
DISK = os.environ.get("DISK", "/var/tmp")

# After so long a case has hung.
CASE_SECONDS = 90

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096
SLAB = 16 * MIB
DEADLINE = 2.0

# What the sanitizers say, even where the program goes on.
SANITIZER = re.compile(r"AddressSanitizer|ThreadSanitizer|LeakSanitizer|"
                       r"runtime error:")


class Skip(Exception):
    """What the case needs is missing."""


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def equal(a, b, what):
    """Compare contents, and say where they differ first."""
    if a == b:
        return
    if len(a) != len(b):
        raise AssertionError(f"{what}: {len(a)} and {len(b)} bytes")
    at = next(i for i in range(0, len(a), PAGE)
              if a[i:i + PAGE] != b[i:i + PAGE])
    pages = sum(a[i:i + PAGE] != b[i:i + PAGE]
                for i in range(0, len(a), PAGE))
    at += next(i for i, (x, y) in enumerate(zip(a[at:at + PAGE],
                                                b[at:at + PAGE])) if x != y)
    raise AssertionError(f"{what}: differ in {pages} pages, first at byte "
                         f"{at}: {bytes(a[at:at + 8]).hex()} and "
                         f"{bytes(b[at:at + 8]).hex()}")


def wait_until(condition, seconds, what):
    """Poll for what gives no event; returns the first true value."""
    end = time.monotonic() + seconds * SLOWDOWN
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds * SLOWDOWN:g} s: "
                                 f"{what}")
        time.sleep(0.02)


def run(args, timeout=30, env=None):
    """Run a program to its end: (status, stdout, stderr)."""
    p = subprocess.run(args, stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=timeout * SLOWDOWN, env=env, text=True,
                       preexec_fn=die_with_parent)
    return p.returncode, p.stdout, p.stderr


_libc = ctypes.CDLL(None)


def die_with_parent():
    """So that nothing is left over, however the test ends."""
    PR_SET_PDEATHSIG = 1
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def ask(path, request="status"):
    """What infiniswapctl does: one line there, one JSON document back."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10 * SLOWDOWN)
        s.connect(path)
        s.sendall(request.encode() + b"\n")
        with s.makefile("rb") as f:
            return json.loads(f.read())


def read_direct(path, offset=0, length=None):
    """A file's content past the page cache, as far as its file system
    can."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_DIRECT)
    except OSError:
        fd = os.open(path, flags)
    try:
        if length is None:
            length = os.lseek(fd, 0, os.SEEK_END) - offset
        start = offset // PAGE * PAGE
        end = (offset + length + PAGE - 1) // PAGE * PAGE
        with mmap.mmap(-1, max(end - start, PAGE)) as buf:
            got = 0
            while got < offset + length - start:
                n = os.preadv(fd, [memoryview(buf)[got:]], start + got)
                if n == 0:
                    break
                got += n
            return buf[offset - start:min(got, offset - start + length)]
    finally:
        os.close(fd)


def read_all(h, step=32 * MIB):
    size = h.get_size()
    return b"".join(bytes(h.pread(min(step, size - at), at))
                    for at in range(0, size, step))


def map_all(b, h):
    """Map every slab of a device that has hot-slab=0."""
    slabs = range((h.get_size() + SLAB - 1) // SLAB)
    for slab in slabs:
        h.pwrite(bytes(1), slab * SLAB)
    b.wait_mapped(slabs)


def wait_landed(b):
    """Until each page written is where it goes: a write does not wait for
    that."""
    wait_until(lambda: b.status()["write_behind"]["in_use"] == 0, 10,
               "each page written went somewhere")


class Process:
    """A program under test.  Its stderr is kept, line by line."""

    def __init__(self, box, name, args, env=None, stdin=subprocess.DEVNULL):
        self.name = name
        self.lines = []
        self.killed = False
        self.stopped = False
        self._news = threading.Condition()
        self._closed = False
        self._log = open(os.path.join(box.logs, name + ".log"), "w")
        self.process = subprocess.Popen(
            args, stdin=stdin, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env=env, text=True, errors="replace",
            preexec_fn=die_with_parent)
        self.pid = self.process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self._log.write(line)
            self._log.flush()
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()

    def find_line(self, pattern, start=0):
        for line in self.lines[start:]:
            m = re.search(pattern, line)
            if m:
                return m
        return None

    def wait_line(self, pattern, seconds=10, start=0):
        """The first match among the log lines from number `start` on."""
        end = time.monotonic() + seconds * SLOWDOWN
        with self._news:
            while True:
                m = self.find_line(pattern, start)
                if m:
                    return m
                left = end - time.monotonic()
                if left <= 0 or self._closed:
                    raise AssertionError(f"{self.name} did not say "
                                         f"/{pattern}/")
                self._news.wait(left)

    def is_running(self):
        return self.process.poll() is None

    def signal(self, number):
        os.kill(self.pid, number)

    def freeze(self):
        self.signal(signal.SIGSTOP)
        self.stopped = True

    def thaw(self):
        self.signal(signal.SIGCONT)
        self.stopped = False

    def kill(self):
        """Without a word, as a power failure would."""
        self.killed = True
        self.signal(signal.SIGKILL)
        self.wait(5)

    def wait(self, seconds):
        try:
            status = self.process.wait(seconds * SLOWDOWN)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended within "
                                 f"{seconds * SLOWDOWN:g} s") from None
        self._reader.join(5)
        return status

    def terminate(self, seconds=15):
        """SIGTERM, and a clean end; returns how long that took."""
        start = time.monotonic()
        self.signal(signal.SIGTERM)
        status = self.wait(seconds)
        self.killed = True
        check(status == 0, f"{self.name}: exit status {status}")
        return time.monotonic() - start

    def end(self):
        """Leave nothing; what was wrong with how it ended, or None."""
        wrong = None
        try:
            if self.process.poll() is None:
                if self.stopped:
                    self.thaw()
                self.terminate(30)
            elif not self.killed:
                wrong = (f"{self.name} ended by itself, status "
                         f"{self.process.returncode}")
        except AssertionError as e:
            wrong = str(e)
        if self.process.poll() is None:
            self.kill()
        self._reader.join(5)
        self._log.close()
        if wrong is None and any(SANITIZER.search(s) for s in self.lines):
            wrong = f"{self.name}: a sanitizer complained"
        return wrong


class Donor(Process):
    """In `options`, _ stands for -; `prefix` are words before the command."""

    def __init__(self, box, name, listen, options, prefix=()):
        self.state = box.path(name + ".state")
        args = {"slab-size": "16M", "memory": "1G", "headroom": "256M",
                "fabric": "tcp"}
        args.update({k.replace("_", "-"): v for k, v in options.items()})
        super().__init__(box, name, [*prefix] + WRAPPER + [
            DONOR, "--listen", listen, "--state", self.state] +
            [s for k, v in args.items() if v is not None
             for s in ("--" + k, str(v))])
        self.address = self.wait_line(r"lending on (\S+)", 20).group(1)

    def status(self):
        return ask(self.state)


class Borrower(Process):
    """nbdkit with the plugin; in `keys`, _ stands for -, and None leaves
    a key out.  `preload` is a library for it, as the variables in `env`;
    `prefix` are words before the command, `options` nbdkit's own."""

    def __init__(self, box, name, keys, donors, preload=None, env=None,
                 prefix=(), options=()):
        self.socket = box.path(name + ".sock")
        self.state = box.path(name + ".state")
        pidfile = box.path(name + ".pid")
        super().__init__(box, name, [*prefix] + WRAPPER + nbdkit_args(
            ["-f", "-U", self.socket, "-P", pidfile, *options],
            borrower_keys(keys, donors, self.state)),
            dict(nbdkit_env(preload), **(env or {})))
        wait_until(lambda: os.path.exists(pidfile) or not self.is_running(),
                   30, "nbdkit ready")
        if not self.is_running():
            self.killed = True
            self._reader.join(5)
            raise AssertionError(f"{name} did not start: {self.lines}")
        self.uri = "nbd+unix:///?socket=" + self.socket
        self.handles = []

    def status(self):
        return ask(self.state)

    def counters(self):
        return self.status()["counters"]

    def slabs(self, state="mapped"):
        """{slab index: donor} of those in a state."""
        return {s["index"]: s["donor"]
                for s in self.status()["slabs"]["list"]
                if s["state"] == state}

    def donor(self, donor):
        """The status of a donor, by address or what has one."""
        address = getattr(donor, "address", donor)
        return next((d for d in self.status()["donors"]
                     if d["address"] == address), None)

    def wait_connected(self, donors, seconds=10):
        for d in donors:
            wait_until(lambda: (self.donor(d) or {}).get("state") ==
                       "connected", seconds, f"a session with {d.name}")

    def wait_mapped(self, slabs, seconds=10):
        """Until these slabs are mapped (an unwritten one never is)."""
        slabs = set(slabs)
        return wait_until(lambda: slabs <= set(self.slabs()) and
                          self.slabs(), seconds, f"slabs {slabs} mapped")

    def connect(self):
        h = nbd.NBD()
        h.connect_uri(self.uri)
        self.handles.append(h)
        return h

    def disconnect(self):
        """nbdkit does not end while a client is connected and silent."""
        for h in self.handles:
            try:
                h.shutdown()
            except nbd.Error:
                pass
        self.handles = []

    def terminate(self, seconds=15):
        self.disconnect()
        return super().terminate(seconds)


# The sanitizers set themselves up at the first malloc.  In nbdkit that is in
# p11-kit's constructor, under a lock of libc that they then break, so that
# even `nbdkit null` hangs when it ends.  This library is initialized first.
EARLY_MALLOC = """
#include <stdlib.h>
static void __attribute__ ((constructor))
early_malloc (void)
{
  void *volatile p = malloc (1);
  free (p);
}
"""


@functools.cache
def nbdkit_preload():
    if not PRELOAD:
        return PRELOAD
    path = os.path.join(LOGS, "early-malloc.so")
    os.makedirs(LOGS, exist_ok=True)
    subprocess.run(["cc", "-shared", "-fPIC", "-Wl,-z,initfirst", "-x", "c",
                    "-", "-o", path], input=EARLY_MALLOC, text=True,
                   check=True)
    return f"{PRELOAD} {path}"


def nbdkit_env(library=None):
    env = dict(os.environ, TMPDIR=DISK)
    if PRELOAD or library:
        env["LD_PRELOAD"] = f"{nbdkit_preload()} {library or ''}"
    if PRELOAD:
        # nbdkit's own leaks are not ours; the unit tests find ours.
        env["ASAN_OPTIONS"] = (os.environ.get("ASAN_OPTIONS", "") +
                               ":detect_leaks=0")
    return env


def nbdkit_args(options, keys):
    return ["nbdkit"] + options + [PLUGIN] + keys


def borrower_keys(keys, donors, state):
    args = {"size": "64M", "slab_size": "16M", "state": state,
            "hot_slab": "0", "fabric": "tcp"}
    if donors:
        args["donors"] = ",".join(getattr(d, "address", d) for d in donors)
    args.update(keys)
    return [f"{k.replace('_', '-')}={v}" for k, v in args.items()
            if v is not None]


class Box:
    """The programs and files of one case."""

    def __init__(self, name):
        self.dir = tempfile.mkdtemp(prefix="isw-", dir=DISK)
        self.logs = os.path.join(LOGS, name)
        shutil.rmtree(self.logs, ignore_errors=True)
        os.makedirs(self.logs)
        self.processes = []
        self.late = False
        self.before = []
        self.cleanups = []

    def path(self, name):
        return os.path.join(self.dir, name)

    def _name(self, kind):
        n = sum(p.name.startswith(kind) for p in self.processes)
        return f"{kind}{n}"

    def _start(self, kind, *args):
        # Kept before it is known to have started, to be ended in any case.
        p = kind.__new__(kind)
        try:
            p.__init__(self, self._name(kind.__name__.lower()), *args)
        finally:
            if hasattr(p, "process"):
                self.processes.append(p)
        return p

    def donor(self, listen="127.0.0.1:0", **options):
        return self._start(Donor, listen, options)

    def donors(self, n, **options):
        return [self.donor(**options) for _ in range(n)]

    def borrower(self, donors=(), connected=True, prefix=(), options=(),
                 **keys):
        b = self._start(Borrower, keys, donors, None, None, prefix, options)
        if connected:
            b.wait_connected([d for d in donors if isinstance(d, Donor)])
        return b

    def refused(self, donors=(), **keys):
        """Start nbdkit, which must refuse; what it says."""
        pidfile = self.path("refused.pid")
        status, _, text = run(WRAPPER + nbdkit_args(
            ["-f", "-U", self.path("refused.sock"), "-P", pidfile],
            borrower_keys(keys, donors, self.path("refused.state"))),
            env=nbdkit_env())
        check(status != 0, "nbdkit did not refuse")
        check(not os.path.exists(pidfile), "nbdkit started")
        return text

    def unused_address(self):
        """An address of this machine where nobody listens."""
        s = socket.socket()
        self.cleanups.append(s.close)
        s.bind(("127.0.0.1", 0))        # bound, not listening: refuses
        return "127.0.0.1:%d" % s.getsockname()[1]

    def cleanup(self, f):
        """Call f when all programs have ended, the last one first."""
        self.cleanups.append(f)

    def before_end(self, f):
        """Call f before the programs are to end."""
        self.before.append(f)

    def give_up(self):
        """From another thread, where the case has hung: whatever it waits
        for fails now."""
        self.late = True
        for f in self.before:
            f()
        for p in self.processes:
            if p.is_running():
                p.signal(signal.SIGKILL)

    def close(self):
        for f in self.before:
            f()
        # Borrowers first: donors that leave are failures to them.
        order = sorted(self.processes, key=lambda p: isinstance(p, Donor))
        wrong = [w for w in [p.end() for p in order] if w]
        self._clean_up()
        return wrong

    def abandon(self):
        """When the test itself is to end."""
        for f in self.before:
            f()
        for p in self.processes:
            if p.is_running():
                p.kill()
        self._clean_up()

    def _clean_up(self):
        for f in reversed(self.cleanups):
            f()
        shutil.rmtree(self.dir, ignore_errors=True)

    def show_logs(self):
        for p in self.processes:
            print(f"# the end of {self.logs}/{p.name}.log:")
            for line in p.lines[-25:]:
                print("#   " + line)


def small_disk(box, size):
    """A file system of its own, or Skip; returns where it is mounted."""
    image, mount = box.path("image"), box.path("mnt")
    os.mkdir(mount)
    with open(image, "wb") as f:
        f.truncate(size)
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        raise Skip("mounting a small disk needs root and mkfs.ext4")
    status, _, text = run(["mkfs.ext4", "-q", "-m", "0", image])
    if status == 0:
        status, _, text = run(["mount", "-o", "loop", image, mount])
    if status != 0:
        raise Skip(f"cannot mount a small disk: {text.strip()}")
    box.cleanup(lambda: subprocess.run(["umount", mount], check=True))
    return mount


class Clients:
    """Several connections to one borrower, with many requests in flight.

    start() takes a function that begins an asynchronous command on the
    handle it gets and returns its cookie; done(error) is called when that
    has ended, with None or the nbd.Error.
    """

    def __init__(self, borrower, n=1):
        self.handles = [borrower.connect() for _ in range(n)]
        self.pending = [{} for _ in range(n)]

    def start(self, i, begin, done):
        self.pending[i][begin(self.handles[i])] = done

    def in_flight(self, i=None):
        if i is not None:
            return len(self.pending[i])
        return sum(len(p) for p in self.pending)

    def _reap(self):
        reaped = 0
        for h, pending in zip(self.handles, self.pending):
            for cookie in list(pending):
                error = None
                try:
                    if not h.aio_command_completed(cookie):
                        continue
                except nbd.Error as e:
                    error = e
                reaped += 1
                pending.pop(cookie)(error)
        return reaped

    def wait(self, seconds):
        """Let things happen for so long, or until something ended."""
        poll = select.poll()
        for h in self.handles:
            direction = h.aio_get_direction()
            poll.register(h.aio_get_fd(), (
                select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0) |
                (select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE
                 else 0))
        ready = dict(poll.poll(max(seconds, 0) * 1000))
        for h in self.handles:
            events = ready.get(h.aio_get_fd(), 0)
            direction = h.aio_get_direction()
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR) \
               and direction & nbd.AIO_DIRECTION_READ:
                h.aio_notify_read()
            elif events & select.POLLOUT:
                h.aio_notify_write()
        return self._reap()

    def finish(self, seconds=30):
        end = time.monotonic() + seconds * SLOWDOWN
        while self.in_flight() > 0:
            check(time.monotonic() < end, f"{self.in_flight()} requests "
                  f"unanswered after {seconds * SLOWDOWN:g} s")
            self.wait(0.1)


class Load:
    """Reads and writes of random pages by a thread of its own, checked
    against a model."""

    def __init__(self, b, slabs):
        self.h = b.connect()
        self.pages = [slab * SLAB // PAGE + i for slab in slabs
                      for i in range(64)]
        self.model = {}
        self.error = None
        self.slowest = 0
        self.requests = 0
        self.stopped = threading.Event()
        self.random = random.Random(random.random())
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _one(self):
        page = self.random.choice(self.pages)
        start = time.monotonic()
        if page in self.model and self.random.random() < 0.5:
            equal(self.h.pread(PAGE, page * PAGE), self.model[page],
                  f"page {page}")
        else:
            data = self.random.randbytes(16) * (PAGE // 16)
            self.h.pwrite(data, page * PAGE)
            self.model[page] = data
        self.slowest = max(self.slowest, time.monotonic() - start)
        self.requests += 1

    def _run(self):
        try:
            while not self.stopped.is_set():
                self._one()
        except (nbd.Error, AssertionError) as e:
            self.error = e

    def stop(self):
        self.stopped.set()
        self.thread.join()
        if self.error:
            raise self.error

    def check_all(self, h):
        for page, data in self.model.items():
            equal(h.pread(PAGE, page * PAGE), data, f"page {page}")


_cases = []


def case(f):
    _cases.append(f)
    return f


def _run_in(box, f):
    """What it says of its figures, a reason to skip, a traceback."""
    try:
        return f(box), None, None
    except Skip as e:
        return None, str(e), None
    except Exception:
        return None, None, traceback.format_exc()


def _run_case(f, name):
    box = Box(name)
    limit = getattr(f, "limit", CASE_SECONDS) * SLOWDOWN
    watchdog = threading.Timer(limit, box.give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        figures, skip, problem = _run_in(box, f)
        wrong = box.close()
    except BaseException:
        box.abandon()
        raise
    finally:
        watchdog.cancel()
    if box.late:
        wrong.append(f"not done after {limit:g} s: everything was killed")
    if problem or wrong:
        for line in (problem or "").splitlines() + wrong:
            print("# " + line)
        box.show_logs()
        return False, ""
    if skip:
        return True, f" # SKIP {skip}"
    return True, f" ({figures})" if figures else ""


def _on_sigterm(number, frame):
    raise SystemExit(f"ended by signal {number}")


def main():
    """Run the cases, or those named on the command line."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.stdout.reconfigure(line_buffering=True)
    file = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    cases = [f for f in _cases
             if not sys.argv[1:] or f.__name__ in sys.argv[1:]]
    failed = 0
    print(f"1..{len(cases)}")
    print(f"# SEED={SEED}")
    for n, f in enumerate(cases, 1):
        random.seed(SEED)
        start = time.monotonic()
        ok, more = _run_case(f, f"{file}.{f.__name__}")
        failed += not ok
        seconds = time.monotonic() - start
        print(f"{'ok' if ok else 'not ok'} {n} - {file}: "
              f"{' '.join((f.__doc__ or f.__name__).split())}{more}")
        print(f"# {seconds:.1f} s")
    sys.exit(failed > 0)
