#!/bin/bash
# A program on the donor's machine needs the memory that is lent: it allocates
# 64 MiB every 250 ms until only the headroom is left, holds it, and ends.  The
# machine's free memory is back above the headroom within 2 s, the program is
# not killed, the borrower sees neither an I/O error nor a wrong byte, and when
# the program has ended all is lent again.
#
# Two machines over verbs, so that the donor's memory is its own.  Without
# arguments it runs itself in them as "borrower" and "donor".
#
# SQUEEZE_DIR=DIR   leave the samples there: samples.tsv
# SQUEEZE_VIEW=1    no test, but for the eye: slower, and longer before and after
# HEADROOM=MIB      of the donor's 1024 MiB [128]
# SLOWDOWN=N        free memory may be below the headroom N times as long
set -eu

build=${O:-build}
work=/run/test-squeeze
donor=10.8.0.2:9400
headroom=${HEADROOM:-128}
slab_mib=16 slabs=24
limit_ms=$(awk "BEGIN { print int (2000 * ${SLOWDOWN:-1}) }")

say () { printf '%s\n' "$*"; }

# Until COMMAND... succeeds, or SECONDS are over.
await ()
{
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || { say "not in time: $*"; exit 1; }
    sleep 0.2
  done
}

borrower ()
{
  local server fio
  mkdir -p $work
  trap 'cat $work/*.log; cat $work/fio.json' EXIT
  nbdkit -f -U $work/sock "$build/nbdkit-infiniswap-plugin.so" \
    size=$((slabs * slab_mib))M slab-size=${slab_mib}M hot-slab=0 \
    fabric=verbs donors=$donor backing=/mnt/scratch/copy write-behind=16M \
    state=$work/state 2> >(exec tee $work/nbdkit.log) &
  server=$!
  await 60 test -S $work/sock
  nbd-client -unix $work/sock /dev/nbd0 -C 2 -b 4096 >$work/nbd-client.log 2>&1
  fio --name=squeeze --filename=/dev/nbd0 --direct=1 --ioengine=libaio \
    --rw=randrw --bsrange=4k-16k --iodepth=4 --size=$((slabs * slab_mib))m \
    --time_based --runtime=600 --verify=crc32c --verify_fatal=1 \
    --verify_backlog=64 --verify_backlog_batch=64 --serialize_overlap=1 \
    --verify_state_save=0 --output-format=json --output=$work/fio.json \
    2>$work/fio.log &
  fio=$!

  until [ -e "$SHARED/done" ]; do
    kill -0 "$server" $fio || { say "nbdkit or fio ended early"; exit 1; }
    sleep 0.5
  done
  kill -INT $fio
  wait $fio || :
  sed -n '/^{/,$p' $work/fio.json | jq -r '.jobs[0] |
    "errors: \(.error)", "ios: \(.read.total_ios + .write.total_ios)",
    "worst: \([.read, .write | .clat_ns.max] | max / 1e6 | floor)"'
  nbd-client -d /dev/nbd0 >/dev/null
  kill "$server"
  wait "$server"
  trap - EXIT
}

field () { "$build/infiniswapctl" status --json $work/state | jq -r "$1"; }
# shellcheck disable=SC2317
lent () { [ "$(field .slabs.lent)" -ge "$1" ]; }

donor ()
{
  local size before sampler
  mkdir -p $work
  trap 'cat $work/donor.log' EXIT
  "$build/infiniswap-donor" --listen $donor --fabric verbs \
    --slab-size ${slab_mib}M --headroom "${headroom}M" --lock require \
    --state $work/state 2>$work/donor.log &
  await 60 grep -q 'lending on' $work/donor.log
  nice -n -10 "$build/test/vm/donor-sampler" $work/state \
    >"$SHARED/samples.tsv" &
  sampler=$!

  await 120 lent $slabs
  [ -z "${SQUEEZE_VIEW-}" ] || sleep 10
  read -r before size <<<"$(field '"\(.slabs.lent) \(.memory |
    (.available_bytes + .held_bytes) / 1048576 | floor)"')"
  # All that is neither others' nor headroom, but what its page tables and
  # the like may take.
  size=$((size - headroom - 32))
  say "before: $before slabs lent"
  "$build/test/vm/hog" ${size}M 64M "${SQUEEZE_EVERY:-250ms}" 8s \
    >$work/hog.log 2>&1 || say "hog: status $?"
  say "hog: $(tr '\n' ';' <$work/hog.log)"
  say "during: $(field .slabs.lent) slabs lent"
  await 90 lent "$before"
  say "after: $(field .slabs.lent) slabs lent"
  [ -z "${SQUEEZE_VIEW-}" ] || sleep 10
  say "killed: $(dmesg | grep -c 'Out of memory' || :)"
  kill $sampler
  trap - EXIT
  touch "$SHARED/done"
  wait
}

case ${1-} in
  borrower) borrower; exit ;;
  donor) donor; exit ;;
esac

SHARED=$(mktemp -d)
trap 'rm -rf "$SHARED"' EXIT
log=$SHARED/log
status=0
test/vm/run-pair --timeout 600 --disk 1G --share "$SHARED" --env O="$build" \
  --env SHARED="$SHARED" --env HEADROOM="$headroom" \
  --env SQUEEZE_VIEW --env SQUEEZE_EVERY \
  --a "$0 borrower" --b "$0 donor" \
  --control "wait_for b '^killed:' 500" >"$log" 2>&1 || status=$?
if [ -n "${SQUEEZE_DIR-}" ]; then
  mkdir -p "$SQUEEZE_DIR"
  cp "$SHARED/samples.tsv" "$log" "$SQUEEZE_DIR"
fi

# From the last sample above the headroom to the next one, at worst; and the
# least there was.  Samples that do not come count as the one before.
read -r below_ms least <<<"$(awk -F '\t' -v headroom="$headroom" '
  NR == 1 { next }
  NR == 2 { above = $1; least = $2 }
  $2 < least { least = $2 }
  $2 < headroom { below = 1; next }
  below && $1 - above > worst { worst = $1 - above }
  { above = $1; below = 0; }
  END { if (below) worst = 999999
        print worst + 0, least + 0 }' "$SHARED/samples.tsv")"
# Of a column: its least, its most, its last.
of ()
{
  awk -F '\t' -v name="$1" -v what="$2" '
    NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i; next }
    NR == 2 { least = most = $c }
    $c < least { least = $c }
    $c > most { most = $c }
    END { print what == "least" ? least : what == "most" ? most : $c }
    ' "$SHARED/samples.tsv"
}
value () { sed -n "s/^[ab]: $1: *//p" "$log"; }
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

errors=$(value errors) asked=$(of asked last)
is "slabs are lent before: $(value before)" \
  test "$(value before)" = "$slabs slabs lent"
is "the program gets its memory, and is not killed: $(value hog)" \
  grep -q '^b: hog: .*;ends;$' "$log"
is "nor is any other: $(value killed) killed" test "$(value killed)" = 0
is "free memory is below $headroom MiB for $below_ms ms at most ($limit_ms\
 allowed); the least was $least MiB" test "$below_ms" -le "$limit_ms"
is "slabs are taken back: $(value during) then; $asked evictions asked,\
 $(of "done" last) done" test "$asked" -gt 0
is "every borrower asked gives them back" test "$(of unanswered last)" = 0
is "the donor lends again: $(value after)" \
  test "$(value after)" = "$slabs slabs lent"
is "no I/O error and no wrong byte in $(value ios) I/Os, the worst of\
 $(value worst) ms" test "$errors" = 0
is "all ended well: status $status" test $status = 0
[ $failed = 0 ] || sed 's/^/# /' "$log"
echo "1..$n"
exit $failed
