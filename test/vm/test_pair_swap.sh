#!/bin/bash
# The real programs in two machines, over verbs: the network is cut for 5 s
# under load and restored, and later the donor's machine is lost.  No I/O error,
# no wrong byte, no I/O longer than the deadline and a second; and the donor is
# used again once the network is back.
#
# Without arguments it runs itself as "borrower" and "donor" in the machines.
# SLOWDOWN=N: a slow host may take N times as long for an I/O.
set -eu

build=${O:-build}
work=/run/test-pair-swap
donor=10.8.0.2:9400
cut_s=5
# deadline=2s, and a second
limit_ms=$(awk "BEGIN { print int (3000 * ${SLOWDOWN:-1}) }")

say () { printf '%s\n' "$*"; }
field () { "$build/infiniswapctl" status --json $work/state | jq -r "$1"; }
# shellcheck disable=SC2317
status_is () { [ "$(field "$1" 2>/dev/null)" = true ]; }
# The log tells of sessions that a look at the status may miss.
sessions_ended () { grep -c 'session ended' $work/nbdkit.log || :; }
# shellcheck disable=SC2317
session_ended_since () { [ "$(sessions_ended)" -gt "$1" ]; }

# Until COMMAND... succeeds.
await ()
{
  local end=$((SECONDS + 120))
  until "$@"; do
    [ $SECONDS -lt $end ] || { say "not within 120 s: $*"; exit 1; }
    kill -0 "$server" $fio || { say "nbdkit or fio ended early"; exit 1; }
    sleep 0.2
  done
}

# What the donor is used for.
use ()
{
  field '"\(.slabs.mapped) slabs mapped, " +
         "\(.counters.pages_read_donors) pages read from donors"'
}

# Until many more pages than now were read from $1: donors or disk.
await_reads ()
{
  local counter=.counters.pages_read_$1
  await status_is "$counter > $(($(field "$counter") + 200))"
}

borrower ()
{
  local ended
  mkdir -p $work
  server='' fio=''
  trap 'cat $work/nbd-client.log $work/fio.log; field . || :' EXIT
  nbdkit -f -U $work/sock "$build/nbdkit-infiniswap-plugin.so" size=128M \
    slab-size=16M hot-slab=0 deadline=2s fabric=verbs donors=$donor \
    backing=/mnt/scratch/copy write-behind=16M state=$work/state \
    2> >(exec tee $work/nbdkit.log) &
  server=$!
  await status_is '.donors[0].state == "connected"'
  nbd-client -unix $work/sock /dev/nbd0 -C 2 -b 4096 >$work/nbd-client.log 2>&1
  fio --name=pair --filename=/dev/nbd0 --direct=1 --ioengine=libaio \
    --rw=randrw --bsrange=4k-16k --iodepth=4 --size=128m --time_based \
    --runtime=600 --verify=crc32c --verify_fatal=1 --verify_backlog=64 \
    --verify_backlog_batch=64 --serialize_overlap=1 --verify_state_save=0 \
    --output-format=json --output=$work/fio.json 2>$work/fio.log &
  fio=$!

  await status_is '.slabs.mapped == 8'
  await_reads donors
  ended=$(sessions_ended)
  say "used: $(use)"
  await session_ended_since "$ended"
  await status_is '.slabs.mapped == 8'
  await_reads donors
  ended=$(sessions_ended)
  say "used again: $(use)"
  await session_ended_since "$ended"
  await_reads disk
  say "lost: $(use)"
  finish
}

finish ()
{
  kill -INT "$fio"
  wait "$fio" || :
  sed -n '/^{/,$p' $work/fio.json | jq -r '.jobs[0] |
    "errors: \(.error)", "ios: \(.read.total_ios + .write.total_ios)",
    "worst: \([.read, .write | .clat_ns.max] | max / 1e6 | floor)"'
  nbd-client -d /dev/nbd0 >/dev/null
  kill "$server"
  wait "$server"
  trap - EXIT
  say "stopped"
}

case ${1-} in
  borrower) borrower; exit ;;
  donor)
    exec "$build/infiniswap-donor" --listen $donor --fabric verbs \
      --slab-size 16M --memory 256M --headroom 256M
    ;;
esac

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
test/vm/run-pair --timeout 600 --disk 512M --env O="$build" \
  --a "$0 borrower" --b "$0 donor" \
  --control "wait_for a '^used:' 300
             link b off
             sleep $cut_s
             link b on
             wait_for a '^used again:' 120
             power_off b
             wait_for a '^stopped' 120" >"$log" 2>&1 || status=$?

value () { sed -n "s/^a: $1: *//p" "$log"; }
n=0 failed=0
# is NAME COMMAND...
is ()
{
  local name=$1 not=
  shift
  n=$((n + 1))
  "$@" || { not='not ' failed=1; }
  echo "${not}ok $n - $name"
}

errors=$(value errors) worst_ms=$(value worst)
is "the donor is used before the cut: $(value used)" test -n "$(value used)"
is "the donor is used again after $cut_s s without network:\
 $(value 'used again')" test -n "$(value 'used again')"
is "the loss of the donor's machine is noticed: $(value lost)" \
  test -n "$(value lost)"
is "no I/O error and no wrong byte in $(value ios) I/Os" test "$errors" = 0
is "no I/O longer than $limit_ms ms: the worst took ${worst_ms:-?} ms" \
  test "${worst_ms:-$((limit_ms + 1))}" -le "$limit_ms"
is "all ended well: status $status" test $status = 0
[ $failed = 0 ] || sed 's/^/# /' "$log"
echo "1..$n"
exit $failed
