#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# containerd's suite of snapshotters on datasets.
# Time limit: 2400 s
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../containerd_suite.sh"
need_zfs
need_root "zpool"
make_suite || skip "Debian's golang-go and golang-github-containerd-containerd-dev are not installed"
if [[ -n ${SHALE_GUEST:-} && -z ${SHALE_TEST_ALL:-} ]]; then # every change of a dataset waits for ZFS's own transactions
  suite_without=128LayersMount
  skip_part "128LayersMount on ZFS: by hand only (SHALE_TEST_ALL=1), it takes more than twenty minutes on an emulated processor"
fi
truncate -s 6G "$WORK/pool.img"
pool=shale-test-$$
zpool create -o cachefile=none -O xattr=sa -O acltype=posixacl -m "$WORK/pool" "$pool" "$WORK/pool.img"
release() { zpool destroy -f "$pool"; }
suite zfs "$WORK/pool"
suites_passed
