#!/bin/bash
# Donors spend no CPU time on pages that are read and written over verbs.
# Without arguments it runs itself in a virtual machine.
#
# From the environment: LOOPS, how often 256 MiB are read and written [1]
set -eu

if [ $# = 0 ]; then
  exec test/vm/run --timeout 900 --disk 1G --memory 2560 \
    --env O="${O:-build}" --env LOOPS="${LOOPS:-1}" -- "$0" inside
fi
# shellcheck source=test/vm/lib.sh
. test/vm/lib.sh

# User ticks of all donors.
user_ticks ()
{
  local pid sum=0
  for pid in "${pids[@]:1}"; do
    sum=$((sum + $(awk '{ print $14 }' "/proc/$pid/stat")))
  done
  echo $sum
}
transfer ()
{
  fio --name=x --filename=$device --direct=1 --ioengine=libaio --bs=128k \
    --iodepth=4 --size=256M --loops="$2" --rw="$1" --output=/dev/null
}

donor_options=(--memory 256M)
start_donors 1 2 3
# A long deadline, because idle donors answer a PING every quarter of it, and
# that would be most of what is measured.
start_device size=256M deadline=20s backing=/mnt/scratch/copy \
  donors=10.7.0.1:9400,10.7.0.2:9400,10.7.0.3:9400

map_all
transfer write 1
await "local copies" status_is '.write_behind.in_use == 0'

reads=$(field .counters.pages_read_donors)
ticks=$(user_ticks) start=$(date +%s%N)
transfer read "$LOOPS"
transfer write "$LOOPS"
busy=$(($(user_ticks) - ticks))
taken_ms=$((($(date +%s%N) - start) / 1000000))
reads=$(($(field .counters.pages_read_donors) - reads))

ticks=$(user_ticks)
sleep "$((taken_ms / 1000)).$(printf %03d $((taken_ms % 1000)))"
idle=$(($(user_ticks) - ticks))

figures="$busy ticks in $taken_ms ms, idle $idle; $reads pages from donors"
is "donors' user CPU for $LOOPS * 256 MiB read and written: $figures" \
  test "$reads" -ge $((LOOPS * 65536)) -a $busy -le $((idle + 2))
is "all ends well" stop_all
done_testing
