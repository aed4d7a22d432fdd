#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The lab's scenarios that need device-mapper or ZFS, and those that show more where both are: reproduced, detected, healed.
# Killed in the middle, no device and no pool stays. (095-lab runs what every kernel has.)
# Time limit: 1200 s
source "$(dirname "$0")/../lib.sh"
need_devicemapper
need_zfs
need_root "devices"
need python3 zpool dmsetup

# lab-scenarios: loop-lvm thin-data-starvation thin-metadata-overflow zfs-snapshot-race inode-exhaustion write-amplification
read -ra scenarios < <(sed -n 's/^# lab-scenarios: //p' "$0")
status=0
"$SHALE" lab run "${scenarios[@]}" --report "$WORK/report.json" >"$WORK/story" 2>&1 || status=$?
cat "$WORK/story"
((status == 0)) || fail "exit status $status"
python3 - "$WORK/report.json" "${scenarios[@]}" <<'PYTHON' || fail "not every scenario is reproduced, detected and healed"
import json, sys
told = {one["id"]: one for one in json.load(open(sys.argv[1]))["scenarios"]}
sys.exit(any(not told[name].get(answer, {}).get("yes") for name in sys.argv[2:] for answer in ("reproduced", "detected", "healed")))
PYTHON
traces() { dmsetup ls 2>/dev/null | grep -E 'shale-' || true; zpool list -H -o name 2>/dev/null | grep shale-lab || true; losetup --list --noheadings --output NAME; }
nothing_left() {
  local n
  for ((n = 0; n < 300; n++)); do
    [[ -n $(traces) ]] || return 0
    sleep 0.1
  done
  fail "$1 left: $(traces)"
}
nothing_left "lab run"
for scenario in thin-metadata-overflow loop-lvm zfs-snapshot-race; do
  "$SHALE" --quiet lab run "$scenario" >"$WORK/out" 2>&1 & lab=$!
  for ((n = 0; n < 600; n++)); do [[ -z $(dmsetup ls 2>/dev/null | grep shale-; zpool list -H 2>/dev/null | grep shale-lab) ]] || break; sleep 0.1; done
  sleep 1
  kill -9 "$lab"
  wait "$lab" 2>/dev/null || true
  nothing_left "$scenario, killed,"
done
