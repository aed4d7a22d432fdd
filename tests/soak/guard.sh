#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A guard for each driver that this host has, each on a small file system of its own, side by side, under a random load of
# containers that write and delete files, for SECONDS (1800). Judged by the events: what a step does is done once a crossing,
# nothing flaps, what is to stay free stays free, and no file of a container is touched.
#   tests/soak/guard.sh [SECONDS]      SHALE: the program; SOAK_SEED: of the load; SOAK_DRIVERS: which; SOAK_REPORT: the figures go there, too
seconds=${1:-${SOAK_SECONDS:-1800}} here=$(cd "$(dirname "$0")" && pwd)
export SOAK_SECONDS=$seconds # a world of its own gets no arguments
source "$here/../integration/lib.sh"
# shellcheck source=tests/integration/world.sh
source "$here/../integration/world.sh"
need mkfs.ext4 python3
need_root "file systems of its own"
need_overlay
[[ -x /bin/busybox ]] || skip "busybox-static is not installed"
own_world

megabytes=256
mkdir -p "$WORK/image/bin"; cp /bin/busybox "$WORK/image/bin/"
tar -C "$WORK/image" -cf "$WORK/layer.tar" .
"$REPO/tests/integration/oci_layout.py" "$WORK"
cat >"$WORK/guard.toml" <<TOML
[guard]
throttle_write_bps = "4M"
[guard.bytes]
min_space = "24M"
cool_down_s = 5
back_off_s = 5
[guard.bytes.tiers]
refuse_creates = 95
throttle = 97
[guard.inodes]
min_reclaim = 10
cool_down_s = 5
back_off_s = 5
[guard.inodes.tiers]
refuse_creates = 95
[guard.btrfs_metadata]
min_reclaim = 0
cool_down_s = 5
back_off_s = 5
[guard.btrfs_metadata.tiers]
refuse_creates = 93
[guard.btrfs_unallocated]
min_reclaim = 0
cool_down_s = 5
back_off_s = 5
TOML

guards=() loads=() drivers=()
release() {
  local pid
  for pid in "${loads[@]}" "${guards[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
}
for driver in ${SOAK_DRIVERS:-overlay2 overlay vfs btrfs erofs}; do
  disk=$WORK/$driver size=$megabytes
  case $driver in
    btrfs)
      command -v mkfs.btrfs >/dev/null || { skip_part "btrfs: mkfs.btrfs is not installed"; continue; }
      size=$((2 * megabytes))
      truncate -s ${size}M "$disk.img"; mkfs.btrfs -q "$disk.img" >/dev/null 2>&1 ;;
    *) truncate -s ${size}M "$disk.img"; mkfs.ext4 -q -m 0 -N 6000 "$disk.img" ;;
  esac
  mkdir "$disk"
  mount -o loop "$disk.img" "$disk" 2>"$WORK/why" || { skip_part "$driver: $(cat "$WORK/why")"; continue; }
  shale=("$SHALE" --root "$disk/store" --driver "$driver" --config "$WORK/guard.toml")
  "${shale[@]}" image import "$WORK/layout" --name base:1 >/dev/null 2>"$WORK/why" || { skip_part "$driver: $(tail -n 1 "$WORK/why")"; continue; }
  fallocate -l $((size * 55 / 100))M "$disk/ballast" # so that the marks are not far
  "${shale[@]}" guard --interval 1 >"$WORK/$driver.guard.log" 2>&1 & guards+=($!)
  python3 "$here/guard_load.py" "$disk" "$SOAK_SECONDS" "${SOAK_SEED:-1}" "$WORK/$driver.load.json" "${shale[@]}" \
    >"$WORK/$driver.load.log" 2>&1 & loads+=($!)
  drivers+=("$driver")
done
((${#drivers[@]})) || skip "no driver can be used here"
failed=0
for i in "${!drivers[@]}"; do
  wait "${loads[i]}" || { failed=1; echo "FAIL: the load on ${drivers[i]}: $(tail -n 5 "$WORK/${drivers[i]}.load.log")" >&2; }
done
for pid in "${guards[@]}"; do
  kill "$pid" 2>/dev/null || { failed=1; echo "FAIL: a guard has ended: $(tail -n 3 "$WORK"/*.guard.log)" >&2; }
  wait "$pid" || { failed=1; echo "FAIL: a guard did not end well" >&2; }
done
for driver in "${drivers[@]}"; do
  shale=("$SHALE" --root "$WORK/$driver/store" --driver "$driver" --config "$WORK/guard.toml")
  "${shale[@]}" --json guard events -n 1000000 >"$WORK/$driver.events"
  python3 "$here/guard_judge.py" "$driver" "$WORK/$driver.events" "$WORK/$driver.load.json" | tee -a "${SOAK_REPORT:-/dev/null}" || failed=1
  [[ ! -L $WORK/$driver/store/refusal ]] || { echo "FAIL: $driver: a refusal stayed" >&2; failed=1; }
done
((failed == 0)) || fail "see above"
