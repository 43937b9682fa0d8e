#!/bin/bash
# Donors found through SRV records of a real DNS server, dnsmasq: one added and
# one removed while the kernel swaps to them over verbs, without a restart.
# Without arguments it runs itself in a virtual machine.
set -eu

if [ $# = 0 ]; then
  exec test/vm/run --timeout 900 --disk 1G --memory 2560 \
    --env O="${O:-build}" -- "$0" inside
fi
# shellcheck source=test/vm/lib.sh
. test/vm/lib.sh

service=_infiniswap._tcp.example.org
dns=

# publish I...: DNS knows these donors.
publish ()
{
  local i
  {
    printf '%s\n' no-resolv no-hosts user=root listen-address=127.0.0.1 \
      bind-interfaces log-facility=- pid-file= local=/example.org/
    for i in "$@"; do
      echo "host-record=n$i.example.org,10.7.0.$i"
      echo "srv-host=$service,n$i.example.org,9400"
    done
  } >$work/dnsmasq.conf
  if [ -n "$dns" ]; then
    kill "$dns"
    wait "$dns" || :
  fi
  dnsmasq --keep-in-foreground --conf-file=$work/dnsmasq.conf \
    2>>$work/dnsmasq.log &
  dns=$!
}

# donor I CONDITION: what is true of it in the device's status.
# shellcheck disable=SC2317
donor ()
{
  status_is "any (.donors[]; .address == \"n$1.example.org:9400\" and ($2))"
}
# shellcheck disable=SC2317
gone () { ! donor "$1" true; }

echo 'nameserver 127.0.0.1' >$work/resolv.conf
mount --bind $work/resolv.conf "$(readlink -f /etc/resolv.conf)"
start_donors 1 2 3
publish 1 2
start_device size=192M backing=/mnt/scratch/copy donors=srv:$service \
  resolve-interval=1s
await "two donors" status_is '[.donors[] |
  select (.state == "connected" and .fabric == "verbs")] | length == 2'
mkswap $device >/dev/null
swapon -p 100 $device

(swap_pattern 48 --size 96M --rounds 1000 --stop-file $work/stop) \
  >$work/pattern &
pattern=$!
await "the program" test -s $work/progress.log
await_progress 12
is "swapping to the two that DNS names" status_is \
  'all (.donors[]; .slabs > 0) and (.donors | length) == 2'

publish 1 2 3
await "the third" donor 3 '.state == "connected"'
await_progress 5
# It has none, and so is asked first when a slab is placed anew.
"$build/infiniswapctl" evict --timeout 20s $work/1.state 1 >/dev/null
await "slabs on the third" donor 3 '.slabs > 0'
is "a donor that was added is used while the kernel swaps" kill -0 $pattern

publish 2 3
await "the first to leave" gone 1
is "one that was removed has all its slabs back" status_is \
  '.slabs.lent == 0 and (.sessions | length) == 0' 1
await "all slabs with the others" status_is \
  '.slabs.mapped > 0 and ([.donors[].slabs] | add) == .slabs.mapped'
await_progress 8
is "the program goes on" kill -0 $pattern

kill $dns
wait $dns || :
dns=
await "DNS is missed" status_is '.services[0].error != null'
await_progress 5
is "without DNS the donors stay" status_is \
  '(.donors | length) == 2 and all (.donors[]; .state == "connected")'

touch $work/stop
status=0
wait $pattern || status=$?
is "no wrong byte: $(tail -n 1 $work/pattern), status $status" test $status = 0
is "no I/O error" status_is '.counters.io_errors == 0'
is "no session has failed" status_is 'all (.donors[]; .failures == 0)'
# shellcheck disable=SC2317
no_kernel_error () { ! dmesg | grep -E 'I/O error|Read-error'; }
is "nothing in the kernel's log" no_kernel_error
grep 'service\|donor' $work/nbdkit.log | sed 's/^/# /'
swapoff $device
is "all ends well" stop_all
done_testing
