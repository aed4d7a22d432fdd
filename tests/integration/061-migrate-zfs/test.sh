#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The chain of 060-migrate along the drivers that need kernel parts of their own: a thin pool in files, one on a block
# device, a ZFS pool.
# Time limit: 1200 s
source "$(dirname "$0")/../lib.sh"
need_devicemapper
need_zfs
need zpool losetup
need_root "mounts"

pool=shaletest$$
truncate -s 2G "$WORK/pool.img"
zpool create -m "$WORK/pool" "$pool" "$WORK/pool.img"
release() { zpool destroy -f "$pool"; }
SHALE_CHAIN="overlay2 devicemapper devicemapper:device zfs overlay2" SHALE_PLACE_zfs=$WORK/pool \
  "$REPO/tests/integration/060-migrate/test.sh"
