#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A store goes from driver to driver and back, each run killed on the way: the last tree is the first. The chain is of those
# drivers that can work in their place here; SHALE_CHAIN names another one ("devicemapper:device": its pool on a block device),
# SHALE_PLACE_<driver> a directory for a driver that needs a file system of its own (zfs). 061-migrate-zfs does both.
# Time limit: 1200 s
source "$(dirname "$0")/../lib.sh"
shale() { "$SHALE" "${opts[@]}" --root "$ROOT" "$@"; } # as the store's driver wants to be opened
opts=()
need busybox python3
need_root "mounts"
need_overlay
read -r -a chain <<<"${SHALE_CHAIN:-overlay2 btrfs erofs vfs overlay overlay2}"

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

# Killed at a random moment up to three times; the store must open, or say where it went, after each.
killed() { # COMMAND...
  local status
  for _ in 1 2 3; do
    status=0
    { timeout --foreground --signal=KILL "0.$((RANDOM % 4))$((RANDOM % 10))$((RANDOM % 10))" "$@" >/dev/null 2>"$WORK/why" || status=$?; } 2>/dev/null
    ((status == 0)) && return
    if ((status != 137)); then # the one before was killed when all was done
      grep -F "has moved to" "$WORK/why" >/dev/null && return
      fail "'$*' failed with $status when it was to be killed: $(cat "$WORK/why")"
    fi
    kills=$((kills + 1))
    shale migrate >/dev/null 2>&1 || shale info 2>&1 | grep -F "has moved to" >/dev/null ||
      fail "after a kill the store neither opens nor says where it is"
  done
}

kills=0 went=${chain[0]}
for entry in "${chain[@]:1}"; do
  driver=${entry%%:*}
  next=$(place_of "$driver") || { skip_part "migrate to $driver: no place for it here"; continue; }
  if ! usable "$driver" "$next"; then skip_part "migrate to $driver: it cannot work here"; continue; fi
  rmdir "$next" 2>/dev/null || true
  options_for "$entry"
  killed "$SHALE" "${opts[@]}" --root "$ROOT" migrate --to "$driver" --to-root "$next" "${wanted[@]/#/--to-opt=}"
  shale migrate --to "$driver" --to-root "$next" "${wanted[@]/#/--to-opt=}" >/dev/null 2>"$WORK/why" ||
    fail "migrate to $entry: $(cat "$WORK/why")"
  shale image ls | grep -F other/name >/dev/null || fail "the old side does not count any more"
  killed "$SHALE" "${opts[@]}" --root "$ROOT" migrate --finish
  shale migrate --finish >/dev/null 2>"$WORK/why" || grep -F "has moved to" "$WORK/why" >/dev/null ||
    fail "finish: $(cat "$WORK/why")"
  refuse "$next" -- shale image ls
  ROOT=$next went="$went $entry" opts=("${wanted[@]/#/--storage-opt=$driver.}")
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
echo "went $went, killed $kills times"

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
