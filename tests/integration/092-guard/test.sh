#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A disk that runs out of inodes, then of bytes, under a guard: it collects once, refuses what is new with the figures, and
# takes that back when there is room. Killed, it leaves a refusal that ends by itself; its successor goes on.
source "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/integration/world.sh
source "$(dirname "$0")/../world.sh"
need mkfs.ext4 python3
need_root "a file system of its own"
need_overlay
[[ -x /bin/busybox ]] || skip "busybox-static is not installed"
own_world

truncate -s 64M "$WORK/disk.img"; mkfs.ext4 -q -m 0 -N 2000 "$WORK/disk.img"
mkdir "$WORK/disk"; mount -o loop "$WORK/disk.img" "$WORK/disk"
shale=("$SHALE" --root "$WORK/disk/store" --driver overlay2 --config "$WORK/guard.toml")
store() { "${shale[@]}" "$@"; }
cat >"$WORK/guard.toml" <<TOML
[guard.bytes]
min_space = 0
[guard.bytes.tiers]
refuse_creates = 95
[guard.inodes.tiers]
refuse_creates = 97
TOML
mkdir -p "$WORK/image/bin"; cp /bin/busybox "$WORK/image/bin/"
tar -C "$WORK/image" -cf "$WORK/layer.tar" .
"$REPO/tests/integration/oci_layout.py" "$WORK"
store image import "$WORK/layout" --name base:1 >/dev/null
store container create --name works base:1 >/dev/null
tree=$(store container mount works | tail -n 1)

guard() { "${shale[@]}" guard --interval 1 >>"$WORK/guard.log" 2>&1 & guard_pid=$!; }
release() { kill -9 "$guard_pid" 2>/dev/null || true; }
events() { store --json guard events -n 1000; }
# count TYPE KIND TIER: how many events there are.
count() { events | python3 -c '
import json, sys
rows = [json.loads(line) for line in sys.stdin]
print(sum(1 for row in rows if (row["type"], row["kind"], row["tier"]) == tuple(sys.argv[1:])))' "$@"; }
wait_for() { # WHAT COMMAND...
  local what=$1 n
  shift
  for ((n = 0; n < 300; n++)); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  fail "$what did not come: $(events; cat "$WORK/guard.log")"
}
refused() {
  if store container create --name never base:1 >/dev/null 2>"$WORK/refused"; then store container rm never >/dev/null; return 1; fi
  grep -F "are refused for now" "$WORK/refused"
}
allowed() { store container create --name later base:1 >/dev/null 2>&1; }
at_least() { (($(count "${@:2}") >= $1)); }

guard
wait_for "the guard" test -s "$WORK/disk/store/guard/state.json"
refuse "another guard is at work" -- store guard --once
store guard --once --dry-run >"$WORK/table" # looks beside it
grep "inodes .* refuse_creates at 97 %" "$WORK/table" >/dev/null || fail "no marks: $(cat "$WORK/table")"

# ---------------------------------------------------------------------------------------------------------------- inodes
mkdir "$tree/many"
python3 - "$tree/many" "$WORK/disk" <<'PYTHON'
import os, sys
stat = os.statvfs(sys.argv[2])
for i in range(stat.f_favail - stat.f_files * 2 // 100): open(f"{sys.argv[1]}/{i}", "w").close()
PYTHON
wait_for "the refusal" refused
grep -F "inodes of $WORK/disk: 9" "$WORK/refused" >/dev/null || fail "refused without the figures: $(cat "$WORK/refused")"
wait_for "gc" at_least 1 acting inodes gc
sleep 3 # three rounds more
(($(count acting inodes gc) == 1)) || fail "gc freed nothing, and was done again at once"
(($(count acting inodes refuse_creates) == 1)) || fail "refused more than once"
store image ls >/dev/null
store container create --help >/dev/null
rm -rf "$tree/many"
wait_for "the end of the refusal" allowed
wait_for "its event" at_least 1 undone bytes refuse_creates
store container rm later >/dev/null

# ----------------------------------------------------------------------------------------------------------------- bytes
head -c 200M /dev/zero >"$tree/large" 2>/dev/null || true
wait_for "the refusal" refused
grep -F "bytes of $WORK/disk: " "$WORK/refused" >/dev/null || fail "refused without the figures: $(cat "$WORK/refused")"
kill -9 "$guard_pid"; wait "$guard_pid" 2>/dev/null || true
refused || fail "nobody has taken the refusal back yet"
until=$(readlink "$WORK/disk/store/refusal"); until=${until%% *}
((until > $(date +%s) && until <= $(date +%s) + 63)) || fail "the refusal of a guard that is dead lasts until $until"
: >"$tree/large"
guard # its successor finds that there is room
wait_for "the end of the refusal" allowed
[[ $(cat "$tree/bin/busybox" | cksum) == "$(cksum </bin/busybox)" ]] || fail "the container that is in use was touched"
kill "$guard_pid"; wait "$guard_pid" || fail "the guard did not end well"
[[ ! -L $WORK/disk/store/refusal ]] || fail "a refusal stayed"
