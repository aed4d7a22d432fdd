#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A store goes from driver to driver and back: the last tree is the first. Each copy is killed twice when it has some layers
# in place and lacks others, each removal of the old side when some of it has gone: the run is stopped again and again and
# looked at until it is there. The chain is of those drivers that can work in their place here; SHALE_CHAIN names another one
# ("devicemapper:device": its pool on a block device), SHALE_PLACE_<driver> a directory for a driver that needs a file system
# of its own (zfs). 061-migrate-zfs does both.
# Time limit: 1200 s
source "$(dirname "$0")/../lib.sh"
shale() { "$SHALE" "${opts[@]}" --root "$ROOT" "$@"; } # as the store's driver wants to be opened
opts=()
need busybox python3 setpriv
need_root "mounts"
need_overlay
read -r -a chain <<<"${SHALE_CHAIN:-overlay2 btrfs erofs vfs overlay overlay2}"
running=''
release() {
  [[ -z $running ]] || kill -KILL "$running" 2>/dev/null || true # it may be stopped
  remove_devices "$WORK"/store-*
}

place_of() { # DRIVER: prints a directory that the driver can work in, or fails
  local given=SHALE_PLACE_$1
  if [[ -n ${!given:-} ]]; then mktemp -d "${!given}/shale-XXXXXX"; return; fi
  if [[ $1 == btrfs && ! -d $WORK/btrfs ]]; then
    command -v mkfs.btrfs >/dev/null || return 1
    truncate -s 4G "$WORK/btrfs.img"
    mkfs.btrfs -q "$WORK/btrfs.img" >/dev/null
    mkdir "$WORK/btrfs"
    mount -o loop "$WORK/btrfs.img" "$WORK/btrfs"
  fi
  [[ $1 == btrfs ]] && mktemp -d "$WORK/btrfs/store-XXXXXX" || mktemp -d "$WORK/store-XXXXXX"
}
# What the driver is opened with, in `wanted`.
options_for() { # DRIVER[:device]
  wanted=()
  [[ $1 == devicemapper* ]] || return 0
  wanted=(data_size=2G metadata_size=8M base_size=256M)
  [[ $1 == *:device ]] || return 0
  local disk device
  disk=$(mktemp "$WORK/disk-XXXXXX")
  truncate -s 2G "$disk"
  device=$(losetup --find --show "$disk")
  exec 9<"$device" # it goes with this shell
  losetup --detach "$device"
  wanted+=(pool=device "device=$device")
}
usable() { "$SHALE" --root "$2" drivers --quiet | grep -x "$1" >/dev/null; } # DRIVER PLACE

# What a store is, seen from outside.
describe() { # ROOT OUT
  local at
  mkdir "$2"
  at=$("$SHALE" "${opts[@]}" --root "$1" container mount web)
  python3 "$REPO/tools/tree_manifest.py" "$at" >"$2/tree"
  "$SHALE" "${opts[@]}" --root "$1" container unmount web
  "$SHALE" "${opts[@]}" --root "$1" container diff web >"$2/diff"
  "$SHALE" "${opts[@]}" --root "$1" --json image ls >"$2/images"
  "$SHALE" "${opts[@]}" --root "$1" --json container ls | sed "s|$1|ROOT|g" >"$2/containers"
  "$SHALE" "${opts[@]}" --root "$1" --json lease ls >"$2/leases"
  "$SHALE" "${opts[@]}" --root "$1" --json layer ls >"$2/layers"
}
# The trees of two drivers: a file whose other name was replaced has two links where the lower one is counted, else one.
same_tree() { diff <(cut -f 1-8 "$1/tree") <(cut -f 1-8 "$2/tree"); }

ROOT=$(place_of "${chain[0]}")
"$REPO/tools/busybox_image.sh" "$WORK/image.tar" tour:v1 >/dev/null
"$SHALE" --root "$ROOT" --driver "${chain[0]}" image import "$WORK/image.tar" 2>/dev/null
# A layer that stands on no other and is the largest of all: a copy begins with it, and has it in place early.
python3 - "$WORK/apart.tar" <<'PY'
import hashlib, io, json, os, sys, tarfile
def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as tar:
    add(tar, "data", os.urandom(12_000_000))
layer = layer.getvalue()
digest = hashlib.sha256(layer).hexdigest()
config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]}}).encode()
names = {"Config": hashlib.sha256(config).hexdigest() + ".json", "RepoTags": ["apart:1"], "Layers": [digest + "/layer.tar"]}
with tarfile.open(sys.argv[1], "w") as tar:
    add(tar, "manifest.json", json.dumps([names]).encode())
    add(tar, names["Config"], config)
    add(tar, names["Layers"][0], layer)
PY
shale image import "$WORK/apart.tar" 2>/dev/null
shale container create --name maker tour:v1 >/dev/null
for n in 1 2 3 4; do # layers that take a while
  at=$(shale container mount maker)
  mkdir "$at/srv/$n"
  for i in {1..200}; do echo "$n $i" >"$at/srv/$n/$i"; done
  head -c 8000000 /dev/urandom >"$at/srv/$n/data"
  ln "$at/srv/$n/1" "$at/srv/$n/one"
  cp /bin/true "$at/bin/true$n"
  command -v setcap >/dev/null && setcap cap_net_raw+ep "$at/bin/true$n"
  ((n == 1)) || rm -r "$at/srv/$((n - 1))/data" "$at/srv/$((n - 1))/2"
  shale container unmount maker
  shale container commit maker "made:$n" >/dev/null
  shale container rm maker >/dev/null
  shale container create --name maker "made:$n" >/dev/null
done
shale container rm maker >/dev/null
shale image tag made:4 other/name:x
shale image rm made:2 >/dev/null
shale lease create hold --ref layer:1 --ref "layer:2" >/dev/null
shale lease create brief --expires 30d >/dev/null
shale container create --name web made:4 >/dev/null
shale container create --name idle tour:v1 >/dev/null
at=$(shale container mount web)
echo changed >"$at/etc/passwd"
rm -r "$at/srv/3" "$at/etc/group"
rm -r "$at/srv/1" && mkdir "$at/srv/1" && echo anew >"$at/srv/1/file"
ln "$at/srv/1/file" "$at/srv/1/twin"
mknod "$at/dev/null" c 1 3
mkfifo -m 600 "$at/pipe"
ln -s ../etc/passwd "$at/root/link"
chown -h 12:34 "$at/root/link"
chmod 0711 "$at/srv"
truncate -s 3M "$at/sparse"
touch -d '2001-02-03 04:05:06.789' "$at/etc/passwd"
shale container unmount web
describe "$ROOT" "$WORK/first"

# A shale whose steps are looked at. It goes with this shell, however that ends. What it says is in $WORK/said.
start() { # ARGUMENT...
  : >"$WORK/said"
  setpriv --pdeathsig KILL "$SHALE" "${opts[@]}" --root "$ROOT" "$@" >/dev/null 2>"$WORK/said" &
  running=$!
}
# Waits for its end: `status`.
ended() {
  status=0
  { wait "$running"; } 2>/dev/null || status=$?
  running=''
}
# Stops it. False: it has ended.
halt() {
  local state=''
  kill -STOP "$running" 2>/dev/null || true
  while [[ $state != T ]]; do
    { read -r _ _ state _ <"/proc/$running/stat"; } 2>/dev/null || state=''
    case $state in
      T) ;;
      R | S | D) pause ;;
      *) ended; return 1 ;;
    esac
  done
}
resume() { kill -CONT "$running"; pause; }
exec {tick}<> <(:)
pause() { read -rt 0.004 -u "$tick" || true; }
strike() {
  kill -KILL "$running"
  ended
  ((status == 137)) || fail "a run that was stopped and killed ended with $status: $(cat "$WORK/said")"
}
# What the store says of the migration: `phase`, `layers`, and how many of them are `copied`. In vain while a run that is
# stopped holds the records.
ask() {
  local told
  told=$(timeout --signal=KILL 20 "$SHALE" "${opts[@]}" --root "$ROOT" --json migrate 2>"$WORK/why") || return 1
  [[ $told =~ \"phase\":\ *\"([a-z]+)\" ]] || return 1
  phase=${BASH_REMATCH[1]}
  [[ $told =~ \"layers\":\ *([0-9]+) ]] || return 1
  layers=${BASH_REMATCH[1]}
  [[ $told =~ \"layers_copied\":\ *([0-9]+) ]] || return 1
  copied=${BASH_REMATCH[1]}
}
# What the run has said of layers: how many are `applied`, `of` how many that it set out to copy.
listen() {
  local line
  applied=0 of=0
  while read -r line; do
    [[ $line =~ ^layer\ [0-9]+/([0-9]+)\ .*\ done$ ]] || continue
    applied=$((applied + 1)) of=${BASH_REMATCH[1]}
  done <"$WORK/said"
}
# Layers and containers that a driver keeps at ROOT/DRIVER: `kept`.
count() {
  set -- "$1"/[0-9]*
  kept=$#
  [[ -e $1 ]] || kept=0
}
# Stops a copy that has some layers and lacks others, by what it says itself or by the store's records. False: it has ended.
in_the_middle() { # said|recorded
  local waited=0
  while halt; do
    listen
    if ((waited)) && ! ask; then
      resume
      sleep 0.2
      continue
    elif ((waited)); then
      ((copied == 0 || copied == layers)) || return 0
    elif ((applied > 0 && applied < of)); then
      [[ $1 == recorded ]] || return 0
      sleep 5.2 # what is in place is recorded every five seconds
      waited=1
    fi
    resume
  done
  return 1
}
# One hop's copy, killed in its middle by both measures; one that was over too soon is taken back and tried again.
cut_copy() {
  local measure tries
  for measure in said recorded; do
    for ((tries = 1;; ++tries)); do
      start --jobs 1 migrate --to "$driver" --to-root "$next" "${wanted[@]/#/--to-opt=}"
      ! in_the_middle "$measure" || break
      ((status == 0)) || fail "migrate to $entry ended with $status when it was to be killed: $(cat "$WORK/said")"
      ((tries < 6)) || fail "migrate to $entry was over $tries times before it could be killed in its middle ($measure)"
      shale migrate --rollback >/dev/null 2>&1
      options_for "$entry" # a device stays labelled
    done
    strike
    ask || fail "after a kill the store does not say how far its migration is: $(cat "$WORK/why")"
    [[ $phase == copying ]] || fail "after a kill in the middle of a copy the migration is '$phase'"
    ((copied < layers)) || fail "after a kill in the middle of a copy all $copied layers are copied"
    [[ $measure == said ]] || ((copied > 0)) || fail "what was recorded before the kill is not any more"
    count "$next/$driver"
    ((kept > 0 && kept >= copied)) || fail "$copied layers are recorded, $kept are on the new side"
    shale image ls | grep -F other/name >/dev/null || fail "after a kill the old side does not count any more"
    copy_kills=$((copy_kills + 1))
  done
}
# Killed when it has hardly begun, then when some of the old side has gone and some has not.
cut_finish() {
  local before
  start migrate --finish
  sleep "0.0$((RANDOM % 6))"
  if halt; then
    strike
    ask || grep -F "has moved to" "$WORK/why" >/dev/null || fail "after a kill the store neither opens nor says where it is"
  else
    ((status == 0)) || fail "finish failed with $status when it was to be killed: $(cat "$WORK/said")"
  fi
  count "$ROOT/$old"
  before=$kept
  start migrate --finish
  while halt; do
    count "$ROOT/$old"
    if ((kept > 0 && kept < before)); then
      strike
      ask || fail "after a kill the store does not say that it is being left: $(cat "$WORK/why")"
      [[ $phase == retiring ]] || fail "after a kill in the middle of the removal the migration is '$phase'"
      finish_kills=$((finish_kills + 1))
      return
    fi
    resume
  done
  ((status == 0)) || grep -F "has moved to" "$WORK/said" >/dev/null ||
    fail "finish failed with $status when it was to be killed: $(cat "$WORK/said")"
}

copy_kills=0 finish_kills=0 hops=0 went=${chain[0]} old=${chain[0]}
for entry in "${chain[@]:1}"; do
  driver=${entry%%:*}
  next=$(place_of "$driver") || { skip_part "migrate to $driver: no place for it here"; continue; }
  if ! usable "$driver" "$next"; then skip_part "migrate to $driver: it cannot work here"; continue; fi
  rmdir "$next" 2>/dev/null || true
  options_for "$entry"
  cut_copy
  shale --json migrate --to "$driver" --to-root "$next" "${wanted[@]/#/--to-opt=}" >"$WORK/report" 2>"$WORK/why" ||
    fail "migrate to $entry: $(cat "$WORK/why")"
  python3 - "$WORK/report" "$copied" "$layers" <<'PY' || fail "migrate to $entry did not go on where it was killed: $(cat "$WORK/report")"
import json, sys
told, copied, layers = json.load(open(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
report = told["report"]
sys.exit(not (report["layers"] == layers - copied and report["kept"] >= copied and told["layers_copied"] == layers))
PY
  shale image ls | grep -F other/name >/dev/null || fail "the old side does not count any more"
  cut_finish
  shale migrate --finish >/dev/null 2>"$WORK/why" || grep -F "has moved to" "$WORK/why" >/dev/null ||
    fail "finish: $(cat "$WORK/why")"
  refuse "$next" -- shale image ls
  hops=$((hops + 1)) ROOT=$next went="$went $entry" old=$driver opts=("${wanted[@]/#/--storage-opt=$driver.}")
  shale --json info | grep -F "\"$driver\"" >/dev/null || fail "the store is not kept by $driver"
  shale check --level data >/dev/null
  describe "$ROOT" "$WORK/at-$driver"
  same_tree "$WORK/first" "$WORK/at-$driver" || fail "the tree differs after $driver"
  for part in images containers leases layers; do
    diff "$WORK/first/$part" "$WORK/at-$driver/$part" || fail "$part differ after $driver"
  done
  rm -rf "$WORK/last"
  mv "$WORK/at-$driver" "$WORK/last"
done
[[ $went == *" ${chain[0]}" ]] && diff -r "$WORK/first" "$WORK/last"
echo "went $went: killed $copy_kills times in the middle of $hops copies, $finish_kills times in the middle of removing the old side"
((hops > 0 && copy_kills == 2 * hops)) || fail "every copy was to be killed twice"
((finish_kills > 0)) || fail "no removal of an old side was killed in its middle"

# In place, and back; what the configuration names does not stand in the way.
there=vfs
refuse "migrate --to $there" "${chain[-1]}" -- shale --driver "$there" image ls
refuse "no migration" -- shale migrate --finish
shale --driver "$there" migrate --to "$there" >/dev/null 2>&1
shale migrate | grep -F "$there" >/dev/null
shale migrate --rollback >/dev/null
[[ ! -e $ROOT/$there ]] || fail "rollback left $ROOT/$there"
shale --json migrate --to "$there" --dry-run | python3 -c 'import json, sys; e = json.load(sys.stdin)["estimate"]; assert e["fits"] and e["bytes"] > 1e6'
[[ ! -e $ROOT/$there ]] || fail "a dry run left $ROOT/$there"
shale migrate --to "$there" >/dev/null 2>&1
shale migrate --finish >/dev/null 2>&1
shale check --level data >/dev/null
describe "$ROOT" "$WORK/in-place"
same_tree "$WORK/first" "$WORK/in-place"
