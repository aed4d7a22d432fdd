#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A real Debian goes in and out of thin volumes with equal digests, and is the tree that umoci unpacks.
# Time limit: 1800 s
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../debian_elsewhere.sh"
need_devicemapper
need_root "device-mapper"
need_debian
release() { # of this test's store alone (its devices are named after its directory): volumes, then the pool and its parts
  local prefix name
  prefix=$(stat -c '%d %i' "$WORK/store/devicemapper" 2>/dev/null) || return 0
  # shellcheck disable=SC2086
  prefix=$(printf 'shale-%x-%x-' $prefix)
  for _ in 1 2 3; do
    for name in $(dmsetup ls 2>/dev/null | cut -f 1); do
      [[ $name != "$prefix"* ]] || dmsetup remove "$name" 2>/dev/null || true
    done
  done
}
round_trip devicemapper "$WORK"
