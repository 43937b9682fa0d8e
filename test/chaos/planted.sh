#!/bin/bash
# The model test is itself tested: a bug planted into a copy of the sources is
# found within a minute.
#
#   test/chaos/planted.sh [PLANT...]      (default: all)
set -eu

build=$(realpath "${O:-build}")
here=$(dirname "$(readlink -f "$0")")
top=${here%/test/chaos}

# Edits FILE of the copy with sed; it must change.
edit ()
{
  local file=$1
  shift
  sed -i.unplanted "$@" "$file"
  ! cmp -s "$file" "$file.unplanted" || {
    echo "$file is no longer as the plant expects it"
    return 1
  }
}

# Each plant: what it is, and how it is made.
plants=(
  bits-kept slot-reused two-writers slot-overlooked zeros-forgotten
  lost-unnoticed
)
meaning ()
{
  case $1 in
    bits-kept) echo "page bits are not cleared when a slab is drained" ;;
    slot-reused) echo "a slot is free before its local write has ended" ;;
    two-writers) echo "a page may have two writers at once" ;;
    slot-overlooked) echo "a flush does not wait for the slots" ;;
    zeros-forgotten) echo "a flush does not zero discarded pages" ;;
    lost-unnoticed) echo "a page lost with its donor is read from the disk" ;;
  esac
}
plant ()
{
  case $1 in
    bits-kept)
      edit nbdkit-plugin/slab_table.c \
        '/^forget_remote (/,/^}/ s/\*w &= ~(.*;/(void) w;/' ;;
    slot-reused)
      edit nbdkit-plugin/write_behind.c \
        -e '/slot_pool_written (w->pool, slots, n, r);/d' \
        -e '/^ *int r = write_run (/ i\
            slot_pool_written (w->pool, slots, n, 0);' ;;
    two-writers)
      edit nbdkit-plugin/page_order.c \
        '/^must_wait (/,/^}/ { s/^  return .*/  return false;/
                               s/^      return true;/      return false;/ }' ;;
    slot-overlooked)
      edit nbdkit-plugin/slot_pool.c \
        '/^slot_pool_flush (/,/^}/ s/^  while (.*/  while (false \&\&/' ;;
    zeros-forgotten)
      edit nbdkit-plugin/backing.c \
        's/^  if (fallocate (b->fd, FALLOC_FL_ZERO_RANGE.*/  if (len > 0)/' ;;
    lost-unnoticed)
      edit nbdkit-plugin/slab_table.c \
        's/SOURCE_DONOR : SOURCE_LOST;/SOURCE_DONOR : SOURCE_DISK;/' ;;
  esac
}

n=0 failed=0
# Plant a bug and see whether it is found.
try ()
{
  local copy=$build/planted/$1 log=$build/planted/$1.log not='' found start
  n=$((n + 1))
  rm -rf "$copy"
  mkdir -p "$copy"
  cp -r "$top"/{Makefile,nbdkit-plugin,fabric,placement,conf} "$copy"
  (cd "$copy" && plant "$1" &&
     make CFLAGS='-O2 -g -Wno-error' O=build \
       build/nbdkit-infiniswap-plugin.so) >"$log" 2>&1 || {
    sed 's/^/# /' "$log"
    echo "not ok $n - planted: $1 cannot be built"
    failed=1
    return
  }
  start=$SECONDS
  PLUGIN=$copy/build/nbdkit-infiniswap-plugin.so CHAOS_SECONDS=60 \
    "$here/test_chaos.py" >"$log" 2>&1 || :
  # The program that loads the device has noticed, or the server is no more.
  found=$(sed -n 's/^# AssertionError: the load has failed: .*failed: //p
                  s/^# nbdkit ended by itself.*/nbdkit has ended/p' "$log" |
            head -n 1)
  [ -n "$found" ] || {
    not='not ' failed=1
    tail -n 40 "$log" | sed 's/^/# /'
  }
  echo "${not}ok $n - planted: $(meaning "$1"):" \
    "after $((SECONDS - start)) s: ${found:-not found}"
  [ -n "$not" ] || rm -rf "$copy"
}

cd "$top"
[ $# = 0 ] || plants=("$@")
echo "1..${#plants[@]}"
for plant in "${plants[@]}"; do
  try "$plant"
done
exit $failed
