"""The keys and options users rely on, their defaults as the programs
show them in force, and how the texts for people may say them."""

# key: (in force by default, in words)
PLUGIN = {
    "size": (None, "required"),
    "donors": (None, "required"),
    "donors-file": ("none", ""),
    "resolve-interval": ("30s", "30s"),
    "fabric": ("auto", "auto"),
    "slab-size": ("1G", "1G"),
    "backing": ("none", "/var/tmp"),
    "backing-unsafe": ("0", "0"),
    "hot-slab": ("20", "20"),
    "cold-slab": ("0", "0"),
    "smoothing": ("0.2", r"0\.2"),
    "probes": ("2", "2"),
    "max-slabs-per-donor": ("no limit", "no limit"),
    "lanes": ("8", "8"),
    "write-behind": ("64M", "64M"),
    "write-delay": ("5s", "5s"),
    "read-ahead": ("1M", "1M"),
    "deadline": ("2s", "2s"),
    "lock": ("try", "try"),
    "state": ("none", "none"),
    "metrics": ("none", "none"),
    "check-config": ("0", "0"),
    "outlive-parent": ("0", "0"),
}

DONOR = {
    "listen": ("127.0.0.1:9400", r"127\.0\.0\.1:9400"),
    "fabric": ("auto", "auto"),
    "memory": ("all above the headroom", "all above the headroom"),
    "headroom": (None, "1/8 of RAM"),
    "ready": ("2", "2"),
    "slab-size": ("1G", "1G"),
    "max-borrowers": ("64", "64"),
    "max-per-borrower": ("no limit", "no limit"),
    "smoothing": ("0.2", r"0\.2"),
    "evict-extra": ("as many", "as many"),
    "deadline": ("3s", "3s"),
    "lock": ("try", "try"),
    "state": ("none", "none"),
    "metrics": ("none", "none"),
    "config": (None, "none|no such file|no file"),
}

# Of infiniswapctl, by command.
CTL = {
    "attach": {
        "check-config": (None, ""),
        "config": (None, "/etc/infiniswap/NAME.conf"),
        "foreground": (None, ""),
        "plugin": (None, "infiniswap"),
    },
    "check": {
        "config": (None, "/etc/infiniswap/NAME.conf"),
        "plugin": (None, "infiniswap"),
    },
    "detach": {
        "force": (None, ""),
        "timeout": (None, "none|no limit"),
        "wait": (None, ""),
    },
    "donors": {
        "donors-file": (None, ""),
        "json": (None, ""),
        "timeout": (None, "2s"),
    },
    "evict": {
        "timeout": (None, "5s"),
    },
    "status": {
        "json": (None, ""),
        "timeout": (None, "5s"),
    },
    "top": {
        "batch": (None, ""),
        "count": (None, ""),
        "interval": (None, "1s"),
        "timeout": (None, "5s"),
    },
}

# Of a device's key file, beside the plugin's.
DEVICE = {
    "device": (None, "the first that is free"),
    "connections": (None, "4"),
    "threads": (None, "4"),
    "dead-timeout": (None, "60s"),
    "swap": (None, "yes"),
    "priority": (None, "100"),
    "discard": (None, "no"),
    "allow": (None, "none"),
}

# Values that must be refused.
NO_SIZE = ["", "x", "-1", "1.5", ".5G", "64Gx", "64 G", "0x1000", " 64G",
           "20000000000000G", "64g b"]
NO_NUMBER = ["", "x", "-1", "1x", "1 ", "0x2", "99999999999999999999"]
NO_FRACTION = ["", "x", "-0.1", "0.2x", "1e-1", "nan", "inf", ".5", "0x1"]
NO_DURATION = ["", "x", "-1s", "2 s", "2sx", "2d", "1e3ms", "9999999h"]
NO_ADDRESS = ["", "host", "host:", ":9400", "host:0", "host:65536",
              "host:9400x", "ho st:9400", "::1:9400", "[::1]", "[::1:9400",
              "[x]:9400", "1.2.3:9400", "host:-1"]

NO_LISTEN = ["", "host", "127.0.0.1", "127.0.0.1:", ":9400",
             "127.0.0.1:65536", "127.0.0.1:9400x", "::1:9400", "[::1]",
             "1.2.3:9400"]
NO_METRICS = NO_LISTEN + ["192.0.2.1:9400"]

PLUGIN_REFUSED = {
    "size": NO_SIZE + ["0", "4095", "6000", "4097"],
    "donors": NO_ADDRESS + ["a:1,", ",a:1", "a:1,,b:2", "a:1,b", "a:1 b:2",
                            "a:1,a:1"],
    "donors-file": ["", "/nonexistent/donors", "/"],
    "fabric": ["", "rdma", "AUTO", "tcp,verbs", "tcp "],
    "slab-size": NO_SIZE + ["0", "512K", "3M", "1000000", "2T"],
    "backing": ["", "/nonexistent/copy", "/", "/dev/null"],
    "backing-unsafe": ["", "2", "yes", "true", "01", "-1"],
    "hot-slab": NO_FRACTION,
    "cold-slab": NO_FRACTION,
    "smoothing": NO_FRACTION + ["0", "1.1", "2"],
    "probes": NO_NUMBER + ["0", "17", "1.5"],
    "max-slabs-per-donor": NO_NUMBER + ["0", "1.5"],
    "lanes": NO_NUMBER + ["0", "65"],
    "write-behind": NO_SIZE + ["0", "512K", "1048577", "1T"],
    "write-delay": NO_DURATION + ["61s"],
    "read-ahead": NO_SIZE + ["4K", "128K", "1048577", "65M"],
    "deadline": NO_DURATION + ["0", "99ms", "21s"],
    "resolve-interval": NO_DURATION + ["0", "99ms", "25h"],
    "lock": ["", "yes", "1", "TRY", "require "],
    "state": ["", "/nonexistent/state", "/", "/tmp/" + "x" * 110],
    "metrics": NO_METRICS,
    "check-config": ["", "2", "yes", "true", "01", "-1"],
    "outlive-parent": ["", "2", "yes", "true", "01", "-1"],
}

DONOR_REFUSED = {
    "listen": NO_LISTEN,
    "fabric": ["", "rdma", "AUTO", "tcp,verbs"],
    "memory": NO_SIZE + ["0", "1023M"],
    "headroom": NO_SIZE + ["1024T"],
    "ready": NO_NUMBER + ["65537", "1.5"],
    "slab-size": NO_SIZE + ["0", "512K", "3M", "1000000", "2T"],
    "max-borrowers": NO_NUMBER + ["0", "65537"],
    "max-per-borrower": NO_SIZE + ["0", "1023M"],
    "smoothing": NO_FRACTION + ["0", "1.1", "2"],
    "evict-extra": NO_NUMBER + ["65537"],
    "deadline": NO_DURATION + ["0", "61s"],
    "lock": ["", "yes", "1", "TRY"],
    "state": ["", "/nonexistent/state", "/tmp/" + "x" * 110],
    "metrics": NO_METRICS,
    "config": ["", "/nonexistent/config", "/"],
}
