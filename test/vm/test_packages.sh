#!/bin/bash
# The packages of "make deb" in a machine whose first process is systemd: two
# units are started and the machine swaps; what must not stop a device is
# refused, and what may stops it in order, even at shutdown.
# Without arguments it runs itself in a virtual machine for each part.
set -eu

build=${O:-build}

# ---- on the host ----

# part NAME STATUS TIMEOUT: how that part's machine is to end.
part ()
{
  local name=$1 expected=$2 status=0
  test/vm/run --init systemd --timeout "$3" --memory 3072 --disk 1G \
    --console "$log/$name.console" --env O="$build" -- "$0" "$name" \
    >"$log/$name.out" 2>&1 || status=$?
  grep -v '^1\.\.' "$log/$name.out" || :
  if [ $status != "$expected" ]; then
    echo "not ok - $name: status $status"
    tail -n 60 "$log/$name.console" | sed 's/^/# /'
  fi
}

# console NAME PART EXPRESSION: the test NAME, that the kernel says so.
console ()
{
  local not=''
  grep -qE "$3" "$log/$2.console" || not='not '
  echo "${not}ok - $1"
}
no_console () { console "$@" | sed 's/^not ok/OK/; s/^ok/not ok/; s/^OK/ok/'; }

# shutdown PART LAST: it ended in order, with LAST as the kernel's last word.
shutdown ()
{
  part "$1" 125 400
  console "$1: pages were out" "$1" '# [5-9][0-9][0-9] MiB are out'
  console "$1: detached" "$1" 'detached from /dev/nbd0'
  no_console "$1: no error of the swap device" "$1" \
    'Read-error|Write-error|I/O error'
  no_console "$1: nobody was killed for memory" "$1" 'Out of memory|oom-kill'
  console "$1: the machine went down" "$1" "reboot: $2"
}

if [ $# = 0 ]; then
  log=$build/test-logs/packages
  mkdir -p "$log"
  ls "$build"/deb/*.deb >/dev/null || { echo "'make deb' comes first"; exit 1; }
  {
    part service 0 600
    shutdown poweroff 'Power down'
    shutdown reboot 'Restarting system'
  } 2>&1 | tee "$log/all"
  ! grep -q '^not ok' "$log/all" || exit 1
  exit 0
fi

# ---- in the machine ----

# shellcheck source=test/vm/lib.sh
. test/vm/lib.sh
trap 'die "line $LINENO, status $?"' EXIT
out=$work/out
ctl=infiniswapctl
donor=infiniswap-donor@donor
isw=infiniswap-device@isw0

show_logs ()
{
  journalctl -b -u $isw -u $donor -o cat --no-pager | tail -n 30 |
    sed 's/^/# /'
}

# To the console, which outlives this.
say () { echo "# $*" | tee /dev/kmsg; }

# Without what takes minutes under emulation: fsync, and an index of manuals.
install_packages ()
{
  rm -f /var/lib/man-db/auto-update
  dpkg --force-unsafe-io -i "$build"/deb/*.deb >"$out" 2>&1
}

# The examples, edited for this machine.
configure ()
{
  gzip -cdf /usr/share/doc/infiniswap-donor/examples/donor.conf.example* |
    sed 's/^#listen = .*/listen = 10.7.0.1:9400/
         s/^#\(memory\|max-per-borrower\) = .*/\1 = 640M/
         s/^#slab-size = .*/slab-size = 16M/
         s/^#headroom = .*/headroom = 256M/' >/etc/infiniswap/donor.conf
  gzip -cdf /usr/share/doc/infiniswap-tools/examples/device.conf.example* |
    sed 's/^size = .*/size = 640M/
         s/^donors = .*/donors = 10.7.0.1:9400/
         s/^#slab-size = .*/slab-size = 16M/
         s|^#backing = .*|backing = /mnt/scratch/isw0|' \
    >/etc/infiniswap/isw0.conf
}

says () { grep -qE -- "$*" "$out" || { sed 's/^/# said: /' "$out"; return 1; }; }
fails () { ! "$@" >"$out" 2>&1; }
attached () { grep -q '^/dev/nbd0 ' /proc/swaps; }
mib_out () { awk '$1 == "/dev/nbd0" { print int ($4 / 1024) }' /proc/swaps; }
out_at_least () { [ "$(mib_out)" -ge "$1" ]; }
state () { systemctl show -P ActiveState "$1"; }
is_state () { [ "$(state "$1")" = "$2" ]; }

start_both ()
{
  install_packages || { sed 's/^/# /' "$out"; die "the packages"; }
  configure
  systemctl start $donor
  systemctl start $isw
}

# hungry MIB COMMAND...: a service, in so much memory.
hungry ()
{
  systemd-run --quiet --unit=hungry -p MemoryMax="$1M" \
    --working-directory="$PWD" /bin/bash -c "$2" 2>/dev/null
}

# Files in memory, which are there without any program.
fill_shm ()
{
  hungry 60 "dd if=/dev/urandom of=/dev/shm/a bs=1M count=570; sleep 1d"
  await "500 MiB out" out_at_least 500
}

exposure ()
{
  systemd-analyze security --no-pager "$1" 2>/dev/null |
    sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p'
}
exposed_at_most ()
{
  local level
  level=$(exposure "$1")
  echo "# systemd-analyze security $1: $level"
  awk -v a="$level" -v b="$2" 'BEGIN { exit !(a != "" && a <= b) }'
}

supervisor () { systemctl show -P MainPID $isw; }
other_supervisor () { [ "$(supervisor)" != "$1" ] && is_state $isw active; }
pattern_done () { grep -q 'wrong bytes' $work/report; }

service ()
{
  is "the packages install" install_packages
  is "nothing is started" [ "$(state $donor) $(state $isw)" = \
    "inactive inactive" ]
  configure
  is "the donor's file" infiniswap-donor --config /etc/infiniswap/donor.conf \
    --check-config
  is "the device's file" $ctl attach --check-config isw0
  is "the donor starts" systemctl start $donor
  is "it may raise its priority again" eval "grep -q 'Max nice priority *20 ' \
    /proc/\$(systemctl show -P MainPID $donor)/limits"
  is "the device starts" systemctl start $isw
  is "the machine swaps there" attached
  $ctl status | sed 's/^/# /'
  is "over RDMA" [ "$($ctl status --json /run/infiniswap/isw0.sock |
    jq -r '.donors[].fabric')" = verbs ]
  is "systemctl tells what it does" eval "systemctl status $isw | tee $out |
    grep -q '/dev/nbd0 attached'"
  is "and of the donor" eval "systemctl status $donor |
    grep -q 'Status: .*lent'"
  is "the donor is confined" exposed_at_most $donor 4.5
  is "the device is confined" exposed_at_most $isw 7.5
  is "neither complains" eval "! journalctl -b -u $isw -u $donor -p warning \
    -o cat --no-pager | grep ."

  hungry 60 "exec $PWD/$build/test/vm/swap-pattern --size 200M --rounds 1 \
    --pause-file $work/go >$work/report 2>&1"
  await "100 MiB out" out_at_least 100
  is "a manual stop is refused" fails systemctl stop $isw
  is "a manual stop is refused: why" says "Operation refused"
  is "a detach without room is refused" fails $ctl detach isw0
  is "a detach without room: why" says "cgroup .*hungry.* swapped out"
  is "and changes nothing" attached

  local old
  old=$(supervisor)
  kill -KILL "$old"
  await "another supervisor" other_supervisor "$old"
  is "a supervisor that is killed is replaced" attached
  is "an upgrade leaves it alone" install_packages
  is "still attached" attached
  is "removal is refused" fails dpkg -r infiniswap-tools
  is "removal is refused: why" says "device isw0 is attached"
  # It was to be removed: dpkg says so.
  dpkg --set-selections <<<"infiniswap-tools install"
  touch $work/go
  await "the program's end" pattern_done
  is "no byte is wrong" grep -q '^wrong bytes: 0' $work/report

  is "detached" $ctl detach isw0
  await "the unit's end" is_state $isw inactive
  is "no area is left" fails attached
  is "nothing is left" [ -z "$(ls /run/infiniswap | grep -v donor)" ]
  is "the device starts again" systemctl start $isw
  is "detached again" $ctl detach isw0

  sed -i 's/^size/sise/' /etc/infiniswap/isw0.conf
  is "a wrong file: it fails" fails systemctl start $isw
  is "a wrong file: why" eval "journalctl -b -u $isw -o cat --no-pager |
    grep -q 'sise=640M: unknown key'"
  is "a wrong file: no new attempts" is_state $isw failed
  is "the donor stops" systemctl stop $donor
  is "the donor stopped well" is_state $donor inactive
  is "the packages go" dpkg -r infiniswap-tools infiniswap-donor \
    nbdkit-plugin-infiniswap infiniswap-doc
  done_testing
}

leave ()
{
  start_both
  fill_shm
  say "$(mib_out) MiB are out"
  trap - EXIT
  systemctl --no-block "$1"
  sleep 300
}

case $1 in
  service) service ;;
  poweroff | reboot) leave "$1" ;;
esac
