#!/bin/bash
# The recipes of the plugin's manual page: a swap beside an existing one, huge
# pages, one application's memory limited, and an encrypted swap.  Each swaps
# over verbs a program that checks what it reads.
# Without arguments it runs itself in a virtual machine.
set -eu

if [ $# = 0 ]; then
  exec test/vm/run --timeout 900 --disk 1G --memory 2560 \
    --env O="${O:-build}" -- "$0" inside
fi
# shellcheck source=test/vm/lib.sh
. test/vm/lib.sh

# run_program SIZE OPTION...: in 48 MiB of memory, to its end.
run_program ()
{
  local size=$1
  shift
  (swap_pattern 48 --size "$size" "$@") >$work/pattern
}

# used SWAP: KiB in use there.
used () { awk -v name="$1" '$1 == name { print $4 }' /proc/swaps; }

# While it runs: the most that was in use of $device and of $beside.
# shellcheck disable=SC2317
watch_swaps ()
{
  local d b device_kib=0 beside_kib=0
  while :; do
    d=$(used $device) b=$(used $beside)
    [ "${d:-0}" -le "$device_kib" ] || device_kib=$d
    [ "${b:-0}" -le "$beside_kib" ] || beside_kib=$b
    echo "$device_kib $beside_kib" >$work/most.new
    mv $work/most.new $work/most
    sleep 0.5
  done
}

# shellcheck disable=SC2317
no_wrong_byte () { grep -qx 'wrong bytes: 0' "$work/pattern"; }
# shellcheck disable=SC2317
swapped_to_donors () { status_is '.counters.pages_written_donors > 2000'; }
vmstat () { awk -v name="$1" '$1 == name { print $2 }' /proc/vmstat; }

start_donors 1 2
start_device size=192M backing=/mnt/scratch/copy \
  donors=10.7.0.1:9400,10.7.0.2:9400

# An existing swap, of a lower priority.
beside=/mnt/scratch/swap
dd if=/dev/zero of=$beside bs=1M count=128 status=none
chmod 600 $beside
mkswap $beside >/dev/null
swapon $beside
mkswap $device >/dev/null
swapon -p 100 $device
sed 's/^/# /' /proc/swaps
watch_swaps &
watcher=$!
run_program 128M --rounds 1
kill $watcher
wait $watcher 2>/dev/null || :
read -r device_kib beside_kib <$work/most
is "the device is filled before the swap beside it: $device_kib and \
$beside_kib KiB in use" test "$device_kib" -gt 40000 -a "$beside_kib" = 0
is "no wrong byte" no_wrong_byte
is "it was swapped to donors" swapped_to_donors
swapoff $beside

# Huge pages.
thp=/sys/kernel/mm/transparent_hugepage/enabled
echo always >$thp
split=$(vmstat thp_swpout_fallback) whole=$(vmstat thp_swpout)
run_program 128M --rounds 1
is "huge pages, no wrong byte: $(($(vmstat thp_swpout) - whole)) went out \
whole, $(($(vmstat thp_swpout_fallback) - split)) in pieces" no_wrong_byte
echo madvise >$thp
swapoff $device

# Encrypted, with a key that nobody knows.
modprobe dm-crypt
cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 512 \
  --key-file /dev/urandom $device infiniswap-crypt
mkswap /dev/mapper/infiniswap-crypt >/dev/null
swapon -p 100 /dev/mapper/infiniswap-crypt
before=$(field .counters.pages_written_donors)
run_program 96M --rounds 1
is "encrypted, no wrong byte" no_wrong_byte
after=$(field .counters.pages_written_donors)
is "$((after - before)) encrypted pages went to donors" \
  test $((after - before)) -gt 2000
swapoff /dev/mapper/infiniswap-crypt
# shellcheck disable=SC2317
signature ()
{
  dd if="$1" bs=4096 count=1 iflag=direct status=none | grep -qa SWAPSPACE2
}
# shellcheck disable=SC2317
hidden () { signature /dev/mapper/infiniswap-crypt && ! signature "$device"; }
is "the donors have no plain text" hidden
cryptsetup close infiniswap-crypt

is "no I/O error" status_is '.counters.io_errors == 0'
is "all ends well" stop_all
done_testing
