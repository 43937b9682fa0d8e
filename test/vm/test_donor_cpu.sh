#!/bin/bash
# Donors spend no CPU time on pages that are read and written over verbs.
# Without arguments it runs itself in a virtual machine.
set -eu

build=${O:-build}
if [ $# = 0 ]; then
  exec test/vm/run --timeout 300 --disk 1G --memory 2560 --env O="$build" -- \
    "$0" inside
fi

work=/run/test-donor-cpu
mkdir -p $work
pids=()
trap 'tail -n 20 $work/*.log' EXIT

field () { "$build/infiniswapctl" status --json $work/state | jq -r "$1"; }
await ()
{
  for _ in $(seq 600); do
    [ "$(field "$1" 2>/dev/null)" = true ] && return
    sleep 0.1
  done
  echo "not ok 1 - not within 60 s: $1"
  exit 1
}
# User ticks of all donors.
user_ticks ()
{
  local pid sum=0
  for pid in "${pids[@]}"; do
    sum=$((sum + $(awk '{ print $14 }' "/proc/$pid/stat")))
  done
  echo $sum
}
transfer ()
{
  fio --name=x --filename=/dev/nbd0 --direct=1 --ioengine=libaio --bs=128k \
    --iodepth=4 --size=256M --rw="$1" --output=/dev/null
}

for i in 1 2 3; do
  "$build/infiniswap-donor" --listen 10.7.0.$i:9400 --fabric verbs \
    --slab-size 16M --memory 256M --headroom 256M 2>$work/donor$i.log &
  pids+=($!)
done
# A long deadline, because idle donors answer a PING every quarter of it, and
# that would be most of what is measured.
nbdkit -f -t 4 -U $work/sock "$build/nbdkit-infiniswap-plugin.so" size=256M \
  slab-size=16M hot-slab=0 fabric=verbs backing=/mnt/scratch/copy \
  donors=10.7.0.1:9400,10.7.0.2:9400,10.7.0.3:9400 state=$work/state \
  deadline=20s 2>$work/nbdkit.log &
server=$!
await '[.donors[] | select(.state == "connected")] | length == 3'
nbd-client -unix $work/sock /dev/nbd0 -C 4 -b 4096 >/dev/null 2>&1

transfer write
await '.slabs.mapped == 16'
transfer write
await '.write_behind.in_use == 0'

reads=$(field .counters.pages_read_donors)
ticks=$(user_ticks) start=$(date +%s%N)
transfer read
transfer write
busy=$(($(user_ticks) - ticks))
taken_ms=$((($(date +%s%N) - start) / 1000000))
reads=$(($(field .counters.pages_read_donors) - reads))

ticks=$(user_ticks)
sleep "$((taken_ms / 1000)).$(printf %03d $((taken_ms % 1000)))"
idle=$(($(user_ticks) - ticks))

nbd-client -d /dev/nbd0 >/dev/null
kill $server "${pids[@]}"
wait
trap - EXIT

figures="$busy ticks in $taken_ms ms, idle $idle; $reads pages from donors"
if [ $reads -ge 65536 ] && [ $busy -le $((idle + 2)) ]; then
  echo "ok 1 - donors' user CPU for 256 MiB read and written: $figures"
else
  echo "not ok 1 - donors' user CPU for 256 MiB read and written: $figures"
  exit 1
fi
