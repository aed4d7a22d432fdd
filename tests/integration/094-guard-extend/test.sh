#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A thin pool in files fills: the guard makes it larger, at most to extend_max and only while the file system below has room.
source "$(dirname "$0")/../lib.sh"
need_devicemapper
need python3 dmsetup mkfs.ext4
need_root "device-mapper"
[[ -x /bin/busybox ]] || skip "busybox-static is not installed"
shale=("$SHALE" --root "$WORK/disk/store" --driver devicemapper --config "$WORK/guard.toml")
store() { "${shale[@]}" "$@"; }
guard_pid=
release() {
  [[ -z $guard_pid ]] || kill -9 "$guard_pid" 2>/dev/null || true
  remove_devices "$WORK/disk/store"
}
configure() { # EXTEND_MAX
  cat >"$WORK/guard.toml" <<TOML
[driver.devicemapper]
data_size = "128M"
metadata_size = "8M"
base_size = "512M"
[guard]
extend_percent = 50
extend_max = "$1"
[guard.thin_data]
cool_down_s = 1
back_off_s = 1
tiers = { log = 80, gc = false, extend = 80 }
TOML
}
configure 200M
truncate -s 300M "$WORK/disk.img"; mkfs.ext4 -q -m 0 "$WORK/disk.img"
mkdir "$WORK/disk"; mount -o loop "$WORK/disk.img" "$WORK/disk"
mkdir -p "$WORK/image/bin"; cp /bin/busybox "$WORK/image/bin/"
tar -C "$WORK/image" -cf "$WORK/layer.tar" .
"$REPO/tests/integration/oci_layout.py" "$WORK"
store image import "$WORK/layout" --name base:1 >/dev/null
store container create --name works base:1 >/dev/null
tree=$(store container mount works | tail -n 1)
pool=$(dmsetup ls --target thin-pool | cut -f 1)
data_bytes() { dmsetup table "$pool" | awk '{ print $2 * 512 }'; }
events() { store --json guard events -n 1000; }
wait_for() { # WHAT COMMAND...
  local what=$1 n
  shift
  for ((n = 0; n < 600; n++)); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  fail "$what did not come: $(events; tail -n 20 "$WORK/guard.log"; dmsetup status)"
}
is_larger() { (($(data_bytes) > $1)); }
told() { events | grep "\"$1\"" | grep '"extend"' | grep -F "$2"; }
guard() { "${shale[@]}" guard --interval 1 >>"$WORK/guard.log" 2>&1 & guard_pid=$!; }

before=$(data_bytes)
head -c 110M /dev/urandom >"$tree/large"; sync "$tree/large"
sum=$(cksum <"$tree/large")
store --dry-run guard --once >"$WORK/dry"
grep -F "would grow by 50 %, to 200.0 MiB at most" "$WORK/dry" >/dev/null || fail "the dry run says nothing of it: $(cat "$WORK/dry")"
[[ $(data_bytes) == "$before" ]] || fail "a dry run has made the pool larger"
guard
wait_for "a larger pool" is_larger "$before"
wait_for "its event" told acted "pool/data"
first=$(data_bytes)
((first >= before * 14 / 10 && first <= 200 << 20)) || fail "from $before to $first bytes"
head -c 60M /dev/urandom >"$tree/more"; sync "$tree/more"
wait_for "the most" told failed "may grow to 200.0 MiB at most"
(($(data_bytes) <= 200 << 20)) || fail "larger than it may be"
kill "$guard_pid"; wait "$guard_pid" || fail "the guard did not end well"
guard_pid=
echo 3 >/proc/sys/vm/drop_caches
[[ $(cksum <"$tree/large") == "$sum" ]] || fail "what was in the pool is not what was written"
# The options still say 128M: what has grown stays so.
store container ls >/dev/null
(($(data_bytes) > before)) || fail "it is as small as before"

configure 100T
guard
wait_for "that there is no room" told failed "has no room for it"
(($(data_bytes) < 300 << 20)) || fail "it is larger than the file system that it lies on"
kill "$guard_pid"; wait "$guard_pid" || fail "the guard did not end well"
guard_pid=
[[ $(cksum <"$tree/large") == "$sum" ]] || fail "what was in the pool is not what was written"
store container rm --force works >/dev/null
