#!/bin/bash
# The demo does what it says, and its check can fail.
set -u

build=${O:-build}
demo () { test/vm/run --timeout 540 --disk 1G --memory 2560 "$@" -- \
            test/vm/demo "$build" 2>&1; }

n=0
ok () { n=$((n + 1)); echo "ok $n - $*"; }
not_ok () { n=$((n + 1)); echo "not ok $n - $*"; failed=1; }
failed=0

if demo; then
  ok "demo: swap to three donors over verbs, one killed, no wrong byte"
else
  not_ok "demo: swap to three donors over verbs, one killed, no wrong byte"
fi

out=$(demo --env PLANT=1 --env DEMO_MIB=96)
status=$?
echo "$out"
if [ $status = 1 ] && grep -q '^wrong bytes  *1$' <<<"$out"; then
  ok "demo: a planted wrong byte makes it fail"
else
  not_ok "demo: a planted wrong byte makes it fail (status $status)"
fi
exit $failed
