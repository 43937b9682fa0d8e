#!/usr/bin/python3
"""Every value out of range is refused before anything starts, in one line
that names the key, the value and what is allowed."""

import os
import pathlib

from infiniswap import (CTL, DONOR, WRAPPER, borrower_keys, case, check,
                        main, nbdkit_args, nbdkit_env, run)
import tables

# A refusal says what would do, or what is wrong with a thing outside.
SAYS_WHY = ("must be", "allowed", "such as", "cannot", "is neither",
            "No such", "s a directory", "choose another", "there is no",
            "is not a", "twice")


def one_line(text, status, words, complaints, what, why=SAYS_WHY):
    lines = [line for line in text.splitlines() if line]
    if status == 0:
        complaints.append(f"{what}: not refused")
    elif status < 0:
        complaints.append(f"{what}: died of signal {-status}")
    elif len(lines) != 1:
        complaints.append(f"{what}: {len(lines)} lines: {text!r}")
    elif not all(word in text for word in words):
        complaints.append(f"{what}: not named: {text!r}")
    elif not any(s in text for s in why):
        complaints.append(f"{what}: not what is allowed: {text!r}")


def shown(value):
    """What of a value must be seen: long ones may be cut."""
    return value.strip()[:60]


def give_up(complaints):
    check(not complaints, "\n" + "\n".join(complaints))


def try_plugin(box, keys):
    """(status, stderr) of nbdkit that serves nobody: with --run, so that
    an accepted value ends it at once."""
    # Not "-U -": a refusing nbdkit would leave its directory in /tmp.
    socket = box.path("config.sock")
    status, _, text = run(nbdkit_args(["-f", "-U", socket, "--run", "exit 0"],
                                      keys), env=nbdkit_env())
    pathlib.Path(socket).unlink(missing_ok=True)
    return status, text


@case
def plugin_values(box):
    """each key of the plugin refuses bad values"""
    complaints, n = [], 0
    check(set(tables.PLUGIN_REFUSED) == set(tables.PLUGIN), "the tables")
    for key, values in tables.PLUGIN_REFUSED.items():
        for value in values:
            keys = {"size": "1M", "donors": "127.0.0.1:1", "state": None,
                    "lock": "no"}
            if key == "donors-file":
                del keys["donors"]
            keys[key.replace("-", "_")] = value
            status, text = try_plugin(box, borrower_keys(
                keys, [], None))
            one_line(text, status, [key, shown(value)], complaints,
                     f"{key}={value}")
            n += 1
    give_up(complaints)
    return f"{n} values"


@case
def plugin_required(box):
    """what is required, unknown or contradictory"""
    complaints = []
    file = box.path("donors")
    with open(file, "w") as f:
        f.write("127.0.0.1:1\n")
    for keys, words in (
            (["size=1M"], ["donors"]),
            (["donors=127.0.0.1:1"], ["size"]),
            (["size=1M", "donors=127.0.0.1:1", "slabsize=1G"],
             ["slabsize", "1G", "unknown key"]),
            (["size=1M", "donors=127.0.0.1:1", "slab_size=1G"],
             ["slab_size", "1G", "unknown key"]),
            (["size=1M", "donors=127.0.0.1:1", f"donors-file={file}"],
             ["donors", "donors-file"]),
            (["size=1M", "donors=127.0.0.1:1", "hot-slab=5",
              "cold-slab=5"], ["cold-slab", "5", "hot-slab"])):
        status, text = try_plugin(box, keys)
        one_line(text, status, words, complaints, " ".join(keys), [""])
    give_up(complaints)


@case
def plugin_good_values(box):
    """values at the ends of what is allowed are accepted"""
    complaints = []
    good = {
        "size": ["4096", "4K", "1M", "1MiB"],
        "donors": ["[::1]:9400", "localhost:1,127.0.0.1:65535"],
        "fabric": ["auto", "verbs", "tcp"],
        "slab-size": ["1M", "1T"],
        "hot-slab": ["0", "0.5", "1000000"],
        "cold-slab": ["0", "19.9"],
        "smoothing": ["0.001", "1"],
        "probes": ["1", "16"],
        "max-slabs-per-donor": ["1", "1000000"],
        "lanes": ["1", "64"],
        "write-behind": ["1M", "128M"],
        "write-delay": ["0", "60s"],
        "read-ahead": ["0", "256K", "384K", "64M"],
        "deadline": ["100ms", "20s", "1.5s", "2"],
        "lock": ["no", "try"],
    }
    for key, values in good.items():
        for value in values:
            keys = {"size": "1M", "donors": "127.0.0.1:1", "state": None,
                    "lock": "no", "hot_slab": "20"}
            keys[key.replace("-", "_")] = value
            status, text = try_plugin(box, borrower_keys(keys, [], None))
            if status != 0:
                complaints.append(f"{key}={value}: {text}")
    give_up(complaints)


def try_donor(args):
    status, _, text = run(WRAPPER + [DONOR] + args, timeout=10)
    return status, text


@case
def donor_values(box):
    """each option of the donor refuses bad values"""
    complaints, n = [], 0
    check(set(tables.DONOR_REFUSED) == set(tables.DONOR), "the tables")
    for option, values in tables.DONOR_REFUSED.items():
        for value in values:
            args = ["--listen", "127.0.0.1:0", "--lock", "no",
                    f"--{option}", value]
            status, text = try_donor(args)
            one_line(text, status, [option, shown(value)], complaints,
                     f"--{option} {value}")
            n += 1
    for args, words in ((["--unknown", "1"], ["unknown"]),
                        (["word"], ["word"])):
        status, text = try_donor(args)
        one_line(text, status, words, complaints, " ".join(args), [""])
    give_up(complaints)
    return f"{n} values"


@case
def donor_config_file(box):
    """a value in the donor's key file is refused with file and line"""
    complaints = []
    path = box.path("donor.conf")
    for option, values in tables.DONOR_REFUSED.items():
        if option == "config":
            continue
        # A path is refused when it is used, but for its length.
        value = values[-1 if option == "state" else 1]
        with open(path, "w") as f:
            f.write(f"# mine\n[donor]\n{option} = {value}\n")
        status, text = try_donor(["--config", path])
        one_line(text, status, [path, "line 3", option, value], complaints,
                 f"{option} = {value}")
    for text, words in (("[donor]\nlisen = 1\n", ["lisen", "line 2"]),
                        ("[doner]\nready = 1\n", ["doner"]),
                        ("ready\n", [path])):
        with open(path, "w") as f:
            f.write(text)
        status, text = try_donor(["--config", path])
        one_line(text, status, words + [path], complaints, str(words),
                 [""])
    give_up(complaints)


@case
def donor_address_in_use(box):
    """a donor whose port is taken says so and ends"""
    donor = box.donor()
    status, text = try_donor(["--listen", donor.address, "--fabric", "tcp"])
    check(status > 0 and donor.address in text and "in use" in text,
          f"{status}: {text}")


@case
def ctl_usage(box):
    """wrong commands and options of infiniswapctl are refused"""
    complaints = []
    for args, words in (([], ["command"]), (["stat"], ["stat"]),
                        (["status", "--jsn"], ["jsn"]),
                        (["status", "--timeout", "0"], ["timeout", "0"]),
                        (["status", "--timeout", "1x"], ["timeout", "1x"]),
                        (["status", "/nonexistent/s"],
                         ["/nonexistent/s"])):
        status, _, text = run([CTL] + args)
        one_line(text, status, words, complaints, " ".join(args), [""])
    give_up(complaints)


@case
def defaults_in_force(box):
    """the defaults in force are those of the tables"""
    donor = box.donor("127.0.0.1:0", **{
        k: None for k in ("slab_size", "memory", "headroom", "fabric")})
    config = donor.status()["config"]
    for option, (value, _) in tables.DONOR.items():
        if value and option not in ("listen", "state"):
            check(config[option] == value, f"{option}: {config[option]}")
    # Memory of the machine, in whole MiB.
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    want = (ram // 8) >> 20
    check(config["headroom"] in (f"{want}M", f"{want / 1024:g}G"),
          f"headroom: {config['headroom']} of {ram} bytes")
    b = box.borrower([donor], slab_size=None, hot_slab=None, fabric=None)
    config = b.status()["config"]
    for key, (value, _) in tables.PLUGIN.items():
        if value and key != "state":
            check(config[key] == value, f"{key}: {config[key]}")
    check(set(config) == set(tables.PLUGIN), f"keys: {sorted(config)}")
    b.connect().pwrite(b"works", 0)


if __name__ == "__main__":
    main()
