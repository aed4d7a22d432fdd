#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A real Debian goes in and out of thin volumes with equal digests, and is the tree that umoci unpacks: with ext4 in them and
# the pool in files, and with XFS and the pool on a block device.
# Time limit: 1800 s
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../debian_elsewhere.sh"
need_devicemapper
need losetup
need_root "device-mapper"
need_debian
release() { remove_devices "$WORK"/store "$WORK"/xfs/store; }
round_trip devicemapper "$WORK"
echo "-- $SECONDS s: ext4, the pool in files"

if ! command -v mkfs.xfs >/dev/null; then
  skip_part "XFS with the pool on a block device: mkfs.xfs is not installed"
elif ! { grep -w xfs /proc/filesystems >/dev/null || modprobe -q xfs; }; then
  skip_part "XFS with the pool on a block device: the kernel has no XFS"
else
  truncate -s 6G "$WORK/disk"
  device=$(losetup --find --show "$WORK/disk")
  exec 9<"$device" # it goes with this shell and the pool
  losetup --detach "$device"
  mkdir "$WORK/xfs"
  round_trip devicemapper "$WORK/xfs" fs=xfs pool=device "device=$device" base_size=2G
  for line in fs=xfs pool=device; do
    grep -x "$line" "$WORK/xfs/store/devicemapper/pool/record" >/dev/null || fail "the store was not made with $line"
  done
  echo "-- $SECONDS s: XFS, the pool on a block device"
fi
