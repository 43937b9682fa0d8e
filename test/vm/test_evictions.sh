#!/bin/bash
# Donors take all slabs back 100 times, over verbs and under load that verifies
# what it reads: no error and no wrong byte.  Tells how long an eviction takes
# and what it costs, and what the death of one of six donors costs; on a busy
# host these figures are noise, so nothing is asked of them.
# Without arguments it runs itself in a virtual machine.
#
# TIMES=N: evict all N times instead.
set -eu

times=${TIMES:-100}
if [ $# = 0 ]; then
  exec test/vm/run --timeout 2400 --disk 512M --memory 3072 \
    --env O="${O:-build}" --env TIMES="$times" -- "$0" inside
fi
# shellcheck source=test/vm/lib.sh
. test/vm/lib.sh

donor_options=(--memory 256M)

use_donors ()
{
  printf '10.7.0.%d:9400\n' "$@" >$work/donors.new
  mv $work/donors.new $work/donors
}

# I/Os that the device has ended.
ios ()
{
  local reads writes
  read -r reads _ _ _ writes _ <"/sys/block/${device#/dev/}/stat"
  echo $((reads + writes))
}

# ios_during SECONDS COMMAND...: I/Os from when COMMAND begins.
ios_during ()
{
  local seconds=$1 before pid
  shift
  before=$(ios)
  sleep "$seconds" &
  pid=$!
  "$@" >/dev/null
  wait $pid
  echo $(($(ios) - before))
}

evict () { "$build/infiniswapctl" evict --timeout 20s "$work/$1.state" "$2"; }

# lost NOW BEFORE: the share of BEFORE that is missing, in percent.
lost () { awk "BEGIN { printf \"%.1f\", 100 - 100 * $1 / $2 }"; }

evict_all_often ()
{
  local i
  until status_is ".counters.slabs_evicted >= $times * .device.slabs"; do
    for i in 1 2 3; do
      evict $i all >/dev/null
    done
  done
}

# Looking at the status costs the machine as much as starting an eviction.
measure_evictions ()
{
  local i
  quiet=0 evicting=0
  for i in {1..15}; do
    quiet=$((quiet + $(ios_during 2 status)))
    evicting=$((evicting + $(ios_during 2 evict $((i % 3 + 1)) 1)))
  done
}

# A slab of the donor that has most goes to one that has none.
# shellcheck disable=SC2317
spread ()
{
  status_is '.slabs.mapped == .device.slabs' || return 1
  ! status_is 'all (.donors[]; .slabs > 0)' || return 0
  evict "$(field '.donors | max_by (.slabs) | .address |
                  ltrimstr ("10.7.0.") | rtrimstr (":9400")')" 1 >/dev/null
  return 1
}

measure_death ()
{
  local n
  before=$(ios_during 10 true)
  had=$(field '.donors[] | select (.address == "10.7.0.2:9400") | .slabs')
  kill_donor 2
  worst=$before after=0
  for _ in {1..10}; do
    n=$(ios_during 1 true)
    after=$((after + n))
    [ "$n" -ge "$worst" ] || worst=$n
  done
}

start_donors 1 2 3 4 5 6
use_donors 1 2 3
start_device size=128M deadline=4s donors-file=$work/donors \
  backing=/mnt/scratch/copy
map_all
fio --name=load --filename=$device --size=128m --direct=1 --ioengine=libaio \
  --rw=randrw --bsrange=4k-16k --iodepth=4 --time_based --runtime=2400 \
  --verify=crc32c --verify_fatal=1 --verify_backlog=64 \
  --verify_backlog_batch=64 --serialize_overlap=1 --verify_state_save=0 \
  --output-format=json --output=$work/fio.json 2>$work/fio.log &
fio=$!
await "load" status_is '.counters.pages_read_donors > 2000'

start=$SECONDS times_us=
evict_all_often
evicted=$(field .counters.slabs_evicted)
is "all slabs evicted $times times under load: $evicted evictions in \
$((SECONDS - start)) s" kill -0 $fio
# The latest 1024 of each donor.
for i in 1 2 3; do
  times_us+=$(field '.counters | " \(.eviction_us_median) (\(
    .eviction_us_greatest))"' $i)
done
is "from EVICT to DONE, median (longest) in us of each donor:$times_us" \
  [ "${times_us#* 0 (}" = "$times_us" ]
unanswered=$(for i in 1 2 3; do field .counters.evictions_unanswered $i; done)
is "borrower and donors agree that they were" test "$unanswered" = $'0\n0\n0'

measure_evictions
is "an eviction costs $(lost $evicting $quiet) % of the throughput of 2 s: \
$evicting and $quiet I/Os" kill -0 $fio

use_donors 1 2 3 4 5 6
await "six donors" status_is '[.donors[] | select (.state == "connected")] |
  length == 6'
await "slabs on all six" spread
is "no session has ended" status_is 'all (.donors[]; .failures == 0)'
measure_death
is "the death of one of six donors, with $had of 8 slabs, costs \
$(lost "$after" "$before") % of the throughput of 10 s, $(lost $((worst * 10)) \
"$before") % in the worst second" test "$after" -gt 0

kill -INT $fio
status=0
wait $fio || status=$?
# shellcheck disable=SC2317
fio_errors () { sed -n '/^{/,$p' $work/fio.json | jq -r '.jobs[0].error'; }
is "no wrong byte and no error: $(fio_errors), status $status" \
  test "$(fio_errors)" = 0
is "no I/O error" status_is '.counters.io_errors == 0'
is "all ends well" stop_all
done_testing
