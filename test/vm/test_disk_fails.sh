#!/bin/bash
# The disk of the local copy fails under live swap, while the donors are well:
# the program goes on, and no byte is wrong, even if a donor takes a slab back
# meanwhile.  When the disk works again, all is saved on it.
# Without arguments it runs itself in a virtual machine.
#
# SLOWDOWN=N: a slow host may take N times as long to save all.
set -eu

if [ $# = 0 ]; then
  exec test/vm/run --timeout 600 --disk 512M --memory 2560 \
    --env O="${O:-build}" --env SLOWDOWN="${SLOWDOWN:-1}" -- "$0" inside
fi
# shellcheck source=test/vm/lib.sh
. test/vm/lib.sh

# Small, so that a slab moves as a whole within half the deadline even in a busy
# emulated machine: what does not is lost while the disk fails.
slab_mib=4
donor_options=(--memory 384M)
save_s=$(awk "BEGIN { print int (30 * $SLOWDOWN) }")

# disk_is TARGET [ARG...]: what the device-mapper does with all I/O.  There is
# no udev to wait for.
export DM_DISABLE_UDEV=1
sectors=$(blockdev --getsz /dev/vda)
works="linear /dev/vda 0"
disk_is ()
{
  dmsetup reload copy --table "0 $sectors $*"
  dmsetup suspend --nolockfs copy
  dmsetup resume copy
}

counter () { field ".counters.$1"; }
off_copy () { counter pages_not_on_local_copy; }

# evict I COUNT|all: slabs of donor I, which really has them back.
# shellcheck disable=SC2317
evict ()
{
  local before
  before=$(field .counters.evictions_done "$1")
  "$build/infiniswapctl" evict "$work/$1.state" "$2" | sed 's/^/# /'
  status_is ".counters | .evictions_done > $before and
             .evictions_unanswered == 0" "$1"
}

umount /mnt/scratch
modprobe dm_mod
dmsetup create copy --table "0 $sectors $works"
start_donors 1 2 3
start_device size=96M deadline=4s backing=/dev/mapper/copy lock=require \
  donors=10.7.0.1:9400,10.7.0.2:9400,10.7.0.3:9400
map_all
mkswap $device >/dev/null
swapon $device
swap_pattern 24 --size 64M --rounds 1000 --stop-file $work/stop \
  >$work/pattern.out &
program=$!
await "swapping" status_is '.counters.pages_read_donors > 1000'

errors=$(counter backing_errors)
disk_is error
await "a refused write" status_is ".counters.backing_errors > $errors"
disk_is "$works"
await "no page off the local copy" \
  status_is '.counters.pages_not_on_local_copy == 0'
is "a short failure, of $(($(counter backing_errors) - errors)) writes, leaves \
no page off the local copy" test "$(counter io_errors)" = 0

disk_is error
disk=$(counter pages_read_disk) donors=$(counter pages_read_donors)
await_progress 3
await "pages that the disk refused" \
  status_is '.counters.pages_not_on_local_copy > 0'
donors=$(($(counter pages_read_donors) - donors))
disk=$(($(counter pages_read_disk) - disk))
is "while the disk fails the program goes on, $donors pages from donors, \
$disk from disk" test $donors -gt 1000
is "the status tells: $(counter backing_errors) errors, $(off_copy) pages not \
on the local copy" test "$(counter backing_errors)" -gt 0

for i in 1 2 3; do
  is "donor $i has slabs back while the disk fails" evict $i 2
done
await "slabs that move" status_is '.counters.slabs_moved >= 6'
await_progress 3
is "their pages have moved: $(counter slabs_moved) slabs, \
$(counter io_errors) I/O errors" test "$(counter io_errors)" = 0

left=$(off_copy) since=$SECONDS
disk_is "$works"
await "all saved" status_is '.counters.pages_not_on_local_copy == 0'
took=$((SECONDS - since))
is "when the disk works again $left pages are saved in $took s" \
  test "$took" -le "$save_s" -a "$(counter pages_saved)" -gt 0

disk=$(counter pages_read_disk)
is "then a donor has all slabs back" evict 1 all
await "pages from disk" status_is ".counters.pages_read_disk > $((disk + 100))"
await_progress 5
is "and their pages come from disk: $(($(counter pages_read_disk) - disk))" \
  kill -0 $program

touch $work/stop
status=0
wait $program || status=$?
is "the program has found no wrong byte: $(tail -n 1 $work/pattern.out), \
status $status" test $status = 0
is "no I/O error: $(counter io_errors)" test "$(counter io_errors)" = 0
is "swapoff" swapoff $device
is "all ends well" stop_all
is "and nobody uses the disk any more" dmsetup remove copy
done_testing
