#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every scenario of the lab that this kernel has what it needs for: reproduced, detected, healed. And what a sandbox leaves
# behind when it ends, and when any of its processes is killed: nothing.
# Time limit: 900 s
source "$(dirname "$0")/../lib.sh"
need python3 mkfs.ext4 mkfs.btrfs mkfs.xfs
need_root "mount and PID namespaces"
need_overlay

loops() { losetup --list --noheadings --output NAME | sort; }
groups() { find /sys/fs/cgroup -type d -name 'shale-lab-*' | sort; }
traces() { loops; groups; grep -c . /proc/self/mountinfo; ls /mnt; }
traces >"$WORK/before"
nothing_left() {
  local n
  for ((n = 0; n < 100; n++)); do
    traces >"$WORK/after"
    ! cmp -s "$WORK/before" "$WORK/after" || return 0
    sleep 0.1
  done
  diff "$WORK/before" "$WORK/after" >&2
  fail "$1 left something behind"
}

# ------------------------------------------------------------------------------------------------------------- all of them
status=0
"$SHALE" lab run all --report "$WORK/report.json" >"$WORK/story" 2>&1 || status=$?
tail -n 20 "$WORK/story"
read -ra elsewhere < <(sed -n 's/^# lab-scenarios: //p' "$REPO/tests/integration/096-lab-zfs/test.sh")
python3 - "$WORK/report.json" "${elsewhere[@]}" <<'PYTHON' || { cat "$WORK/story"; fail "not every scenario is reproduced, detected and healed"; }
import json, sys
bad = 0
for one in json.load(open(sys.argv[1]))["scenarios"]:
    if "skipped" in one:
        # What this kernel has not got is run by 096-lab-zfs, on one that has.
        if not one["skipped"].startswith("this kernel has no") or one["id"] not in sys.argv[2:]: bad += 1; print("not run:", one["id"], one["skipped"])
        continue
    for answer in ("reproduced", "detected", "healed"):
        if not one.get(answer, {}).get("yes"): bad += 1; print(one["id"], answer, one.get(answer), one.get("error"))
sys.exit(bad)
PYTHON
((status == 0)) || fail "exit status $status"
nothing_left "lab run all"

# ---------------------------------------------------------------------------------------------------------------- reports
"$SHALE" lab report "$WORK/report.json" "$WORK/report.json" -o "$WORK/page.html"
grep -F '<td class="yes">yes</td>' "$WORK/page.html" >/dev/null || fail "the page says nothing"
! grep -i "<script" "$WORK/page.html" >/dev/null || fail "the page has a script"
"$SHALE" lab report "$WORK/report.json" | grep -E '^inode-exhaustion +yes +yes +yes' >/dev/null || fail "no table"
echo '{"version": 9, "scenarios": []}' >"$WORK/newer.json"
refuse "its version is 9" -- "$SHALE" lab report "$WORK/newer.json"
refuse "did you mean inode-leak" -- "$SHALE" lab run inode-lek
refuse "no scenario" -- "$SHALE" lab show nothing
"$SHALE" lab show inode-leak | grep -F "/proc/" >/dev/null || fail "nothing is shown"
[[ $("$SHALE" --json lab ls | python3 -c 'import json, sys; print(len(json.load(sys.stdin)) > 5)') == True ]] || fail "no list"
status=0
timeout 30 "$SHALE" --quiet lab run page-cache-pollution --limit 1 >"$WORK/limited" || status=$?
((status == 1)) || fail "a scenario that was ended counts as good"
grep -F "not done after 1 s" "$WORK/limited" >/dev/null || fail "not told: $(cat "$WORK/limited")"
nothing_left "a scenario that took too long"
mkdir "$WORK/disks"
"$SHALE" --quiet lab run inode-leak --dir "$WORK/disks" >/dev/null || fail "not with its disks in a directory"
[[ -z $(ls -A "$WORK/disks") ]] || fail "files stayed in the directory"

# -------------------------------------------------------------------------------------------------------------- killed
# Whoever is killed: the verb itself, the one that made the namespaces, PID 1 there, or the scenario.
family() { # PID: it and all below
  local child
  echo "$1"
  for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do family "$child"; done
}
for victim in 0 2 3 4; do # 1 is the keeper, which outlives them all
  "$SHALE" --quiet lab run page-cache-pollution >"$WORK/out" 2>&1 & lab=$!
  for ((n = 0; n < 300; n++)); do # until it has a disk
    cmp -s <(loops) <(sed -n '/^\/dev\/loop/p' "$WORK/before") || break
    sleep 0.05
  done
  sleep "0.$((victim * 2 + 1))"
  mapfile -t all < <(family "$lab")
  ((${#all[@]} > victim)) || fail "its processes are ${all[*]}"
  kill -9 "${all[victim]}"
  wait "$lab" 2>/dev/null && ((victim != 0)) && fail "killed, and good"
  for process in "${all[@]}"; do
    for ((n = 0; n < 200; n++)); do kill -0 "$process" 2>/dev/null || break; sleep 0.05; done
    ! kill -0 "$process" 2>/dev/null || fail "process $process lives on ($victim was killed)"
  done
  nothing_left "killed process $victim"
done
# Ctrl-C: everything is undone before it answers.
"$SHALE" --quiet lab run page-cache-pollution >"$WORK/out" 2>&1 & lab=$!
sleep 1
kill -INT "$lab"
status=0
wait "$lab" || status=$?
((status != 0)) || fail "interrupted, and good"
nothing_left "an interrupt"
