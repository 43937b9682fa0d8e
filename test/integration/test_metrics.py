#!/usr/bin/python3
"""What Prometheus gets of devices and donors, and what is shipped for it."""

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.request

from infiniswap import (DONOR, PAGE, SLOWDOWN, TOP, WRAPPER, Skip, case, equal,
                        check, main, map_all, run, wait_landed, wait_until)

ALERTS = os.path.join(TOP, "conf/monitoring/infiniswap-alerts.yml")
DASHBOARD = os.path.join(TOP, "conf/monitoring/grafana-infiniswap.json")
SAMPLE = re.compile(r'(\w+)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"(?:,|$)')


def promtool(*args, text=""):
    """What promtool says, which is nothing of metrics without fault."""
    if not shutil.which("promtool"):
        raise Skip("no promtool")
    p = subprocess.run(["promtool", *args], input=text, text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       timeout=60 * SLOWDOWN)
    check(p.returncode == 0, f"promtool {args}: {p.stdout}")
    return p.stdout.strip()


def url(process):
    return process.wait_line(r"metrics on (http://\S+/metrics)").group(1)


def fetch(process):
    with urllib.request.urlopen(url(process), timeout=10 * SLOWDOWN) as r:
        check(r.headers["Content-Type"] ==
              "text/plain; version=0.0.4; charset=utf-8", "the type")
        return r.read().decode()


class Metrics:
    def __init__(self, text):
        self.text = text
        self.families = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
        self.samples = {}
        self.labels = {family: set() for family in self.families}
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            name, labels, value = SAMPLE.match(line).groups()
            labels = dict(LABEL.findall(labels or ""))
            key = (name, tuple(sorted(labels.items())))
            check(key not in self.samples, f"twice: {line}")
            self.samples[key] = float(value)
            self.labels[self.family(name)] |= set(labels) - {"le"}

    def family(self, name):
        if name in self.families:
            return name
        return re.sub("_(bucket|sum|count)$", "", name)

    def get(self, name, **labels):
        return self.samples[name, tuple(sorted(labels.items()))]

    def names(self):
        return {name for name, _ in self.samples} | set(self.families)


def metrics_of(process):
    return Metrics(fetch(process))


def pair(box, **keys):
    """A donor and a device, both mapped and watched."""
    d = box.donor(metrics="127.0.0.1:0")
    b = box.borrower([d], metrics="127.0.0.1:0", **keys)
    h = b.connect()
    map_all(b, h)
    return d, b, h


@case
def promtool_accepts_what_is_served(box):
    """promtool check metrics accepts what donor and device serve"""
    d, b, h = pair(box)
    h.pread(PAGE, 0)
    h.flush()
    for process in d, b:
        said = promtool("check", "metrics", text=fetch(process))
        check(said == "", f"promtool on {process.name}: {said}")


@case
def promtool_finds_faults(box):
    """promtool would have complained"""
    try:
        said = promtool("check", "metrics", text="# TYPE x_total gauge\n"
                        "x_total 1\n")
    except AssertionError:
        return
    check(said != "", "promtool lets bad metrics pass")


@case
def device_counts(box):
    """the device's metrics and its status tell of the requests made"""
    _, b, h = pair(box)
    wait_landed(b)
    before = metrics_of(b)
    for i in range(50):
        h.pwrite(b"x" * PAGE, i * PAGE)
        h.pread(PAGE, i * PAGE)
    h.trim(PAGE, 1000 * PAGE)
    h.pread(PAGE, 1000 * PAGE)
    h.flush()
    wait_landed(b)
    after = metrics_of(b)

    def grown(name, **labels):
        return after.get(name, **labels) - before.get(name, **labels)

    requests = "infiniswap_device_request_duration_seconds"
    for operation, n in (("read", 51), ("write", 50), ("flush", 1),
                         ("discard", 1)):
        check(grown(requests + "_count", operation=operation) == n,
              f"{operation}s: {after.text}")
        check(grown(requests + "_sum", operation=operation) > 0,
              f"no time for {operation}")
        check(after.get(requests + "_bucket", operation=operation,
                        le="+Inf") ==
              after.get(requests + "_count", operation=operation),
              "the last bucket")
    pages = "infiniswap_device_pages_read_total"
    times = "infiniswap_device_page_read_duration_seconds_count"
    for source in "slot", "donor", "disk", "zero":
        check(grown(pages, source=source) == grown(times, source=source),
              f"pages from {source} not each timed")
    check(sum(grown(pages, source=s)
              for s in ("slot", "donor", "disk", "zero")) == 51, "pages read")
    check(grown(pages, source="zero") == 1, "zeros")
    check(grown("infiniswap_device_pages_written_total",
                destination="donor") == 50, "pages written to the donor")
    check(grown("infiniswap_device_pages_discarded_total") == 1, "discards")
    latency = b.status()["latency"]
    check(latency["read"]["count"] ==
          after.get(requests + "_count", operation="read"), "status: reads")
    check(0 < latency["read"]["p50_us"] <= latency["read"]["p99_us"],
          "status: percentiles")
    check(set(latency) == {"read", "write", "flush", "discard", "read_slots",
                           "read_donors", "read_disk", "read_zero"},
          f"status: {set(latency)}")


@case
def states_are_seen(box):
    """slabs and donors by state, before and after a donor is killed"""
    d, b, h = pair(box)
    m, lent = metrics_of(b), metrics_of(d)
    slabs = len(b.slabs())
    check(m.get("infiniswap_device_slabs", state="mapped") == slabs, "mapped")
    check(m.get("infiniswap_device_donor_slabs", donor=d.address) == slabs,
          "on the donor")
    check(m.get("infiniswap_device_donor_up", donor=d.address) == 1, "up")
    check(m.get("infiniswap_device_donor_info", donor=d.address,
                fabric="tcp") == 1, "fabric")
    check(lent.get("infiniswap_donor_slabs_lent") == slabs, "lent")
    check(lent.get("infiniswap_donor_sessions") == 1, "sessions")
    check([v for (name, _), v in lent.samples.items()
           if name == "infiniswap_donor_borrower_slabs"] == [slabs],
          "lent to the borrower")
    d.kill()
    wait_until(lambda: metrics_of(b).get("infiniswap_device_donor_up",
                                         donor=d.address) == 0, 10, "down")
    m = metrics_of(b)
    check(m.get("infiniswap_device_slabs_lost_total") == slabs, "lost")
    check(m.get("infiniswap_device_donors", state="connected") == 0, "none")
    check(m.get("infiniswap_device_donor_failures_total",
                donor=d.address) > 0, "failures")


@case
def evictions_are_timed(box):
    """the donor times evictions"""
    d, b, _ = pair(box)
    status, _, text = run([os.environ.get("CTL", os.path.join(
        TOP, "build/infiniswapctl")), "evict", d.state, "1"])
    check(status == 0, text)
    m = metrics_of(d)
    check(m.get("infiniswap_donor_evictions_done_total") >= 1, "done")
    check(m.get("infiniswap_donor_eviction_duration_seconds_count") ==
          m.get("infiniswap_donor_evictions_done_total"), "timed")


def documented(path):
    """{name: (type, labels)} of a manual page's section METRICS."""
    with open(os.path.join(TOP, path)) as f:
        section = re.search(r"^=head1 METRICS$(.*?)^=head1", f.read(),
                            re.M | re.S).group(1)
    items = re.findall(r"^=item B<(\w+)> \((\w+)(?:; ([\w, ]+))?\)$", section,
                       re.M)
    check(len(items) == section.count("=item"), f"{path}: an item")
    return {name: (kind, set(labels.split(", ")) if labels else set())
            for name, kind, labels in items}


@case
def manual_pages_name_all(box):
    """the manual pages name every metric with type and labels, no other"""
    d, b, _ = pair(box)
    for process, path in (
            (d, "donor/infiniswap-donor.1.pod"),
            (b, "nbdkit-plugin/nbdkit-infiniswap-plugin.1.pod")):
        m, page = metrics_of(process), documented(path)
        served = {name: (kind, m.labels[name])
                  for name, kind in m.families.items()}
        check(served == page, f"{path}: {sorted(map(str, page.items()))} is "
              f"not {sorted(map(str, served.items()))}")


def alert_names():
    with open(ALERTS) as f:
        return re.findall(r"alert: (\w+)", f.read())


@case
def alert_rules_are_valid(box):
    """promtool check rules accepts the alerts; they are what they should"""
    promtool("check", "rules", ALERTS)
    bad = box.path("bad.yml")
    with open(ALERTS) as f, open(bad, "w") as out:
        out.write(f.read().replace("increase(", "increase((", 1))
    try:
        promtool("check", "rules", bad)
    except AssertionError:
        return
    raise AssertionError("promtool lets bad rules pass")


# series: (values a minute, alerts after a quarter of an hour); of all other
# alerts none must come.
NODE = 'instance="a",job="infiniswap"'
RULE_TESTS = [
    ({'infiniswap_device_donor_up{donor="d",%s}': "1x60",
      'infiniswap_device_donor_up{donor="e",%s}': "1x60",
      'infiniswap_device_locked{%s}': "1x60",
      'infiniswap_device_io_errors_total{%s}': "0x60",
      'infiniswap_device_pages_read_total{source="disk",%s}': "0+60x60",
      'infiniswap_device_pages_read_total{source="donor",%s}': "0+6000x60"},
     []),
    ({'infiniswap_device_donor_up{donor="d",%s}': "1x60",
      'infiniswap_device_donor_up{donor="e",%s}': "0x60"},
     ["InfiniswapDonorDown"]),
    ({'infiniswap_device_donor_up{donor="d",%s}': "0x60"},
     ["InfiniswapDonorDown", "InfiniswapNoDonor"]),
    ({'infiniswap_device_io_errors_total{%s}': "0+1x60"},
     ["InfiniswapIoErrors"]),
    ({'infiniswap_device_backing_errors_total{%s}': "0+1x60"},
     ["InfiniswapLocalCopyFails"]),
    ({'infiniswap_device_pages_not_on_local_copy{%s}': "3x60"},
     ["InfiniswapLocalCopyFails"]),
    ({'infiniswap_device_locked{%s}': "0x60"},
     ["InfiniswapDeviceNotLocked"]),
    ({'infiniswap_device_pages_read_total{source="disk",%s}': "0+3000x60",
      'infiniswap_device_pages_read_total{source="donor",%s}': "0+6000x60"},
     ["InfiniswapReadsFromDisk"]),
    ({'infiniswap_device_request_duration_seconds_bucket{le="0.065536",'
      'operation="read",%s}': "0+1x60",
      'infiniswap_device_request_duration_seconds_bucket{le="0.131072",'
      'operation="read",%s}': "0+100x60",
      'infiniswap_device_request_duration_seconds_bucket{le="+Inf",'
      'operation="read",%s}': "0+100x60"}, ["InfiniswapReadsSlow"]),
    ({'infiniswap_device_deadlines_missed_total{%s}': "0+1x60"},
     ["InfiniswapDeadlinesMissed"]),
    ({'infiniswap_device_write_behind_used_bytes{%s}': "95x60",
      'infiniswap_device_write_behind_limit_bytes{%s}': "100x60"},
     ["InfiniswapWriteBehindFull"]),
    ({'infiniswap_donor_locked{%s}': "0x60"}, ["InfiniswapDonorNotLocked"]),
    ({'infiniswap_donor_eviction_rounds_total{%s}': "0+5x60"},
     ["InfiniswapDonorEvictsOften"]),
    ({'infiniswap_donor_evictions_unanswered_total{%s}': "0+1x60"},
     ["InfiniswapEvictionsUnanswered"]),
    ({'infiniswap_donor_messages_bad_total{%s}': "0+1x60"},
     ["InfiniswapBadMessages"]),
]


@case
def alert_rules_fire(box):
    """each alert comes when it should, and not when all is well"""
    names = alert_names()
    check(set(names) == {n for _, alerts in RULE_TESTS for n in alerts},
          f"not all tried: {names}")
    tests = [{"interval": "1m",
              "input_series": [{"series": s % NODE, "values": v}
                               for s, v in series.items()],
              "promql_expr_test": [
                  {"expr": f'count(ALERTS{{alertname="{n}",'
                           f'alertstate="firing"}}) > bool 0',
                   "eval_time": "40m",
                   "exp_samples": [{"labels": "{}", "value": 1}]
                   if n in alerts else []} for n in names]}
             for series, alerts in RULE_TESTS]
    path = box.path("rules.yml")
    with open(path, "w") as f:          # JSON is YAML
        json.dump({"rule_files": [ALERTS], "tests": tests,
                   "evaluation_interval": "1m"}, f)
    promtool("test", "rules", path)


def dashboard_queries():
    with open(DASHBOARD) as f:
        return [t["expr"] for p in json.load(f)["panels"]
                for t in p["targets"]]


@case
def shipped_files_name_what_is_served(box):
    """alerts and dashboard name only metrics that are served, validly"""
    d, b, _ = pair(box)
    served = metrics_of(d).names() | metrics_of(b).names()
    queries = dashboard_queries()
    with open(ALERTS) as f:
        named = set(re.findall(r"infiniswap_(?:device|donor)_\w+",
                               f.read() + "\n".join(queries)))
    check(named <= served, f"not served: {sorted(named - served)}")
    rules = [{"record": f"x:{i}", "expr": q.replace("$__rate_interval", "5m")}
             for i, q in enumerate(queries)]
    path = box.path("queries.yml")
    with open(path, "w") as f:
        json.dump({"groups": [{"name": "x", "rules": rules}]}, f)
    promtool("check", "rules", path)


def refused_donor(listen, address):
    status, _, text = run(WRAPPER + [DONOR, "--listen", listen, "--fabric",
                                     "tcp", "--metrics", address])
    return status, text


@case
def bad_addresses_are_refused(box):
    """a port in use and a foreign address are refused, with the remedy"""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        used = "127.0.0.1:%d" % s.getsockname()[1]
        for address, why, expected in (
                (used, "choose another port", 1),
                ("192.0.2.1:9401", "an address of this machine", 1),
                ("nonsense", "must be ADDR:PORT", 2)):
            status, text = refused_donor("127.0.0.1:0", address)
            equal(status, expected, text)
            check(len(text.splitlines()) == 1, text)
            check(why in text and address in text, text)
            text = box.refused(["127.0.0.1:1"], metrics=address)
            check(len(text.splitlines()) == 1, text)
            check(why in text and address in text, text)
            check(not os.path.exists(box.path("refused.state")),
                  "a socket is left")


def call(process, text):
    host, port = re.search(r"//(.*):(\d+)/", url(process)).groups()
    s = socket.create_connection((host, int(port)), 10 * SLOWDOWN)
    s.sendall(text)
    return s


@case
def hanging_clients_disturb_nothing(box):
    """clients that hang or send rubbish: I/O, status and donor go on"""
    d, b, h = pair(box)
    rubbish = [b"", b"GET /met", b"\0" * 1000, b"GET /metrics HTTP/1.1\r\n",
               b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"]
    clients = [call(p, text) for p in (d, b) for text in 8 * rubbish]
    for i in range(200):
        h.pwrite(bytes([i]) * PAGE, i * PAGE)
        check(h.pread(PAGE, i * PAGE) == bytes([i]) * PAGE, "content")
    for p in d, b:
        check(p.status()["kind"] in ("donor", "device"), "status")

    def served(p):
        try:
            return "build_info" in fetch(p)
        except (OSError, urllib.error.URLError):
            return False

    # They are all from one address, so that a scrape waits for the cut.
    for p in d, b:
        wait_until(lambda: served(p), 20, f"{p.name} serves again")
    for s in clients:
        s.close()
    m = metrics_of(b)
    check(m.get("infiniswap_device_deadlines_missed_total") == 0, "missed")
    check(m.get("infiniswap_device_donor_failures_total",
                donor=d.address) == 0, "the session ended")


if __name__ == "__main__":
    main()
