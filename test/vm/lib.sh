# What the tests in a virtual machine and the demo share: donors, a device on
# them that is /dev/nbd0, a program that swaps, and TAP.
# shellcheck shell=bash
#
# To be read with ".", after O is set where the programs are not in build/.

build=${O:-build}
work=/run/infiniswap-test
device=/dev/nbd0
slab_mib=16
pids=()                         # of nbdkit, then of donor 1, 2, ...
donor_options=()
count=0 failed=0

PATH=$PATH:/usr/sbin:/sbin
mkdir -p $work

# is NAME COMMAND...: a test that COMMAND succeeds.
is ()
{
  local name=$1 not=
  shift
  count=$((count + 1))
  "$@" || { not='not ' failed=1; }
  echo "${not}ok $count - $name"
}

# The end of a test; what the programs said is worth seeing if it failed.
done_testing ()
{
  trap - EXIT
  [ $failed = 0 ] || show_logs
  echo "1..$count"
  exit $failed
}

# The ends of all logs, and what the borrower said of its sessions before.
show_logs ()
{
  {
    tail -n 15 $work/*.log
    grep -sE 'connected|session' $work/nbdkit.log
  } | sed 's/^/# /'
}

die ()
{
  trap - EXIT
  echo "not ok $((count + 1)) - $*"
  show_logs
  exit 1
}
trap 'die "line $LINENO, status $?"' EXIT

# status [I]: of the device, or of donor I.
status () { "$build/infiniswapctl" status --json "$work/${1-device}.state"; }
# field EXPRESSION [I]: what jq says to that.
field () { status ${2+"$2"} | jq -r "$1"; }

# status_is CONDITION [I]: it is true of the status.
status_is () { [ "$(field "$@" 2>/dev/null)" = true ]; }

# await WHAT COMMAND...: until COMMAND succeeds.
await ()
{
  local what=$1 end=$((SECONDS + 120))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || die "$what: not within 120 s"
    sleep 0.1
  done
}

# start_donors I...: on 10.7.0.I; donor_options for all.
start_donors ()
{
  local i
  for i in "$@"; do
    "$build/infiniswap-donor" --listen "10.7.0.$i:9400" --fabric verbs \
      --slab-size ${slab_mib}M --headroom 256M --state "$work/$i.state" \
      "${donor_options[@]}" 2>"$work/donor$i.log" &
    pids[i]=$!
  done
  for i in "$@"; do
    timeout 60 grep -q 'lending on' <(tail -n +1 -f --pid="${pids[i]}" \
      "$work/donor$i.log") || die "donor $i does not start"
  done
}

# start_device KEY=VALUE...: connected to all its donors, and attached.
start_device ()
{
  nbdkit -f -t 4 -U $work/sock "$build/nbdkit-infiniswap-plugin.so" \
    slab-size=${slab_mib}M fabric=verbs hot-slab=0 \
    state=$work/device.state "$@" 2>$work/nbdkit.log &
  pids[0]=$!
  await "connections to the donors" status_is \
    'all (.donors[]; .state == "connected" and .fabric == "verbs")'
  nbd-client -unix $work/sock $device -C 4 -b 4096 >/dev/null 2>&1
}

# A write to each slab has it placed.
map_all ()
{
  local slab slabs
  slabs=$(field .device.slabs)
  for ((slab = 0; slab < slabs; slab++)); do
    dd if=/dev/zero of=$device bs=4096 count=1 oflag=direct status=none \
      seek=$((slab * slab_mib * 256))
  done
  await "a donor for each slab" status_is ".slabs.mapped == $slabs"
}

# swap_pattern MIB OPTION...: in the background, in so much memory; with its
# progress in a log.
swap_pattern ()
{
  local group=/sys/fs/cgroup/program
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control
  mkdir -p $group
  echo "$1M" >$group/memory.max
  echo $BASHPID >$group/cgroup.procs
  shift
  exec "$build/test/vm/swap-pattern" "$@" 2>>$work/progress.log
}

# await_progress N: until it has got on by N lines; a round has 20.
await_progress ()
{
  await "progress" has_lines $(($(wc -l <$work/progress.log) + $1))
}
has_lines () { [ "$(wc -l <$work/progress.log)" -ge "$1" ]; }

# kill_donor I: as a power failure would.
kill_donor ()
{
  kill -KILL "${pids[$1]}"
  wait "${pids[$1]}" 2>/dev/null || :
  unset "pids[$1]"
}

# Detach the device and stop all programs; 0 if all went well.
stop_all ()
{
  local i status=0
  nbd-client -d $device >/dev/null || status=1
  for i in "${!pids[@]}"; do
    kill "${pids[i]}"
    wait "${pids[i]}" || { echo "# program $i stopped with $?"; status=1; }
  done
  return $status
}
