#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A disk fills under a guard that may slow and end containers: the batch writer is slowed and the critical one is not, then
# the batch container is ended and the critical one is not. Whatever ends the guard (SIGTERM, kill -9 at each tier), nobody
# stays slowed or frozen.
source "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/integration/world.sh
source "$(dirname "$0")/../world.sh"
need mkfs.ext4 python3 unshare
need_root "a file system and cgroups of its own"
need_overlay
[[ -x /bin/busybox ]] || skip "busybox-static is not installed"
own_world

# cgroup v1 where blkio is there; else v2, which is mounted here where nobody has done so.
if [[ -e /sys/fs/cgroup/blkio/cgroup.procs ]]; then
  version=1 groups=/sys/fs/cgroup/blkio
else
  version=2 groups=/sys/fs/cgroup
  [[ -e $groups/cgroup.controllers ]] || mount -t cgroup2 cgroup2 "$groups" 2>/dev/null || skip "no cgroups can be mounted here: throttle and evict were NOT tried"
  grep -w io $groups/cgroup.controllers >/dev/null || skip "neither blkio of cgroup v1 nor io of v2 is here: throttle and evict were NOT tried"
fi
group=$groups/$WORLD
mkdir "$group" 2>/dev/null || skip "no cgroup can be made in $groups: throttle and evict were NOT tried"
make_group() { # CGROUP: and with v2 its controllers, all the way down to it
  local at=$groups part
  for part in "$WORLD" ${1//\// }; do
    ((version == 1)) || echo +io >"$at/cgroup.subtree_control"
    at=$at/$part
    mkdir -p "$at"
  done
}
make_group probe
((version == 2)) || [[ -e $group/probe/blkio.throttle.write_bps_device ]] || skip "blkio has no throttling here: throttle and evict were NOT tried"
truncate -s 256M "$WORK/disk.img"; mkfs.ext4 -q -m 0 "$WORK/disk.img"
mkdir "$WORK/disk"; mount -o loop "$WORK/disk.img" "$WORK/disk"
device=$(mountpoint -d "$WORK/disk")
shale=("$SHALE" --root "$WORK/disk/store" --driver overlay2 --config "$WORK/guard.toml")
store() { "${shale[@]}" "$@"; }
configure() { # TIERS
  cat >"$WORK/guard.toml" <<TOML
[guard]
throttle_write_bps = "256K"
evict_grace_s = ${grace:-1}
[guard.bytes]
min_space = 0
back_off_s = 1
cool_down_s = 1
tiers = { log = 90, gc = 90$1 }
TOML
}
configure ", throttle = 93"
mkdir -p "$WORK/image"/{bin,old,dev,proc}; cp /bin/busybox "$WORK/image/bin/"; touch "$WORK/image/dev/null"
tar -C "$WORK/image" -cf "$WORK/layer.tar" .
"$REPO/tests/integration/oci_layout.py" "$WORK"
store image import "$WORK/layout" --name base:1 >/dev/null

# Containers as a runtime makes them: a cgroup, mounts and processes of their own, and the store's mount for a root. Each
# writes 64 KiB after 64 KiB past the page cache, over and over into the same 4 MiB, and keeps a file open that has no name.
pids=()
contain() { # NAME CGROUP
  local tree
  store container create --name "$1" base:1 >/dev/null
  tree=$(store container mount "$1" | tail -n 1)
  make_group "$2"
  (
    echo "$BASHPID" >"$group/$2/cgroup.procs"
    # shellcheck disable=SC2016
    exec unshare --mount --propagation private --pid --fork --kill-child sh -c '
      mount --bind "$1" "$1" && cd "$1" && pivot_root . old && exec /bin/busybox sh -c "
        /bin/busybox mount -t proc proc /proc && /bin/busybox umount -l /old && /bin/busybox umount /proc || exit 1
        exec 9>/held; for i in 1 2 3 4 5 6 7 8; do /bin/busybox cat /bin/busybox >&9; done; /bin/busybox rm /held
        while :; do
          n=0
          while [ \$n -lt 64 ]; do
            /bin/busybox dd if=/bin/busybox of=/file bs=64k count=1 seek=\$n conv=notrunc oflag=direct 2>/dev/null
            n=\$((n + 1))
          done
        done"' - "$tree" </dev/null >"$WORK/$1.log" 2>&1
  ) &
  pids+=($!)
}
id() { printf "%064d" "$1"; }
batch=kubepods/besteffort/pod1/$(id 1) critical=kubepods/pod2/$(id 2)
contain batch "$batch"
contain critical "$critical"

guard_pid=
guard() { "${shale[@]}" guard --interval 1 >>"$WORK/guard.log" 2>&1 & guard_pid=$!; }
release() {
  local pid
  for pid in "${pids[@]}" $guard_pid; do kill -9 "$pid" 2>/dev/null || true; done
}
events() { store --json guard events -n 1000; }
count() { # TYPE TIER: how many events there are
  events | python3 -c '
import json, sys
print(sum(1 for line in sys.stdin if [json.loads(line).get(key) for key in ("type", "tier")] == sys.argv[1:]))' "$@"
}
at_least() { (($(count "${@:2}") >= $1)); }
wait_for() { # WHAT COMMAND...
  local what=$1 end=$((SECONDS + 60))
  shift
  while ((SECONDS < end)); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  fail "$what did not come: $(events; tail -n 20 "$WORK"/*.log)"
}
limit_of() { # empty: none
  if ((version == 1)); then
    awk -v device="$device" '$1 == device { print $2 }' "$group/$1/blkio.throttle.write_bps_device"
  else
    awk -v device="$device" '$1 == device && sub("wbps=", "", $3) && $3 != "max" { print $3 }' "$group/$1/io.max"
  fi
}
slowed() { [[ $(limit_of "$1") == 262144 ]]; }
free_again() { [[ -z $(limit_of "$1") ]]; }
# The shell's, with what it has waited for: blkio itself counts a device only once there was a limit on it (Linux 6.10).
written() {
  local pid
  for pid in $(<"$group/$1/cgroup.procs"); do
    [[ $(tr '\0' ' ' <"/proc/$pid/cmdline") != "/bin/busybox sh"* ]] || awk '$1 == "write_bytes:" { print $2 }' "/proc/$pid/io"
  done 2>/dev/null
}
rate() { # CGROUP: bytes in 3 seconds
  local before after
  before=$(written "$1"); sleep 3; after=$(written "$1")
  echo $((${after:-0} - ${before:-0}))
}
alive() { [[ -n $(cat "$group/$1/cgroup.procs") ]]; }
ended() { ! alive "$1"; }
writes() { local now; now=$(written "$1"); ((${now:-0} > ${2:-0})); }
fill() { # PERCENT
  python3 - "$WORK/disk" "$1" <<'PYTHON'
import os, sys
stat = os.statvfs(sys.argv[1])
total = (stat.f_blocks - stat.f_bfree + stat.f_bavail) * stat.f_frsize
wanted = total * int(sys.argv[2]) // 100 - (stat.f_blocks - stat.f_bfree) * stat.f_frsize
file = os.open(sys.argv[1] + "/ballast", os.O_CREAT | os.O_WRONLY, 0o600)
os.posix_fallocate(file, 0, os.fstat(file).st_size + wanted)
PYTHON
}
empty() { rm -f "$WORK/disk/ballast"; }

wait_for "the batch container" writes "$batch" 0
wait_for "the critical container" writes "$critical" 0
before=$(rate "$batch")

# -------------------------------------------------------------------------------------------------------------- throttle
fill 94
store --dry-run guard --once >"$WORK/dry"
grep -F "container 000000000000 (batch by its cgroup; cgroup /$WORLD/$batch" "$WORK/dry" >/dev/null || fail "the dry run does not name the batch container: $(cat "$WORK/dry")"
! grep -F "/$critical" "$WORK/dry" || fail "the dry run would slow the critical container"
free_again "$batch" || fail "a dry run has slowed somebody"
guard
wait_for "the limit" slowed "$batch"
wait_for "its event" at_least 1 acted throttle
free_again "$critical" || fail "the critical container is slowed"
during=$(rate "$batch")
echo "batch: $before bytes in 3 seconds, $during while it is slowed to 262144 a second"
((during < before / 2)) || fail "nobody was slowed"
((during < 4 * 262144)) || fail "$during bytes in 3 seconds, with a limit of 262144 a second"
ls /run/shale/guard/*/active.json >/dev/null || fail "the limit was not written down"

kill -9 "$guard_pid"; wait "$guard_pid" 2>/dev/null || true
slowed "$batch" || fail "nobody has undone it yet"
configure "" # nobody is to be slowed any more: what is undone is what was left
guard
wait_for "the end of the limit" free_again "$batch"
wait_for "its event" at_least 1 undone throttle
[[ -z $(ls /run/shale/guard/*/active.json 2>/dev/null) ]] || fail "what is undone is still written down"
kill "$guard_pid"; wait "$guard_pid" || fail "the guard did not end well"

configure ", throttle = 93"
guard
wait_for "the limit" slowed "$batch"
kill -9 "$guard_pid"; wait "$guard_pid" 2>/dev/null || true
slowed "$batch" || fail "nobody has undone it yet"
cat >"$WORK/shaled.toml" <<TOML
[[snapshotter]]
name = "off"
driver = "overlay2"
root = "$WORK/disk/store"
socket = "$WORK/off.sock"
[guard]
enabled = false
TOML
"$(dirname "$SHALE")/shaled" --config "$WORK/shaled.toml" >"$WORK/shaled.log" 2>&1 & guard_pid=$!
wait_for "the end of the limit, by a shaled whose guard is off" free_again "$batch"
kill "$guard_pid"; wait "$guard_pid" || fail "shaled did not end well"

guard
wait_for "the limit" slowed "$batch"
empty # the pressure ends
wait_for "the end of the limit" free_again "$batch"
wait_for "its event" at_least 2 undone throttle
fill 94
wait_for "the limit" slowed "$batch"
kill "$guard_pid"; wait "$guard_pid" || fail "the guard did not end well"
free_again "$batch" || fail "a guard that ended has left a limit"
after=$(rate "$batch")
((after > 2 * during)) || fail "$after bytes in 3 seconds after it, $during while it was slowed"
store guard --once >/dev/null
free_again "$batch" || fail "a look has left a limit"

# ----------------------------------------------------------------------------------------------------------------- evict
grace=60 configure ", throttle = 93, evict = 96"
fill 97
guard
wait_for "evict" at_least 1 acting evict
sleep 1
kill -9 "$guard_pid"; wait "$guard_pid" 2>/dev/null || true # while it waits for the end of the batch container
alive "$batch" || fail "it was ended, though it has a minute"
wait_for "the batch container, which is not frozen" writes "$batch" "$(written "$batch")"
grace=1 configure ", throttle = 93, evict = 96"
guard
wait_for "the end of the batch container" ended "$batch"
wait_for "its event" at_least 1 acted evict
alive "$critical" || fail "the critical container was ended"
sleep 5 # the disk is as full as before for all that is left
alive "$critical" || fail "the critical container was ended"
fill 97
wait_for "an eviction that has nobody" at_least 1 failed evict
alive "$critical" || fail "the critical container was ended"
events | grep -F "are critical" >/dev/null || fail "no reason: $(events)"
events | grep '"acted"' | grep -F "/$WORLD/$batch" | grep -F "freed" >/dev/null || fail "no evidence: $(events)"
kill "$guard_pid"; wait "$guard_pid" || fail "the guard did not end well"
guard_pid=
free_again "$critical" || fail "the critical container is slowed"
wait_for "the critical container" writes "$critical" "$(written "$critical")"
for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done

# ------------------------------------------------------------------------------------------------------------------ soak
[[ -n ${SHALE_GUEST:-} ]] || SHALE_TEST_DIR=$WORK "$REPO/tests/soak/guard.sh" 60 # an emulated processor is no measure
