#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# shale doctor, orphans and df --host on real stores: Docker (overlay2, with BuildKit), containerd and podman as Debian has
# them, on private roots. The undamaged stores have no finding, a build at work neither. Then real damage: an import and a
# build killed in their middle, files emptied as by a power cut, a layer's mount kept by another mount namespace, deleted
# files held open, directories nobody owns. Each is found with its evidence; what is reclaimed goes, comes back, and is freed; and the engines run all that
# they had.
# Time limit: 900 s
source "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/integration/world.sh
source "$(dirname "$0")/../world.sh"
need dockerd containerd ctr runc podman python3 mkfs.ext4 pgrep
need_root "daemons, mounts"
need_overlay
[[ -x /bin/busybox ]] || skip "busybox-static is not installed"
own_world

disk=$WORK/disk D=$WORK/disk/docker C=$WORK/disk/containerd P=$WORK/disk/podman
address=$WORK/containerd.sock
docker() { command /usr/bin/docker -H "unix://$WORK/docker.sock" "$@"; }
ctr() { command ctr --address "$address" --namespace test "$@"; }
podman() {
  command podman --root "$P" --runroot /run/podman-test --storage-driver overlay "$@" 2>"$WORK/podman.log" || fail "podman $*: $(cat "$WORK/podman.log")"
}
stores=(--store "docker=$D" --store "containerd=$C" --store "podman=$P")
# What the host has by itself (a disk that is nearly full, pressure) is not this test's business.
checks=(store-orphans store-leaked-records damaged-layers leaked-mounts deleted-open-files overlay-work-leftovers d-type-missing
  driver-switch depth-limit overlay-options quota-project-ids)
doctor() { # ARGUMENTS... -> $WORK/report.json; its exit status
  local check arguments=()
  for check in "${checks[@]}"; do arguments+=(--check "$check"); done
  "$SHALE" doctor "${stores[@]}" "${arguments[@]}" --format json "$@" >"$WORK/report.json"
}
# The engines run in this very PID namespace: what is outside of it has nothing to do with them.
orphans() { "$SHALE" orphans --assume-alone "${stores[@]}" "$@"; }
# report EXPRESSION: a Python expression over the report; "found" are its findings by check.
report() {
  python3 - "$WORK/report.json" "$1" <<'PYTHON' || fail "not so: $1; the report: $(cat "$WORK/report.json")"
import json, sys
report = json.load(open(sys.argv[1]))
found = {}
for finding in report["findings"]:
    found.setdefault(finding["check"], []).append(finding)
def evidence(check, subject=""):
    return "\n".join(line for finding in found.get(check, []) if subject in finding["subject"] for line in finding["evidence"])
sys.exit(0 if eval(sys.argv[2]) else 1)
PYTHON
}
wait_for() { # WHAT COMMAND...: 60 s
  local what=$1 n
  shift
  for ((n = 0; n < 600; n++)); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  fail "$what did not come; $(tail -n 5 "$WORK"/*.log)"
}

# ------------------------------------------------------------------------------------------------------------- daemons
truncate -s 2G "$WORK/disk.img"; mkfs.ext4 -q "$WORK/disk.img"
mkdir -p "$disk"; mount -o loop "$WORK/disk.img" "$disk"
# dockerd wants hierarchies of cgroup v1 with its own directories, or v2: it takes those of the host.
cat >"$WORK/containerd.toml" <<TOML
version = 2
root = "$C"
state = "$WORK/containerd-run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$address"
TOML
echo '{}' >"$WORK/daemon.json"
start_containerd() {
  containerd --config "$WORK/containerd.toml" >>"$WORK/containerd.log" 2>&1 & containerd_pid=$!
  wait_for containerd ctr version
}
start_docker() {
  rm -f "$WORK/docker.pid"
  dockerd --data-root "$D" --exec-root "$WORK/docker-run" --pidfile "$WORK/docker.pid" -H "unix://$WORK/docker.sock" --iptables=false \
    --ip6tables=false --bridge=none --containerd "$address" --storage-driver overlay2 --config-file "$WORK/daemon.json" >>"$WORK/dockerd.log" 2>&1 &
  docker_pid=$!
  wait_for dockerd docker info
}
stop() { # PID [SIGNAL]
  kill "-${2:-TERM}" "$1"
  wait "$1" || true
}
start_containerd
start_docker

# --------------------------------------------------------------------------------------------------------------- stores
mkdir -p "$WORK/image/bin" "$WORK/build"
cp /bin/busybox "$WORK/image/bin/"
for applet in sh cat sleep ls true; do ln -s busybox "$WORK/image/bin/$applet"; done
tar -C "$WORK/image" -cf "$WORK/base.tar" .
docker import "$WORK/base.tar" base:1 >/dev/null
cat >"$WORK/build/Dockerfile" <<'DOCKERFILE'
FROM base:1
RUN ["/bin/sh", "-c", "echo one >/one; for i in 1 2 3 4 5 6 7 8; do cat /bin/busybox; done >/large"]
RUN ["/bin/sh", "-c", "echo two >/two"]
CMD ["/bin/sleep", "1000"]
DOCKERFILE
DOCKER_BUILDKIT=0 docker build --network none -t app:1 "$WORK/build" >"$WORK/build.log" 2>&1
DOCKER_BUILDKIT=1 docker build --network none -t kit:1 "$WORK/build" >>"$WORK/build.log" 2>&1
mkdir "$WORK/step"
printf 'FROM base:1\nRUN ["/bin/sleep", "10001"]\n' >"$WORK/step/Dockerfile"
start_step() { # a build that stays in its step: $build, the directory of the step $step, its process $sleeper
  DOCKER_BUILDKIT=1 docker build --network none "$WORK/step" >>"$WORK/build.log" 2>&1 & build=$!
  wait_for "the step of a build" step_runs
}
step_runs() {
  step=$(findmnt -rno TARGET | grep -F "$D/buildkit/executor/") && step=${step%/rootfs} && [[ -d $step/rootfs ]] &&
    sleeper=$(pgrep -xf '/bin/sleep 10001')
}
docker volume create data >/dev/null
docker run -d --network none --name web -v data:/data app:1 >/dev/null
docker run -d --network none --name gone app:1 >/dev/null
docker save app:1 >"$WORK/app.tar"
ctr images import "$WORK/app.tar" >/dev/null
image=$(ctr images ls -q)
ctr container create "$image" box /bin/true
podman import "$WORK/base.tar" localhost/base:1 >/dev/null
podman create --name pod localhost/base:1 /bin/true >/dev/null
runs_all() {
  [[ $(docker exec web /bin/cat /one /two) == $'one\ntwo' ]] || fail "web does not run"
  [[ $(docker run --rm --network none kit:1 /bin/cat /two) == two ]] || fail "kit:1 does not run"
  [[ $(docker run --rm --network none base:1 /bin/sh -c 'echo base') == base ]] || fail "base:1 does not run"
  ctr run --rm "$image" again /bin/cat /one | grep -x one >/dev/null || fail "containerd's image does not run"
  podman mount pod >/dev/null && podman unmount pod >/dev/null || fail "podman's container does not mount"
}
runs_all

# ---------------------------------------------------------------------------------------------------- the undamaged twin
# What was made a moment ago may be in the making; a daemon that has started since proves that it is not.
settle() {
  stop "$docker_pid"; stop "$containerd_pid"
  start_containerd; start_docker
  docker start web >/dev/null
}
docker rm -f gone >/dev/null
settle
start_step
doctor || fail "the undamaged stores: $(cat "$WORK/report.json")"
report 'not report["findings"] and not report["unable"]'
kill -KILL "$sleeper"
wait "$build" && fail "the build ended well without its step"
[[ ! -e $step ]] || fail "BuildKit leaves the directory of a step that has ended: what it leaves else proves nothing"
[[ $(orphans ls --json | python3 -c 'import json,sys; print(json.load(sys.stdin))') == "{'orphans': [], 'unable': []}" ]] || fail "orphans in undamaged stores"
"$SHALE" facts "${stores[@]}" >"$WORK/facts.json"
python3 - "$WORK/facts.json" <<'PYTHON'
import json, sys
facts = json.load(open(sys.argv[1]))
engines = {(store["engine"], store["driver"]) for store in facts["stores"]}
assert {("docker", "overlay2"), ("buildkit", "overlay2"), ("containerd", "overlayfs"), ("podman", "overlay")} <= engines, engines
docker = next(store for store in facts["stores"] if store["engine"] == "docker")
assert {name for image in docker["images"] for name in image.get("names", [])} == {"base:1", "app:1", "kit:1"}, docker["images"]
assert [(one["name"], one["state"]) for one in docker["containers"]] == [("web", "running")], docker["containers"]
assert [volume["name"] for volume in docker["volumes"]] == ["data"]
PYTHON
# The same facts say the same elsewhere.
"$SHALE" doctor --facts - --check store-orphans --check damaged-layers --format line <"$WORK/facts.json" | grep -x "no problem found" >/dev/null ||
  fail "the facts say something else than the host"
head -c 1000 "$WORK/facts.json" >"$WORK/cut.json"
refuse "cut off" -- "$SHALE" doctor --facts "$WORK/cut.json"
sed 's/"version": 1/"version": 99/' "$WORK/facts.json" >"$WORK/newer.json"
refuse "version 99" -- "$SHALE" doctor --facts "$WORK/newer.json"

# --------------------------------------------------------------------------------------------------------------- damage
snapshots=$C/io.containerd.snapshotter.v1.overlayfs/snapshots
nobody=$D/overlay2/$(printf 'a%.0s' {1..64}) strange=$P/overlay/$(printf 'b%.0s' {1..64})
# 1. A layer of an image, emptied as by a power cut; a copy of another, in no record, and one in each other store.
victim=$(docker inspect -f '{{index .RootFS.Layers 1}}' app:1)
victim=$D/overlay2/$(cat "$(grep -lF "$victim" "$D"/image/overlay2/layerdb/sha256/*/diff | head -n 1 | xargs dirname)/cache-id")/diff/large
[[ -s $victim ]] || fail "the layer with /large is not where Docker's records say"
cp "$victim" "$WORK/large"; cp --attributes-only --preserve=all "$victim" "$WORK/large.as"
mkdir -p "$nobody/diff/etc" "$nobody/work" "$strange/diff" "$snapshots/stray/fs"
head -c 100000 /dev/urandom | tee "$nobody/diff/etc/file" "$strange/diff/file" >"$snapshots/stray/fs/file"
# 2. An import and a step of a build that kill -9 ends: dockerd leaves the tree of the one, and the directory, the mount
# and the process of the other, for ever.
before=$(ls "$D/overlay2")
head -c 30000000 /dev/urandom >"$WORK/noise"
mkfifo "$WORK/pipe"
{ tar -C "$WORK" -cf - noise | head -c 20000000 || true; exec sleep 1000; } >"$WORK/pipe" & feeder=$!
docker import - half:1 <"$WORK/pipe" >>"$WORK/build.log" 2>&1 & import=$!
new_layer() { comm -13 <(echo "$before") <(ls "$D/overlay2"); }
half_is_there() { lost=$(new_layer) && [[ -n $lost && -d $D/overlay2/$lost ]] && (($(du -sk "$D/overlay2/$lost/diff" | cut -f 1) > 19000)); }
wait_for "the half of a layer" half_is_there
start_step
# 3. A mount of a container kept by another mount namespace; an orphan that is mounted there, and one that is open.
leaked=$(docker inspect -f '{{.GraphDriver.Data.MergedDir}}' web)
mkdir "$WORK/in" "$WORK/in/layer" "$WORK/in/orphan"
unshare --mount --propagation private bash -c "
  mount --bind '$leaked' '$WORK/in/layer' && mount --bind '$nobody/diff/etc' '$WORK/in/orphan' && echo ready >'$WORK/leaker' && exec sleep 10000" & leaker=$!
wait_for "the other namespace" test -s "$WORK/leaker"
stop "$docker_pid" KILL
kill "$feeder" "$import" "$build" 2>/dev/null || true
wait "$feeder" "$import" "$build" 2>/dev/null || true
stop "$containerd_pid"
# 4. Deleted, and still open: no name, no space either. And a file of an orphan that is open.
python3 - "$strange/diff/file" "$disk/held" <<'PYTHON' & holder=$!
import os, sys, time
open_there = open(sys.argv[1], "rb")
held = open(sys.argv[2], "wb")
held.write(b"x" * (64 << 20))
held.flush()
os.fsync(held.fileno())
os.unlink(held.name)
time.sleep(10000)
PYTHON
: >"$victim"
# What is younger than a daemon by some seconds may be of its own making.
sleep 6
start_containerd
start_docker
docker rm -f web >/dev/null # what held its mount holds it still
deleted() { ls -l "/proc/$holder/fd" | grep 'held (deleted)'; }
wait_for "the deleted file" deleted
# containerd may have made what is younger than a minute; Docker's readers ask for the daemon's start.
judged() { orphans ls --no-usage --json >"$WORK/orphans.json" || true; python3 -c '
import json, sys
listed = json.load(open(sys.argv[1]))
names = {orphan["layer"] for orphan in listed["orphans"]}
sys.exit(0 if set(sys.argv[2:]) <= names and not listed["unable"] else 1)' "$WORK/orphans.json" "$lost" "$(basename "$nobody")" "$(basename "$strange")" stray "executor/$(basename "$step")"; }
wait_until_judged() {
  for ((n = 0; n < 200; n++)); do judged && return; sleep 1; done
  fail "not all orphans are listed: $(cat "$WORK/orphans.json")"
}
wait_until_judged
status=0
doctor || status=$?
((status == 1)) || fail "damage was not found: exit $status, $(cat "$WORK/report.json")"
report 'not report["unable"]'
report '"'"$lost"'" in evidence("store-orphans", "docker")'
report '"'"$nobody"'" in evidence("store-orphans", "docker")'
report '"snapshots/stray" in evidence("store-orphans", "containerd")'
report '"'"$strange"'" in evidence("store-orphans", "podman")'
report '"'"$step"'" in evidence("store-orphans", "buildkit")'
report '"mounted at '"$step"'/rootfs, which is the root of process '"$sleeper"' (sleep)" in evidence("store-orphans", "buildkit")'
report '"/large: 0 bytes, the archive has" in evidence("damaged-layers", "docker") and found["damaged-layers"][0]["severity"] == "critical"'
report '"'"$leaker"'" in str(found["leaked-mounts"]) and "'"$WORK/in/layer"'" in str(found["leaked-mounts"])'
report '"'"$holder"'" in str(found["deleted-open-files"])'

# -------------------------------------------------------------------------------------------------------------- reclaim
refuse "is not an orphan" -- orphans reclaim nonsense
refuse "PID namespace" -- "$SHALE" orphans reclaim "${stores[@]}" --min-age 0
[[ -d $D/overlay2/$lost && -d $snapshots/stray ]] || fail "something was moved though it was not proved to be unused"
tree() { (cd "$1" && find . -printf '%p %y %m %U %G %s %T@ %i\n' | sort); }
free_blocks() { sync; stat -f -c %f "$disk"; }
tree "$D/overlay2/$lost" >"$WORK/tree.before"; ls -l "$D/overlay2/l" >"$WORK/links.before"
orphans reclaim --dry-run --min-age 0 >"$WORK/dry" 2>&1 || true
grep -F "would move $D/overlay2/$lost" "$WORK/dry" >/dev/null || fail "--dry-run does not name the orphan: $(cat "$WORK/dry")"
grep -F "$nobody stays: it is mounted" "$WORK/dry" >/dev/null || fail "what is mounted elsewhere would be moved: $(cat "$WORK/dry")"
grep -F "$strange stays: process $holder has" "$WORK/dry" >/dev/null || fail "what is open would be moved: $(cat "$WORK/dry")"
grep -F "$step stays: something is mounted on it or from it, at $step/rootfs" "$WORK/dry" >/dev/null || fail "the mount of a step would be moved: $(cat "$WORK/dry")"
[[ -d $D/overlay2/$lost ]] || fail "--dry-run moved something"
orphans reclaim >/dev/null 2>"$WORK/young" || true # the default is ten minutes
(($(grep -c "younger than 600 seconds" "$WORK/young") >= 2)) || fail "what is young was touched: $(cat "$WORK/young")"
[[ -d $D/overlay2/$lost && -d $snapshots/stray && -d $nobody && -d $strange ]] || fail "a young orphan was moved"
status=0
orphans reclaim --min-age 0 >"$WORK/moved" 2>&1 || status=$?
((status == 1)) || fail "three orphans had to stay, and the exit status is $status: $(cat "$WORK/moved")"
[[ ! -e $D/overlay2/$lost && ! -e $snapshots/stray && -d $nobody && -d $strange && -d $step/rootfs ]] || fail "the wrong ones were moved: $(cat "$WORK/moved")"
orphans trash | grep -F "$lost" >/dev/null || fail "the trash does not list the orphan"
orphans undo >/dev/null
tree "$D/overlay2/$lost" | diff "$WORK/tree.before" - || fail "undo did not put the tree back as it was"
ls -l "$D/overlay2/l" | diff "$WORK/links.before" - || fail "undo did not put the links back"
kill "$leaker" "$holder"; wait "$leaker" "$holder" 2>/dev/null || true
kill -KILL "$sleeper"
wait_for "the end of the step's mount" umount "$step/rootfs"
wait_until_judged # what came back a moment ago looks new
orphans reclaim --min-age 0 >"$WORK/moved" || fail "nothing stands against any of them: $(cat "$WORK/moved")"
[[ ! -e $nobody && ! -e $strange && ! -e $step ]] || fail "they are not used any more, and stay"
free=$(free_blocks)
orphans purge >"$WORK/purged" || fail "purge: $(cat "$WORK/purged")"
(($(free_blocks) > free + 4000)) || fail "purge freed nothing: $free blocks were free before, $(free_blocks) are now" # the half import is 19 MB
[[ $(orphans ls --json | python3 -c 'import json,sys; print(json.load(sys.stdin))') == "{'orphans': [], 'unable': []}" ]] || fail "orphans are left"

# ------------------------------------------------------------------------------------------------- all runs as it did
cp "$WORK/large" "$victim"; touch -r "$WORK/large.as" "$victim"
docker run -d --network none --name web -v data:/data app:1 >/dev/null
runs_all
settle
runs_all
doctor || fail "the mended stores: $(cat "$WORK/report.json")"
report 'not report["findings"] and not report["unable"]'

# ----------------------------------------------------------------------------------------------------------- df --host
sync
"$SHALE" df --host "${stores[@]}" --json >"$WORK/df.json"
python3 - "$WORK/df.json" "$disk" <<'PYTHON'
import json, sys
space = next(one for one in json.load(open(sys.argv[1])) if one["target"] == sys.argv[2])
assert abs(space["rest_bytes"]) < space["used_bytes"] / 10 + (4 << 20), (space["rest_bytes"], space["used_bytes"])
names = [part["name"] for part in space["parts"]]
assert any("docker overlay2" in name for name in names) and any("podman overlay" in name for name in names), names
PYTHON
docker rm -f web >/dev/null
stop "$docker_pid"; stop "$containerd_pid"
