#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# containerd's suite of snapshotters on thin volumes with ext4 in them.
# Time limit: 2400 s
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../containerd_suite.sh"
need_devicemapper
need_root "devices"
make_suite || skip "Debian's golang-go and golang-github-containerd-containerd-dev are not installed"
release() { # every store of this test leaves its pool active, as it must: volumes, then the pool and its parts
  local file holder name dev inode
  for _ in 1 2 3; do
    for file in /sys/block/loop*/loop/backing_file; do
      [[ $(cat "$file" 2>/dev/null) == "$WORK"/* ]] || continue
      for holder in "${file%/loop/*}"/holders/dm-*; do
        [[ -e $holder/dm/name ]] || continue
        IFS=- read -r _ dev inode _ <"$holder/dm/name" # shale-<device>-<inode>-<part>: of one store
        for name in $(dmsetup ls 2>/dev/null | cut -f 1); do
          [[ $name != "shale-$dev-$inode-"* ]] || dmsetup remove "$name" 2>/dev/null || true
        done
      done
    done
  done
}
suite devicemapper "$WORK" "" data_size=6G metadata_size=16M base_size=256M
suites_passed
