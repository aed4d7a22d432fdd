# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Shared by the integration tests: sourced first. Gives $SHALE (the program), $WORK (a scratch directory, removed with
# whatever is mounted in it), and the functions below. A test fails at its first failing command.
set -euo pipefail
export LC_ALL=C
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SHALE=${SHALE:-$REPO/build/dev/shale}
WORK=$(mktemp -d "${SHALE_TEST_DIR:-/var/tmp}/shale-test.XXXXXX")
unset SHALE_ROOT SHALE_DRIVER SHALE_CONFIG

release() { :; } # a test's own: what it holds besides files and mounts in $WORK, before these go
unmount_below() { # DIR
  local point
  while read -r point; do umount -l -- "$point" 2>/dev/null || true; done \
    < <(awk -v dir="$1/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
}
# For `release`: what stores kept by devicemapper have active, as they must: volumes, then the pool and its parts. The devices
# are named after the driver's directory.
remove_devices() { # STORE...
  local store numbers prefix name
  for store; do
    [[ -d $store/devicemapper ]] || continue
    unmount_below "$store"
    read -ra numbers < <(stat -c '%d %i' "$store/devicemapper")
    printf -v prefix 'shale-%x-%x-' "${numbers[@]}"
    for _ in 1 2 3; do
      for name in $(dmsetup ls 2>/dev/null | cut -f 1); do
        [[ $name != "$prefix"* ]] || dmsetup remove "$name" 2>/dev/null || true
      done
    done
  done
}
cleanup() {
  local status=$?
  trap - EXIT
  cd /
  release || true
  unmount_below "$WORK"
  rm -rf -- "$WORK" 2>/dev/null || unshare --map-root-user --map-auto rm -rf -- "$WORK" 2>/dev/null || true
  exit "$status"
}
trap cleanup EXIT
trap 'echo "FAILED at ${BASH_SOURCE[0]##*/integration/}:$LINENO: $BASH_COMMAND" >&2' ERR
set -E

skip() { echo "SKIP: $*"; exit 77; }
# What another kernel has: a reason that begins with "this kernel" sends the test to the guest (tests/guest/README.md).
lacking() {
  [[ ${SHALE_TEST_GUEST:-} != 0 ]] || skip "left out by SHALE_TEST_GUEST=0: $1"
  skip "$1"
}
# A part of a test that cannot be had here: "WHAT: why not". The test goes on; the summary names the part.
skip_part() { echo "SKIP-PART: $*"; }
fail() { echo "FAIL: $*" >&2; exit 1; }
need() { local tool; for tool; do command -v "$tool" >/dev/null || skip "$tool is not installed"; done; }
need_root() { (($(id -u) == 0)) || skip "needs root: $1"; }
# The node alone says nothing: dmsetup, lvm and containerd make one on kernels that have no driver behind it.
need_devicemapper() {
  { [[ -c /dev/mapper/control ]] && grep -w device-mapper /proc/misc >/dev/null; } || lacking "this kernel has no device-mapper"
}
need_zfs() { [[ -c /dev/zfs && -d /sys/module/zfs ]] || lacking "this kernel has no ZFS (no /dev/zfs)"; }
# Overlay mounts are tried, not guessed.
need_overlay() {
  mkdir -p "$WORK/probe"/{l,u,w,m}
  mount -t overlay overlay -o "lowerdir=$WORK/probe/l,upperdir=$WORK/probe/u,workdir=$WORK/probe/w" "$WORK/probe/m" 2>/dev/null ||
    skip "overlay cannot be mounted on $(stat -f -c %T "$WORK")"
  umount "$WORK/probe/m"
}
shale() { "$SHALE" --root "${ROOT:-$WORK/store}" "$@"; }
# refuse TEXT... -- COMMAND: the command must fail, and say each TEXT (compared without case).
refuse() {
  local wanted=() text output status=0
  while [[ $1 != -- ]]; do wanted+=("$1"); shift; done
  shift
  output=$("$@" 2>&1) || status=$?
  ((status != 0)) || fail "'$*' was accepted; it should have been refused"
  ((status < 126)) || fail "'$*' died (exit $status): $output"
  for text in "${wanted[@]}"; do
    grep -qiF -- "$text" <<<"$output" || fail "'$*' was refused, but its message does not name '$text': $output"
  done
}
