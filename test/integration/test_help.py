#!/usr/bin/python3
"""--help and the manual pages name every key and option, and no other,
with its default."""

import glob
import os
import re

from infiniswap import (CTL, DONOR, PLUGIN, TOP, WRAPPER, Skip, case, check,
                        main, nbdkit_env, run)
import tables

OTHERS = {"help", "version"}    # options that have no default


def entries(text, item):
    """{name: text up to the next item}; `item` matches where one begins.
    Items that follow at once share their text."""
    found, names = {}, []
    for line in text.splitlines():
        m = re.match(item, line)
        if m:
            if names and any(found[n].strip() for n in names):
                names = []
            names.append(m.group(1))
            found.setdefault(m.group(1), "")
            line = line[m.end(1):]
            if not re.search(r"\s{2,}\S|\(|default", line):
                continue
        for name in names:
            found[name] += line + "\n"
    return found


def compare(found, table, where):
    found = {k: v for k, v in found.items() if k not in OTHERS}
    table = {k: v for k, v in table.items() if k not in OTHERS}
    missing, unknown = set(table) - set(found), set(found) - set(table)
    check(not missing, f"{where} does not name {sorted(missing)}")
    check(not unknown, f"{where} names {sorted(unknown)}")
    for key, (_, words) in table.items():
        text = " ".join(found[key].split())
        says = rf"(?i)default\W[^.;)]*?(?:{words})(?![\w])"
        if words.startswith("required"):
            says = rf"(?i){words}"
        if words:
            check(re.search(says, text) or
                  re.search(rf"(?i)(?:{words})\W{{1,3}}(?:the )?default", text),
                  f"{where}: {key}: no default of {words} in: {text}")


def plain(pod):
    """POD without its formatting."""
    with open(pod) as f:
        text = f.read()
    while True:
        new = re.sub(r"[BCFIL]<([^<>]*)>", r"\1", text)
        if new == text:
            return text.replace("E<lt>", "<").replace("E<gt>", ">")
        text = new


def manual(folder, name):
    path = os.path.join(TOP, folder, name)
    if not os.path.exists(path):
        raise Skip(f"no {folder}/{name} yet")
    return plain(path)


def options_section(text):
    """Of a manual page, the part on the options alone."""
    m = re.search(r"^=head1 (?:OPTIONS|PARAMETERS)$(.*?)^=head1 ", text,
                  re.M | re.S)
    check(m, "no section OPTIONS or PARAMETERS")
    return m.group(1).replace("\n=back", "\n")


@case
def plugin_help(box):
    """nbdkit --help names the plugin's keys and defaults"""
    status, text, _ = run(WRAPPER + ["nbdkit", PLUGIN, "--help"],
                          env=nbdkit_env())
    check(status == 0, "exit status")
    # After nbdkit's own options.
    text = text[text.index("infiniswap"):]
    compare(entries(text, r"\s*([a-z][a-z-]*)=\S"), tables.PLUGIN,
            "nbdkit PLUGIN --help")


@case
def plugin_manual(box):
    """the plugin's manual page names its keys and defaults"""
    text = options_section(manual("nbdkit-plugin",
                                  "nbdkit-infiniswap-plugin.1.pod"))
    compare(entries(text, r"=item ([a-z][a-z-]*)="), tables.PLUGIN,
            "nbdkit-infiniswap-plugin(1)")


@case
def donor_help(box):
    """infiniswap-donor --help names its options and defaults"""
    status, text, _ = run(WRAPPER + [DONOR, "--help"])
    check(status == 0, "exit status")
    compare(entries(text, r"\s*(?:-\w, )?--([a-z-]+)"), tables.DONOR,
            "infiniswap-donor --help")


@case
def donor_manual(box):
    """the donor's manual page names its options and defaults"""
    text = options_section(manual("donor", "infiniswap-donor.1.pod"))
    compare(entries(text, r"=item (?:-\w, )?--([a-z-]+)"), tables.DONOR,
            "infiniswap-donor(1)")


@case
def ctl_help(box):
    """infiniswapctl --help names its commands, options and defaults"""
    status, text, _ = run(WRAPPER + [CTL, "--help"])
    check(status == 0, "exit status")
    for command in ("status", "evict"):
        check(command in text, f"no command {command}")
    compare(entries(text, r"\s*(?:-\w, )?--([a-z-]+)"), tables.CTL,
            "infiniswapctl --help")


@case
def ctl_manual(box):
    """the manual page of infiniswapctl names its options and defaults"""
    text = options_section(manual("ctl", "infiniswapctl.1.pod"))
    compare(entries(text, r"=item (?:-\w, )?--([a-z-]+)"), tables.CTL,
            "infiniswapctl(1)")


@case
def example_files(box):
    """the example of a donor's key file names every option"""
    files = glob.glob(os.path.join(TOP, "conf", "donor.conf*"))
    check(files, "no example in conf/")
    with open(files[0]) as f:
        text = f.read()
    named = set(re.findall(r"^[#;]?\s*([a-z-]+)\s*=", text, re.M))
    want = set(tables.DONOR) - {"config"}
    check(named == want, f"missing {sorted(want - named)}, "
          f"unknown {sorted(named - want)}")
    # As it is, and with every example uncommented, it is accepted.
    bare = box.path("bare")
    with open(bare, "w") as f:
        f.write(re.sub(r"^#(?=[a-z-]+ = )", "", text, flags=re.M))
    for path in (files[0], bare):
        status, _, error = run(WRAPPER + [DONOR, "--config", path,
                                          "--listen", "127.0.0.1:99999"])
        check(status != 0 and "99999" in error, error)


if __name__ == "__main__":
    main()
