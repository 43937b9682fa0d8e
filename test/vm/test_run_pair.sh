#!/bin/bash
# Tests test/vm/run-pair: the machines reach each other over RDMA, the network
# can be cut and restored, and a machine can be lost.

set -u

here=$(dirname "$(readlink -f "$0")")
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# rping ends with an error if a single message is lost or wrong, and if the other
# machine does not listen yet.
# shellcheck disable=SC2016
"$here/run-pair" --timeout 300 \
  --a 'until rping -c -a 10.8.0.2 -C 1 2>/dev/null; do sleep 0.2; done
       stdbuf -oL rping -v -c -a 10.8.0.2 -C 500 && echo rping went well
       ip="ip -br link show dev eth0"
       until $ip | grep "eth0 *DOWN"; do sleep 0.1; done
       echo no carrier
       until $ip | grep "eth0 *UP"; do sleep 0.1; done
       echo carrier again
       while busybox ping -c 1 -W 1 10.8.0.2 >/dev/null; do sleep 0.1; done
       echo b is gone
       exit 4' \
  --b 'rping -s -P -a 10.8.0.2; sleep 1000' \
  --control 'pings () { grep -c "ping data" "$VM_PAIR/a.log"; }
             wait_for a ping-10:
             network off
             sleep 1
             before=$(pings)
             sleep 2
             [ "$(pings)" -ne $before ] || echo silence
             [ "$before" -lt 500 ]
             network on
             wait_for a "rping went well" 120
             link a off
             wait_for a "no carrier"
             link a on
             wait_for a "carrier again"
             power_off b
             wait_for a "b is gone"' >"$log" 2>&1
status=$?

count=0 failed=0
# is NAME COMMAND...
is ()
{
  local name=$1
  shift
  count=$((count + 1))
  if "$@" >/dev/null; then
    echo "ok $count - $name"
  else
    echo "not ok $count - $name"
    failed=$((failed + 1))
  fi
}

is "a's status is passed on" test $status -eq 4
is "nothing passes a network that is cut" grep -q '^control: silence' "$log"
is "RDMA goes on when it is restored" grep -q '^a: rping went well' "$log"
is "a cable can be pulled and put back" grep -q "^a: carrier again" "$log"
is "a machine can be lost" grep -q '^a: b is gone' "$log"
[ $failed -eq 0 ] || sed 's/^/# /' "$log"
echo "1..$count"
exit $((failed > 0))
