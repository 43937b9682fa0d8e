"""What the benchmarks share: interleaved rounds, medians, and their report.

A contender is anything with a name, and open (connections), which returns a
context manager of something with measure (case), which returns a dictionary
of figures, and, as far as it has one, settle (), which waits until nothing of
what was done to it is left to do.  A figure of this run means something only beside others of it:
all contenders are measured in each round, in another order each time.

From the environment:
  ROUNDS   [5]
  SECONDS  of each measurement [2]
  DEPTHS, CONNECTIONS  numbers in flight [1,4,16,64], connections [1,2,4]
  PATTERNS [randread,randwrite,read,write]
  THREADS  of each nbdkit for each of its connections [4]
  O        the folder with the programs and, in bench/, the results [build]
"""

import dataclasses
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

OUT = os.path.realpath(os.path.join(os.environ.get("O", "build"), "bench"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = float(os.environ.get("SECONDS", "2"))


def numbers(variable, default):
    return [int(n) for n in os.environ.get(variable, default).split(",")]


DEPTHS = numbers("DEPTHS", "1,4,16,64")
CONNECTIONS = numbers("CONNECTIONS", "1,2,4")
PATTERNS = os.environ.get("PATTERNS", "randread,randwrite,read,write"
                          ).split(",")

# What "infiniswapctl attach" gives it.
NBDKIT = ["-t", os.environ.get("THREADS", "4")]

BLOCK = {"randread": 4096, "randwrite": 4096, "read": 131072, "write": 131072}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked of all contenders."""
    pattern: str
    depth: int
    connections: int

    @property
    def block(self):
        return BLOCK[self.pattern]

    @property
    def reads(self):
        return self.pattern.endswith("read")

    def __str__(self):
        return (f"{self.block // 1024}K {self.pattern}, depth {self.depth}, "
                f"{self.connections} connection"
                f"{'s' if self.connections > 1 else ''}")


def cases():
    """A connection needs something in flight to be of use."""
    return [Case(p, d, c) for p, d, c in
            itertools.product(PATTERNS, DEPTHS, CONNECTIONS)
            if c <= d or c == min(CONNECTIONS)]


def say(text):
    print(text, flush=True)


def busy_seconds():
    """Time that the machine's processors were not idle, all together."""
    with open("/proc/stat") as f:
        user, nice, system, idle, wait, irq, soft = [
            int(n) for n in f.readline().split()[1:8]]
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def run(*args, **keys):
    return subprocess.run(args, check=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True, **keys).stdout


def fio(options, case):
    """One measurement: a dictionary of figures."""
    jobs = case.connections if "--ioengine=nbd" in options else 1
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        before = busy_seconds()
        run("fio", "--name=bench", f"--rw={case.pattern}",
            f"--bs={case.block}", f"--iodepth={case.depth // jobs}",
            f"--numjobs={jobs}", "--group_reporting", "--time_based",
            f"--runtime={SECONDS}", "--norandommap",
            "--randrepeat=0", "--output-format=json", f"--output={out}",
            *options)
        busy = busy_seconds() - before
        with open(out) as f:
            text = f.read()
    job = json.loads(text[text.index("{"):])["jobs"][0]
    side = job["read" if case.reads else "write"]
    latency = side["clat_ns"].get("percentile", {})
    return {
        "iops": side["iops"],
        "mib_per_second": side["iops"] * case.block / 2**20,
        "p50_us": latency.get("50.000000", 0) / 1e3,
        "p99_us": latency.get("99.000000", 0) / 1e3,
        "p99.9_us": latency.get("99.900000", 0) / 1e3,
        "busy_us": busy / max(side["total_ios"], 1) * 1e6,
    }


def latency(borrower, what):
    """How long the plugin was at requests so far: (how many, us of all)."""
    of = borrower.status()["latency"][what]
    return of["count"], of["sum_us"]


def mean_latency(before, after):
    """Microseconds a request in between."""
    return (after[1] - before[1]) / max(after[0] - before[0], 1)


def slot_share(borrower, before):
    """The share of pages read since then that came from slots."""
    now = borrower.counters()
    read = {s: now[f"pages_read_{s}"] - before[f"pages_read_{s}"]
            for s in ("slots", "donors", "disk", "zero")}
    return read["slots"] / max(sum(read.values()), 1)


def fio_row(median):
    return (f"{median['iops']:9.0f} IOPS {median['mib_per_second']:8.1f} MiB/s"
            f"  p50 {median['p50_us']:7.0f}  p99 {median['p99_us']:7.0f}"
            f"  p99.9 {median['p99.9_us']:7.0f} us"
            f"  busy {median['busy_us']:6.0f} us")


class Results:
    """All that was measured, by contender and case."""

    def __init__(self, name, contenders, figure="iops", row=fio_row):
        self.name = name
        self.contenders = contenders
        self.figure = figure    # the one that ratios are of
        self.row = row          # the medians, as text
        self.runs = {}          # (contender, case): [figures, ...]
        self.facts = {}         # what else there is to say

    def add(self, contender, case, figures):
        self.runs.setdefault((contender, case), []).append(figures)

    def median(self, contender, case, figure):
        runs = self.runs.get((contender, case))
        return runs and statistics.median(r[figure] for r in runs)

    def medians(self, contender, case):
        return {figure: self.median(contender, case, figure)
                for figure in self.runs[contender, case][0]}

    def spread(self, contender, case):
        """(largest - smallest) / median."""
        values = [r[self.figure] for r in self.runs[contender, case]]
        return (max(values) - min(values)) / statistics.median(values)

    def ratios(self, contender, other, case):
        """Median, smallest and largest of the rounds' ratios; None where
        one was not measured."""
        pairs = zip(self.runs.get((contender, case), []),
                    self.runs.get((other, case), []))
        ratios = [a[self.figure] / b[self.figure] for a, b in pairs]
        return ratios and (statistics.median(ratios), min(ratios),
                           max(ratios)) or None

    def cases(self):
        return list(dict.fromkeys(case for _, case in self.runs))


def rounds(contenders, tasks):
    """(round, contender, task) in an order that is another each round."""
    for n in range(1, ROUNDS + 1):
        pairs = list(itertools.product(contenders, tasks))
        for c, task in random.sample(pairs, len(pairs)):
            yield n, c, task


def measure(results, contenders, wanted):
    """ROUNDS rounds of all cases with all contenders."""
    total = ROUNDS * len(wanted) * len(contenders)
    done, start = 0, time.monotonic()
    for n, c, connections in rounds(contenders, CONNECTIONS):
        mine = [w for w in wanted if w.connections == connections]
        with c.open(connections) as target:
            for case in mine:
                getattr(target, "settle", lambda: None)()
                results.add(c.name, case, target.measure(case))
        done += len(mine)
        say(f"# round {n} of {ROUNDS}: {done} of {total} "
            f"measurements, {time.monotonic() - start:.0f} s")


# ---- the report ----

def table(results, ours):
    """One line a case: each one's median, and ours beside the others."""
    names = [c for c in results.contenders
             if any(k[0] == c for k in results.runs)]
    wide = max(len(n) for n in names) + 2
    lines = []
    for case in results.cases():
        lines.append(f"{case}:")
        for name in names:
            if (name, case) not in results.runs:
                continue
            line = (f"  {name:{wide}} "
                    f"{results.row(results.medians(name, case))} "
                    f"(spread {results.spread(name, case):4.0%})")
            ratio = name != ours and results.ratios(ours, name, case)
            if ratio:
                line += (f"  ours/this {ratio[0]:.2f} "
                         f"({ratio[1]:.2f}-{ratio[2]:.2f})")
            lines.append(line)
    return lines + [f"{k}: {v}" for k, v in results.facts.items()]


def save(results):
    """build/bench/NAME.json."""
    os.makedirs(OUT, exist_ok=True)
    document = {
        "name": results.name, "rounds": ROUNDS, "seconds": SECONDS,
        "facts": results.facts,
        "runs": [{"contender": c, **dataclasses.asdict(case),
                  "median": results.medians(c, case),
                  "rounds": runs}
                 for (c, case), runs in results.runs.items()]}
    path = os.path.join(OUT, results.name + ".json")
    with open(path, "w") as f:
        json.dump(document, f, indent=1)
        f.write("\n")
    return path


def plot(results, name, title, of, axes):
    """build/bench/NAME.svg: the figure of these cases over a number of each,
    as axes tell: (of a case, what it is, what the figure is, options)."""
    path = os.path.join(OUT, name + ".svg")
    number, x_label, y_label, options = axes
    names = [c for c in results.contenders
             if any((c, case) in results.runs for case in of)]
    if len(of) < 2 or not names:
        return None
    script = [
        'set terminal svg size 720,420 background "white"',
        f'set output "{path}"',
        f'set title "{title}: medians of {ROUNDS} rounds, smallest and '
        'largest"',
        f'set xlabel "{x_label}"', f'set ylabel "{y_label}"',
        "set yrange [0:*]", "set key outside right", *options,
        "plot " + ", ".join(
            f"'-' using 1:2:3:4 with yerrorlines title \"{n}\""
            for n in names)]
    for contender in names:
        for case in of:
            runs = [r[results.figure]
                    for r in results.runs.get((contender, case), [])]
            if runs:
                script.append(f"{number(case)} {statistics.median(runs)} "
                              f"{min(runs)} {max(runs)}")
        script.append("e")
    subprocess.run(["gnuplot"], input="\n".join(script) + "\n", text=True,
                   check=True)
    return path


def plot_depths(results, pattern, connections):
    """build/bench/NAME-PATTERN-CONNECTIONS.svg: rate over depth."""
    of = [c for c in results.cases()
          if (c.pattern, c.connections) == (pattern, connections)]
    return plot(results, f"{results.name}-{pattern}-{connections}",
                f"{BLOCK[pattern] // 1024}K {pattern}, {connections} "
                f"connection{'s' if connections > 1 else ''}", of,
                (lambda case: case.depth, "requests in flight",
                 "operations/s", ["set logscale x 2", "set xrange [0.8:*]"]))


def report(results, ours, plots):
    """plots are paths, or None where there was nothing to plot."""
    say("\n".join(table(results, ours)))
    say("# " + " ".join(os.path.relpath(p)
                        for p in [save(results), *plots] if p))


def report_depths(results, ours):
    report(results, ours, [plot_depths(results, *of) for of in
                           itertools.product(PATTERNS, CONNECTIONS)])


def need(*tools):
    for tool in tools:
        if subprocess.run(["which", tool], stdout=subprocess.DEVNULL
                          ).returncode:
            sys.exit(f"{sys.argv[0]}: {tool} is missing: run 'make deps' "
                     "first")
