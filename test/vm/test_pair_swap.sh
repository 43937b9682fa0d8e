#!/bin/bash
# Live swap between two machines, over verbs: the network is cut for 5 s and
# restored, and later the donor's machine is lost.  No program dies, no byte is
# wrong, no I/O takes longer than the deadline and a second; and the donor is
# used again once the network is back.  Beside the swap area, in the other
# half of the device, fio verifies what it writes.
#
# Without arguments it runs itself as "borrower" and "donor" in the machines.
# SLOWDOWN=N: a slow host may take N times as long for an I/O.
set -eu

donor=10.8.0.2:9400
if [ $# = 0 ]; then
  set -o pipefail
  test/vm/run-pair --timeout 600 --disk 512M --env O="${O:-build}" \
    --env SLOWDOWN="${SLOWDOWN:-1}" --a "$0 borrower" \
    --b "${O:-build}/infiniswap-donor --listen $donor --fabric verbs \
           --slab-size 16M --memory 384M --headroom 128M" \
    --control "wait_for a 'ok .* before the cut' 300
               link b off
               sleep 5
               link b on
               wait_for a 'ok .* after the cut' 120
               power_off b
               wait_for a '^(1\.\.|not ok)' 240" | sed -u 's/^a: //'
  exit
fi
# shellcheck source=test/vm/lib.sh
. test/vm/lib.sh

# deadline=2s, and a second
limit_ms=$(awk "BEGIN { print int (3000 * $SLOWDOWN) }")

# The kernel's trace of the device: from when an I/O is queued until the request
# that it has become part of is complete.
trace=/sys/kernel/tracing
watch_ios ()
{
  mountpoint -q $trace || mount -t tracefs tracefs $trace
  echo mono >$trace/trace_clock
  echo 8192 >$trace/buffer_size_kb
  echo 1 >$trace/events/block/block_bio_queue/enable
  echo 1 >$trace/events/block/block_rq_complete/enable
  perl -ne '
    BEGIN { ($ios, $errors, $worst, $lost) = (0) x 4 }
    last if /tracing_mark_write: end/;
    $lost++ if /LOST/;
    my ($time, $event, $sector, $n, $error) =
      /([\d.]+): block_(\w+): 43,\d+ .*?(\d+) \+ (\d+) \[(.*)\]$/ or next;
    if ($event eq "bio_queue") { $since{$sector} = $time; next }
    $errors++ if $error;
    for (my $at = $sector; $at < $sector + $n; $at++) {
      my $since = delete $since{$at} or next;
      my $ms = int (($time - $since) * 1000);
      $worst = $ms if $ms > $worst;
      $ios++;
    }
    END { print "$ios $errors $worst $lost ", scalar %since, "\n" }
    ' $trace/trace_pipe >$work/ios &
  tracer=$!
}

# Sets how many I/Os have ended, how many of them with an error, what the
# longest took, what the trace has lost, and how many I/Os have not ended.
end_watch ()
{
  echo end >$trace/trace_marker
  wait $tracer
  read -r ios errors worst_ms lost open <$work/ios
}

# The log tells of sessions that a look at the status may miss.
sessions_ended () { grep -c 'session ended' $work/nbdkit.log || :; }
# shellcheck disable=SC2317
session_ended_since () { [ "$(sessions_ended)" -gt "$1" ]; }

# What the donor is used for.
use ()
{
  field '"\(.slabs.mapped) slabs mapped, " +
         "\(.counters.pages_read_donors) pages read from donors"'
}

# Until many more pages than now were read from $1, donors or disk, and the
# program has got on.
await_reads ()
{
  local counter=.counters.pages_read_$1
  await "reads from $1" status_is "$counter > $(($(field "$counter") + 200))"
  await_progress 2
}

# shellcheck disable=SC2317
fio_errors () { sed -n '/^{/,$p' $work/fio.json | jq -r '.jobs[0].error'; }

start_device size=256M deadline=2s donors=$donor write-behind=16M \
  backing=/mnt/scratch/copy
map_all
half=$((128 << 11))
addpart $device 1 0 $half
addpart $device 2 $half $half
mkswap ${device}p1 >/dev/null
watch_ios
swapon ${device}p1
swap_pattern 32 --size 80M --rounds 1000 --stop-file $work/stop \
  >$work/pattern.out &
program=$!
fio --name=pair --filename=${device}p2 --size=128m --direct=1 \
  --ioengine=libaio --rw=randrw --bsrange=4k-16k --iodepth=4 --time_based \
  --runtime=600 --verify=crc32c --verify_fatal=1 --verify_backlog=64 \
  --verify_backlog_batch=64 --serialize_overlap=1 --verify_state_save=0 \
  --output-format=json --output=$work/fio.json 2>$work/fio.log &
fio=$!

await_reads donors
ended=$(sessions_ended)
is "the donor is used before the cut: $(use)" true
await "end of the session" session_ended_since "$ended"
await_progress 1
await "all slabs mapped again" status_is '.slabs.mapped == 16'
await_reads donors
ended=$(sessions_ended)
is "the donor is used after the cut: $(use)" true
await "end of the session" session_ended_since "$ended"
await_reads disk
is "all goes on without the donor's machine: $(use)" true

touch $work/stop
kill -INT $fio
status=0
wait $fio || status=$?
is "fio has found no error: $(fio_errors), status $status" \
  test "$(fio_errors)" = 0
status=0
wait $program || status=$?
is "the program has found no wrong byte: $(tail -n 1 $work/pattern.out), \
status $status" test $status = 0
is "swapoff" swapoff ${device}p1
end_watch
is "no I/O error in $ios I/Os, $open have not ended, $lost were not seen" \
  test "$((ios > 0)) $errors $open $lost" = "1 0 0 0"
is "no I/O longer than $limit_ms ms: the worst took $worst_ms ms" \
  test "$worst_ms" -le "$limit_ms"
is "all ends well" stop_all
done_testing
