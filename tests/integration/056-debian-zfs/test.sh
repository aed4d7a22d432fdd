#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A real Debian goes in and out of datasets with equal digests, and is the tree that umoci unpacks.
# Time limit: 1800 s
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../debian_elsewhere.sh"
need_zfs
need_root "zpool"
need_debian
truncate -s 6G "$WORK/pool.img"
pool=shale-test-$$
zpool create -o cachefile=none -O xattr=sa -O acltype=posixacl -m "$WORK/pool" "$pool" "$WORK/pool.img"
release() { zpool destroy -f "$pool"; }
round_trip zfs "$WORK/pool"
