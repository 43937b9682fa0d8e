#!/usr/bin/python3
"""--help and the manual pages name every key and option, and no other,
with its default; every message type, and every exit status."""

import glob
import os
import re

from infiniswap import (CTL, DONOR, PLUGIN, TOP, WRAPPER, Skip, case, check,
                        main, nbdkit_env, run)
import tables

OTHERS = {"check-config", "help", "version"}      # that have no default


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


OPTION_IN_HELP = r"\s*(?:-\w, )?--([a-z-]+)"
OPTION_IN_MANUAL = r"=item (?:-\w, )?--([a-z-]+)"


def ctl_commands(text):
    """The commands that infiniswapctl --help lists."""
    listed = re.search(r"^Commands .*:\n((?:  .*\n)+)", text, re.M)
    check(listed, f"no list of commands in: {text}")
    return re.findall(r"^  ([a-z]+)\s+\S", listed.group(1), re.M)


@case
def ctl_help(box):
    """infiniswapctl --help names its commands, and each its options"""
    status, text, _ = run(WRAPPER + [CTL, "--help"])
    check(status == 0, "exit status")
    names = ctl_commands(text)
    check(sorted(names) == sorted(tables.CTL), f"commands: {names}")
    compare(entries(text, OPTION_IN_HELP), {}, "infiniswapctl --help")
    for command, options in tables.CTL.items():
        status, text, _ = run(WRAPPER + [CTL, command, "--help"])
        check(status == 0, f"{command}: exit status")
        compare(entries(text, OPTION_IN_HELP), options,
                f"infiniswapctl {command} --help")


def ctl_sections(text):
    """The manual's text on each command."""
    m = re.search(r"^=head1 COMMANDS$(.*?)^=head1 ", text, re.M | re.S)
    check(m, "no section COMMANDS")
    parts = re.split(r"^=head2 ([a-z]+)\b", m.group(1), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


@case
def ctl_manual(box):
    """the manual page of infiniswapctl names its commands and options"""
    text = manual("ctl", "infiniswapctl.1.pod")
    compare(entries(options_section(text), OPTION_IN_MANUAL), {},
            "infiniswapctl(1)")
    sections = ctl_sections(text)
    check(sorted(sections) == sorted(tables.CTL), f"{sorted(sections)}")
    for command, options in tables.CTL.items():
        compare(entries(sections[command].replace("\n=back", "\n"),
                        OPTION_IN_MANUAL), options,
                f"infiniswapctl(1), {command}")


def source(name):
    with open(os.path.join(TOP, name)) as f:
        return f.read()


def body_bytes(name):
    """What the table of messages says of a body: bytes, and how often."""
    form = re.search(rf'{{ "{name}", (?:sizeof \(struct (\w+)\)|(\d+)), '
                     r"(\w+)(?: - 1)? }", source("fabric/message.c"))
    check(form, f"no form of {name}")
    struct, number, often = form.groups()
    sizes = {"be64": 8, **{k: int(v) for k, v in re.findall(
        r"sizeof \(struct (\w+)\) == (\d+)", source("fabric/message.c"))}}
    return sizes[struct] if struct else int(number), often != "0"


@case
def protocol_manual(box):
    """infiniswap-protocol(7) has every message type, with its fields"""
    enum = re.search(r"enum message_type {(.*?)};", source("fabric/message.h"),
                     re.S).group(1)
    names = re.findall(r"^  MESSAGE_(\w+)", enum, re.M)
    check(len(names) > 10, names)
    table = re.findall(r'\[MESSAGE_(\w+)\] =', source("fabric/message.c"))
    check(names == table, f"types {names}, their table {table}")
    parts = re.split(r"^=item (\w+) = (\d+), from .*$",
                     manual("fabric", "infiniswap-protocol.7.pod"),
                     flags=re.M)
    found = dict(zip(parts[1::3], zip(parts[2::3], parts[3::3])))
    check(list(found) == names, f"types {names}, in the manual {list(found)}")
    for number, name in enumerate(names, 1):
        given, text = found[name]
        check(int(given) == number, f"{name} is {number}, not {given}")
        size, often = body_bytes(name)
        fields = [int(n) for n in re.findall(r"\((\d+)(?: each)?\)",
                                             text.split("\n=back")[0])]
        if not often:
            check(sum(fields) == size, f"{name}: {size} bytes, not {fields}")
        check(("No body" in text) == (size == 0), f"{name}: body")


@case
def exit_statuses(box):
    """every exit status that --help names is in the manual"""
    text = manual("ctl", "infiniswapctl.1.pod")
    section = re.search(r"^=head1 EXIT STATUS$(.*?)^=head1 ", text,
                        re.M | re.S).group(1)
    listed = set(re.findall(r"^=item (\d+)$", section, re.M))
    for command in tables.CTL:
        _, text, _ = run(WRAPPER + [CTL, command, "--help"])
        told = re.search(r"Exit status: (.*)", text, re.S)
        check(told, f"{command} --help tells no exit status")
        named = set(re.findall(r"(?:^|; |, )(?:or )?(\d)(?= )",
                               " ".join(told.group(1).split())))
        check("0" in named and named <= listed,
              f"{command} --help: {sorted(named)}; manual: {sorted(listed)}")
    check("=head1 EXIT STATUS" in manual("donor", "infiniswap-donor.1.pod"),
          "infiniswap-donor(1) has no EXIT STATUS")


@case
def device_keys(box):
    """attach's help and manual name the keys of a device and defaults"""
    _, text, _ = run(WRAPPER + [CTL, "attach", "--help"])
    compare(entries(text, r"\s*([a-z][a-z-]*)="), tables.DEVICE,
            "infiniswapctl attach --help")
    text = manual("ctl", "infiniswapctl.1.pod")
    section = re.search(r"^=head1 DEVICES$(.*?)^=head1 ", text,
                        re.M | re.S).group(1)
    compare(entries(section.replace("\n=back", "\n"),
                    r"=item B?<?([a-z-]+)>?="), tables.DEVICE,
            "infiniswapctl(1), DEVICES")


@case
def device_example(box):
    """the example of a device's key file names every key"""
    path = os.path.join(TOP, "conf", "device.conf.example")
    with open(path) as f:
        text = f.read()
    named = set(re.findall(r"^[#;]?\s*([a-z-]+)\s*=", text, re.M))
    want = (set(tables.DEVICE) | set(tables.PLUGIN)) - {
        "state", "check-config", "outlive-parent"}
    check(named == want, f"missing {sorted(want - named)}, "
          f"unknown {sorted(named - want)}")
    status, _, error = run(WRAPPER + [CTL, "attach", "--check-config",
                                      "--config", path, "--plugin", PLUGIN,
                                      "isw0"])
    check(status == 0, error)


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
