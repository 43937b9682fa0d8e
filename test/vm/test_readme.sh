#!/bin/bash
# What the README tells a new user to type, under "Use it": those lines
# themselves, with the addresses and the size of this machine, as root.  Fewer
# than ten, and each works; nothing else is needed.
# Without arguments it runs itself in a virtual machine.
set -eu

build=${O:-build}
if [ $# = 0 ]; then
  ls "$build"/deb/*.deb >/dev/null || { echo "'make deb' comes first"; exit 1; }
  exec test/vm/run --init systemd --timeout 400 --memory 6144 --disk 2G \
    --env O="$build" -- "$0" inside
fi
# shellcheck source=test/vm/lib.sh disable=SC2154
. test/vm/lib.sh

export TMPDIR=/mnt/scratch      # of the local copy: the rest is in memory
rm -f /var/lib/man-db/auto-update
printf 'force-unsafe-io\n' >/etc/dpkg/dpkg.cfg.d/vm
swaps () { grep -q '^/dev/nbd0 ' /proc/swaps; }
swap_something () { (swap_pattern 48 --size 160M --rounds 2) >$work/pattern; }
found_it_again () { wait "$program" && grep -qx 'wrong bytes: 0' $work/pattern; }
mib_out () { awk '$1 == "/dev/nbd0" { print int ($4 / 1024) }' /proc/swaps; }
busy () { [ "$(mib_out)" -gt 80 ]; }

# Lines of code of that section, for this machine.
readme ()
{
  sed -n '/^## Use it/,/^With /s/^    //p' README.md |
    sed 's/10\.0\.0\.2:9400,10\.0\.0\.3:9400/10.7.0.1:9400/
         s/10\.0\.0\.2/10.7.0.1/; s/size=16G/size=1G/'
}

is "fewer than ten commands" [ "$(readme | wc -l)" -lt 10 ]
while read -r line <&4; do
  case $line in
    'make deb') continue ;;     # before this machine started
    'infiniswapctl top')
      is "the machine swaps" swaps
      swap_something & program=$!
      await "80 MiB out" busy
      line+=' --count 3 --interval 2s' ;;
    'infiniswapctl detach'*)
      infiniswapctl status | sed 's/^/# /'
      is "a program finds what it has swapped out" found_it_again ;;
  esac
  status=0
  bash -c "$line" >$work/out 2>&1 || status=$?
  sed "1i\$ $line" $work/out | sed 's/^/# /'
  is "$line" [ $status = 0 ]
done 4< <(readme)
is "it does not swap there any more" eval '! swaps'
is "nothing is left" eval '! ls /run/infiniswap | grep -v lend'
done_testing
