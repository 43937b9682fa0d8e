#!/bin/bash
# The verbs fabric's tests, in a machine with two RDMA devices and a network
# without one; a donor that takes slabs back over verbs; one that many slabs wait
# for; and nothing of them is left on the devices afterwards.

set -u

# shellcheck disable=SC2016
test/vm/run --timeout 900 --disk 1G -- bash -c '
  set -e
  printf "%s\n" "link add d1 type dummy" "addr add 10.9.0.1/24 dev d1" \
    "link set d1 mtu 4300 up" "link add d2 type dummy" \
    "addr add 192.0.2.9/24 dev d2" "link set d2 up" | ip -batch -
  rdma link add rxe1 type rxe netdev d1
  before=$(rdma resource)
  status=0
  FABRIC_OTHER_ADDRESS=10.9.0.1 "$0/fabric/test_verbs" || status=$?
  for test in revocation map_time; do
    FABRIC_ADDRESS=10.7.0.1 "$0/donor/test_$test" || status=$?
  done
  test/vm/many-slabs || status=$?
  after=$(rdma resource)
  echo "$after"
  if [ "$before" = "$after" ]; then
    echo "ok 1 - nothing is left on the devices"
  else
    echo "not ok 1 - nothing is left on the devices; before: $before"
    status=1
  fi
  exit $status
' "${O:-build}/test/unit"
