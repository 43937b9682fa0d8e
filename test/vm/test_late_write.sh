#!/bin/bash
# A time-out with a WRITE outstanding, between two machines: the buffer is not
# reused before its completion, and nothing stale lands in memory that has gone
# to the next one.  Each is done wrong as well, to see that it would be noticed.
# See test/vm/late-write.c.

set -u

here=$(dirname "$(readlink -f "$0")")
O=$(readlink -f "${O:-build}")
shared=$(mktemp -d)
log=$shared/log
trap 'rm -rf "$shared"' EXIT
: >"$shared/restored"

# The experiments, and whose network is cut in each: what the borrower still
# sends is lost on its way, or does not leave it.
experiments=(reuse reuse-early next next-kept return return-kept
             reuse next return)
cuts=(b b b b b b a a a)

# A constant neighbour, so that nothing waits in a queue for its address.
# shellcheck disable=SC2016
neighbour='
  peer () {
    ip neigh replace 10.8.0.$1 lladdr 52:54:00:00:00:0$1 nud permanent \
      dev "$(ip -o -4 addr show to 10.8.0.0/24 | cut -d" " -f2)"
  }'
end='$'
"$here/run-pair" --timeout 600 --share "$shared" \
  --b "$neighbour; peer 1
       $O/test/vm/late-write donor 10.8.0.2:9400 ${experiments[*]}
       sleep 1000" \
  --a "$neighbour; peer 2
       $O/test/vm/late-write borrower 10.8.0.2:9400 ${experiments[*]} \
         < <(exec tail -f -s 0.1 ---disable-inotify $shared/restored)" \
  --control "n=0
       for machine in ${cuts[*]}; do
         n=\$((n + 1))
         wait_for a \"^\$n cut$end\" 120
         link \$machine off
         wait_for a \"^\$n restore$end\"
         wait_for b \"^\$n silent$end\"
         link \$machine on
         echo \$n >>$shared/restored
       done
       wait_for b \"^\$n .*: (clean|stale)$end\" 120" >"$log" 2>&1
status=$?

failed=0
# report STATUS TEXT
report ()
{
  [ "$1" = 0 ] || { echo -n "not "; failed=$((failed + 1)); }
  echo "ok $n - $2"
}

# Line of experiment n by machine $1 that has $2, without the number.
line () { sed -n "s/^$1: $n \(.*$2.*\)/\1/p" "$log" | head -n 1; }

n=0
for name in "${experiments[@]}"; do
  n=$((n + 1))
  figures="network of ${cuts[n - 1]} cut; $(line a 'timed out')"
  for figure in "$(line b 'ended the lane')" "$(line b 'stale byte')"; do
    figures+=${figure:+; $figure}
  done
  case $name in
    *-early | *-kept) is=stale ;;
    *) is=clean ;;
  esac
  grep -q "^b: $n $name: $is\$" "$log"
  report $? "$name is $is: $figures"
done
n=$((n + 1))
report $status "both ends and the network ended with status $status"
[ $failed = 0 ] || sed 's/^/# /' "$log"
echo "1..$n"
exit $((failed > 0))
