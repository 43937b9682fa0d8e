#!/bin/bash
# The model test over verbs, in a virtual machine: see test/chaos/test_chaos.py,
# and there for CHAOS_SECONDS and SEED.  Emulation is slow, so that answers may
# take twice as long.
set -eu

build=${O:-build}
seconds=${CHAOS_SECONDS:-60}
exec test/vm/run --timeout $((seconds * 2 + 240)) --disk 1G --memory 2560 \
  --env DISK=/mnt/scratch --env FABRIC=verbs --env CHAOS_SECONDS="$seconds" \
  --env SLOWDOWN="${SLOWDOWN:-2}" ${SEED:+--env SEED="$SEED"} \
  --env PLUGIN="$build/nbdkit-infiniswap-plugin.so" \
  --env DONOR="$build/infiniswap-donor" --env CTL="$build/infiniswapctl" \
  -- test/chaos/test_chaos.py
