#!/bin/bash
# infiniswapctl attach and detach: under load, with a failure at each step,
# with connections, the server or the supervisor killed.  Each failure is told
# in one line, and leaves nothing behind.
# Without arguments it runs itself in a virtual machine.
#
# TIMES=N: attach and detach under load so often.
set -eu

times=${TIMES:-3}
if [ $# = 0 ]; then
  exec test/vm/run --timeout $((400 + 20 * times)) --disk 1G --memory 2048 \
    --env O="${O:-build}" --env TIMES="$times" -- "$0" inside
fi
# shellcheck source=test/vm/lib.sh
. test/vm/lib.sh

isw=isw0
files=/run/infiniswap
copy=/mnt/scratch/copy
out=$work/out
group=/sys/fs/cgroup/program
ln -s $files/$isw.sock $work/device.state
export TMPDIR=/mnt/scratch      # of the local copy
donor_options=(--memory 256M)

# attach KEY=VALUE...
attach ()
{
  "$build/infiniswapctl" attach $isw connections=4 \
    --plugin "$build/nbdkit-infiniswap-plugin.so" slab-size=${slab_mib}M \
    hot-slab=0 donors=10.7.0.1:9400,10.7.0.2:9400 "$@" >$out 2>&1
}
detach () { "$build/infiniswapctl" detach "$@" $isw >$out 2>&1; }

attached () { grep -q '^/dev/nbd0 ' /proc/swaps && [ -S $files/$isw.sock ]; }
supervisor () { pgrep -f '^@infiniswap'; }
server () { pgrep -f '^@nbdkit'; }
mib_out () { awk '$1 == "/dev/nbd0" { print int ($4 / 1024) }' /proc/swaps; }
says () { grep -q -- "$*" $out || { sed 's/^/# said: /' $out; return 1; }; }

nothing_left ()
{
  ! supervisor >/dev/null && ! server >/dev/null && [ -z "$(ls -A $files 2>/dev/null)" ] &&
    [ -z "$(ls -d /sys/block/nbd0/pid 2>/dev/null)" ] &&
    ! grep -q nbd /proc/swaps
}

# fails WHAT MESSAGE COMMAND...: COMMAND fails, with MESSAGE and nothing left.
fails ()
{
  local what=$1 message=$2 status=0
  shift 2
  "$@" || status=$?
  is "$what: it fails" [ $status = 1 ]
  is "$what: the message" says "$message"
  is "$what: one line" [ "$(grep -vc 'infiniswap: ' $out)" = 1 ]
  is "$what: nothing left" nothing_left
}

# ---- a program that swaps, and whose limit comes and goes ----

limit () { echo "$1" >$group/memory.max; }

# start_program OPTION...
start_program ()
{
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control
  mkdir -p $group
  rm -f $work/go $work/stop
  (echo $BASHPID >$group/cgroup.procs
   exec "$build/test/vm/swap-pattern" --size 160M --stop-file $work/stop \
     "$@" >$work/report 2>>$work/progress.log) &
  program=$!
}
swaps_out () { [ "$(mib_out)" -ge 60 ]; }
end_program () { touch $work/stop $work/go; wait $program; }
checked () { grep -q 'checking half' $work/report; }

# ---- the tests ----

under_load ()
{
  local i
  start_program --rounds 100000
  for ((i = 0; i < times; i++)); do
    attach size=256M || { says nothing; return 1; }
    limit 60M
    await "pages swapped out" swaps_out
    limit max
    detach || { says nothing; return 1; }
    nothing_left || return 1
  done
  end_program
}

twice ()
{
  attach size=256M backing=$copy
  is "attached" attached
  is "attached again" attach size=256M backing=$copy
  is "attached again: says so" says "attached already, as /dev/nbd0"
  is "attached with another configuration: it fails" \
    eval '! attach size=256M backing=$copy priority=7'
  is "attached with another configuration" says "with another configuration"
  is "the priority" grep -q '^/dev/nbd0 .*[^0-9]100$' /proc/swaps
  is "detached" detach
  is "detached: nothing left" nothing_left
  is "detached again" detach
  is "detached again: says so" says "not attached"
}

check_machine ()
{
  "$build/infiniswapctl" check --plugin "$build/nbdkit-infiniswap-plugin.so" \
    >$out 2>&1
}

failing_steps ()
{
  is "check: nothing is missing" check_machine
  is "check: the RDMA device" says "^ok  *RDMA: rxe0, port 1, MTU 4096"
  rmmod nbd
  is "check: no nbd module" eval '! check_machine'
  is "check: no nbd module: the message" says "^missing  *nbd: "
  fails "no nbd module" "modprobe nbd" attach size=256M
  modprobe nbd nbds_max=4

  fails "no donor" "no donor is connected (10.7.0.9:9400: " \
    attach size=256M donors=10.7.0.9:9400
  fails "a wrong key" "sise=1: unknown key" attach size=256M sise=1
  fails "no folder for the backing" "/nonexistent" \
    attach size=256M backing=/nonexistent/copy

  nbdkit -f -U $work/other.sock memory 64M 2>/dev/null &
  local other=$!
  await "another server" [ -S $work/other.sock ]
  nbd-client -unix $work/other.sock /dev/nbd1 >/dev/null 2>&1
  fails "a device of others" "/dev/nbd1 is in use by others" \
    attach size=256M device=/dev/nbd1
  is "a device of others: still theirs" [ -e /sys/block/nbd1/pid ]
  nbd-client -d /dev/nbd1 >/dev/null
  kill $other
  wait $other || :

  mkdir $work/bin
  printf '#!/bin/sh\necho "mkswap: no, thanks" >&2; exit 1\n' \
    >$work/bin/mkswap
  chmod +x $work/bin/mkswap
  PATH=$work/bin:$PATH fails "mkswap fails" "mkswap: no, thanks" \
    attach size=256M
  # Without an area, swapon has nothing to use.
  printf '#!/bin/sh\nexit 0\n' >$work/bin/mkswap
  PATH=$work/bin:$PATH fails "swapon fails" "swapon /dev/nbd0 failed" \
    attach size=256M

  truncate -s 64M $copy.fs
  mkfs.ext4 -q -b 4096 $copy.fs
  local before
  before=$(sha256sum <$copy.fs)
  fails "a backing with a file system" "is not blank (ext4)" \
    attach backing=$copy.fs
  is "a backing with a file system: unchanged" \
    [ "$(sha256sum <$copy.fs)" = "$before" ]
  is "the same with swap=no" attach backing=$copy.fs swap=no
  mount /dev/nbd0 /mnt
  is "detaching what is mounted fails" eval '! detach'
  is "detaching what is mounted" says "is still in use (mounted?)"
  touch /mnt/file
  umount /mnt
  is "detaching what was mounted" detach
  is "the file system is whole" e2fsck -fn $copy.fs
}

unprotected ()
{
  echo +memory >/sys/fs/cgroup/cgroup.subtree_control
  mkdir -p /sys/fs/cgroup/small/inner
  echo 1G >/sys/fs/cgroup/small/memory.high
  in_small () { (echo $BASHPID >/sys/fs/cgroup/small/inner/cgroup.procs
                 "$@"); }
  fails "a cgroup with a limit" "memory limit of 1G" \
    in_small attach size=256M
  is "a cgroup with a limit, allowed" \
    in_small attach size=256M allow=cgroup
  is "a cgroup with a limit, allowed: detached" detach
}

# As an interrupt typed in the terminal: the whole process group gets it.
interrupted ()
{
  local pid status=0
  setsid "$build/infiniswapctl" attach $isw \
    --plugin "$build/nbdkit-infiniswap-plugin.so" slab-size=${slab_mib}M \
    donors=10.7.0.9:9400 size=256M >$out 2>&1 &
  pid=$!
  await "the server" [ -S $files/$isw.sock ]
  kill -TERM -- -$pid
  wait $pid || status=$?
  is "interrupted: it fails" [ $status != 0 ]
  await "all undone" nothing_left
  is "interrupted: says so" says "interrupted: Terminated"
}

# Memory that is neither given back nor swapped out, until what is out on the
# device is twice what is left.
available () { awk '/^MemAvailable/ { print int ($2 / 1024) }' /proc/meminfo; }
take_memory ()
{
  local pages=/proc/sys/vm/nr_hugepages left
  left=$(($(available) - $(mib_out) / 2))
  [ $left -le 0 ] || echo $(($(<$pages) + (left + 1) / 2)) >$pages
  [ "$(available)" -le $(($(mib_out) / 2)) ]
}
give_memory () { echo 0 >/proc/sys/vm/nr_hugepages; }

# The kernel begins swapoff only where all that may be out on the device fits
# into what it would promise to programs: leave it room for a few of those.
promised () { awk -v k="$1:" '$1 == k { print $2 }' /proc/meminfo; }
promise_little ()
{
  local kib
  kib=$(($(promised Committed_AS) + 65536 - $(promised SwapTotal)))
  echo $((kib > 1 ? kib : 1)) >/proc/sys/vm/overcommit_kbytes
  echo 2 >/proc/sys/vm/overcommit_memory
}
promise_more () { echo 0 >/proc/sys/vm/overcommit_memory; }

attempts () { state_of_supervisor .attempt; }
state_of_supervisor ()
{
  "$build/infiniswapctl" status --json $files/$isw.ctl | jq "$1"
}
second_attempt () { [ "$(attempts)" -ge 2 ]; }

no_room ()
{
  attach size=256M backing=$copy
  start_program --rounds 1 --pause-file $work/go
  limit 40M
  await "the program" checked
  is "no room in a cgroup: it fails" eval '! detach'
  is "no room in a cgroup: refused" \
    says "cgroup $group has up to 1[0-9]*M swapped out"
  limit max

  await "no memory left" take_memory
  is "no room: it fails" eval '! detach'
  is "no room: refused with figures" \
    says "M are swapped out on /dev/nbd0, but only"
  is "no room: still attached" attached
  is "no room: check tells it" check_machine
  is "no room: check tells it" says "^warning  *room: .* but only"
  kill -TERM "$(supervisor)"
  await "an end of what SIGTERM began" second_attempt
  is "no room: SIGTERM leaves it attached" attached
  promise_little
  is "no room: forced, it fails" eval '! detach --force'
  is "no room: forced: the message" \
    says "what is swapped out does not fit into memory"
  is "no room: forced: still attached" attached
  promise_more
  give_memory
  is "room again: detached" detach
  is "room again: nothing left" nothing_left
  is "room again: no byte is wrong" end_program
}

# A connection of the server dies, as by a fault of the network.
kill_connection ()
{
  python3 - "$(server)" <<'END'
import ctypes, os, socket, sys
pid = int (sys.argv[1])
pidfd = os.pidfd_open (pid)
for fd in os.listdir (f"/proc/{pid}/fd"):
    if not os.readlink (f"/proc/{pid}/fd/{fd}").startswith ("socket:"):
        continue
    own = ctypes.CDLL (None).syscall (438, pidfd, int (fd), 0)
    s = socket.socket (fileno=own)
    if s.family == socket.AF_UNIX and s.getsockname () == \
            "/run/infiniswap/isw0.nbd" and \
            not s.getsockopt (socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        s.shutdown (socket.SHUT_RDWR)
        break
else:
    sys.exit ("no connection found")
END
}

reconnected () { [ "$(grep -c reconnected $work/log)" -ge "$1" ]; }

attach_in_foreground ()
{
  "$build/infiniswapctl" attach --foreground $isw \
    --plugin "$build/nbdkit-infiniswap-plugin.so" slab-size=${slab_mib}M \
    hot-slab=0 donors=10.7.0.1:9400,10.7.0.2:9400 "$@" >$out 2>$work/log &
  foreground=$!
  await "the device" attached
}

killed ()
{
  attach_in_foreground size=256M backing=$copy
  start_program --rounds 1 --pause-file $work/go
  limit 60M
  await "the program" checked
  kill_connection
  await "another connection" reconnected 1
  is "a connection that died is replaced" true

  kill -KILL "$(supervisor)"
  wait $foreground || :
  limit max
  is "the supervisor was killed: detached" detach
  is "the supervisor was killed: nothing left" nothing_left
  is "after all that no byte is wrong" end_program
}

sigterm ()
{
  attach_in_foreground size=256M
  start_program --rounds 1 --pause-file $work/go
  limit 60M
  await "the program" checked
  limit max
  kill -TERM $foreground
  is "SIGTERM: it ends well" wait $foreground
  is "SIGTERM: nothing left" nothing_left
  is "SIGTERM: no byte is wrong" end_program
}

server_lost ()
{
  attach_in_foreground size=256M backing=$copy
  kill -KILL "$(server)"
  is "a killed server: its supervisor fails" eval '! wait $foreground'
  is "a killed server is lost" grep -q 'is lost, with' $work/log
  is "a killed server is lost: nothing left" nothing_left
}

start_donors 1 2
twice
is "attached and detached $times times under load" under_load
failing_steps
interrupted
unprotected
no_room
killed
sigterm
is "no error in the kernel's log" [ -z "$(dmesg |
  grep -E 'I/O error|Read-error|Write-error|Buffer I/O')" ]
server_lost
kill "${pids[1]}" "${pids[2]}"
done_testing
