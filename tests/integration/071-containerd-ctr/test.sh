#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# containerd, ctr and runc as Debian has them, on shaled: a hundred containers of a Debian at once on every driver, ctr's
# snapshot commands, a container that outlives shaled again and again, layers that `shale image import` unpacked and
# containerd's client finds by their chain ids. At the end of each, the store is as empty as a new one.
# Time limit: 2400 s (containerd's client is compiled first: minutes where Go's cache is empty)
source "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/integration/debian_image.sh
source "$(dirname "$0")/../debian_image.sh"
# shellcheck source=tests/integration/world.sh
source "$(dirname "$0")/../world.sh"
need containerd ctr runc containerd-shim-runc-v2 curl python3 tar
need_root "mounts, containers"
need_overlay
SHALED=${SHALED:-$(dirname "$SHALE")/shaled}
[[ -x $SHALED ]] || fail "no program at $SHALED"

# A pull that asks for layers by chain id is not in ctr.
build_pull() {
  local library=/usr/share/gocode/src/github.com/containerd/containerd
  if ! command -v go >/dev/null || [[ ! -d $library ]]; then
    skip_part "layers shared with shale image import: Debian's golang-go and golang-github-containerd-containerd-dev are not installed"
    return
  fi
  mkdir -p "$WORK/go/src/shalepull"
  cp "$(dirname "$0")/pull.go" "$WORK/go/src/shalepull/"
  GO111MODULE=off GOPATH=$WORK/go:/usr/share/gocode GOFLAGS=-p=2 go build -o "$WORK/shalepull" shalepull
  PULL=$WORK/shalepull
}

if [[ -z ${WORLD:-} ]]; then
  debian_archive
  build_pull
  export debian PULL=${PULL:-}
fi
own_world

containers=100 at_once=100 restarts=5
# All of them at once take 6 GB at most while they start: 60 MB for ctr, a shim, runc and the container's shell.
room=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
if [[ -n ${SHALE_GUEST:-} ]]; then
  at_once=12
  skip_part "100 containers at once: an emulated processor is too slow for them; $at_once at once here, $containers in all"
elif ((room < containers * 60)); then
  at_once=12
  skip_part "100 containers at once: $room MB of memory are available, 6000 wanted; $at_once at once here, $containers in all"
fi
image=debian:plain layers=6
export address=$WORK/containerd.sock image
ctr() { command ctr --address "$address" --namespace "$WORLD" "$@"; }
snapshots() { ctr snapshots --snapshotter "shale-$driver" "$@"; }
count() { grep -c -- "$1" || true; } # lines of its input
export -f ctr fail

# ------------------------------------------------------------------------------------------------------------- daemons
place_of() { # DRIVER: where its store is
  case $1 in btrfs) echo "$WORK/btrfs/store" ;; *) echo "$WORK/$1" ;; esac
}
drivers=()
if command -v mkfs.btrfs >/dev/null; then
  truncate -s 8G "$WORK/btrfs.img"; mkfs.btrfs -q "$WORK/btrfs.img" >/dev/null
  mkdir "$WORK/btrfs"
  mount -o loop "$WORK/btrfs.img" "$WORK/btrfs" || skip_part "btrfs: no loop devices"
fi
for driver in overlay2 btrfs erofs; do
  if ! "$SHALE" --root "$(place_of "$driver")" drivers --quiet | grep -x "$driver" >/dev/null; then
    skip_part "containers on $driver: $("$SHALE" --root "$(place_of "$driver")" drivers | grep "^$driver " || echo "unknown driver")"
    continue
  fi
  drivers+=("$driver")
  cat >>"$WORK/shale.toml" <<TOML
[[snapshotter]]
name = "shale-$driver"
driver = "$driver"
root = "$(place_of "$driver")"
socket = "$WORK/$driver.sock"
TOML
done
((${#drivers[@]})) || skip "no driver works here"
printf '[shaled]\nmetrics = "%s"\n' "$WORK/metrics.sock" >>"$WORK/shale.toml"

metrics() { curl -sf --unix-socket "$WORK/metrics.sock" http://shaled/metrics; }
# until WHAT COMMAND...: a minute of patience.
until_is() {
  local what=$1 end=$((SECONDS + 60))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || { tail -n 20 "$WORK/shaled.log" "$WORK/containerd.log"; fail "$what"; }
    sleep 0.05
  done
}
start_shaled() {
  "$SHALED" --config "$WORK/shale.toml" 2>>"$WORK/shaled.log" &
  shaled=$!
  until_is "shaled does not start" metrics
}
start_shaled
{
  cat <<TOML
version = 2
root = "$WORK/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "$address"
TOML
  "$SHALE" --config "$WORK/shale.toml" containerd config
} >"$WORK/containerd.toml"
containerd --config "$WORK/containerd.toml" >"$WORK/containerd.log" 2>&1 &
until_is "containerd does not start" ctr version
no_trash() { metrics | grep -F "shale_trash_layers{snapshotter=\"shale-$driver\"} 0"; }
is_empty() { # neither snapshots nor trash: containerd has cleaned up
  local kind
  no_trash || return
  for kind in view active committed; do
    metrics | grep -F "shale_snapshots{snapshotter=\"shale-$driver\",kind=\"$kind\"} 0" || return
  done
}
everything() { find "$(place_of "$driver")" -printf '%y %P\n' | sort; }
for driver in "${drivers[@]}"; do
  ctr plugins ls | grep -E "snapshotter\.v1 +shale-$driver .* ok *$" >/dev/null || fail "containerd does not know $driver: $(ctr plugins ls)"
  # What a store is when it has been used and is empty.
  snapshots prepare first; snapshots rm first
  ctr content prune references >/dev/null # a collection of garbage
  until_is "$driver: the first snapshot stays" is_empty
  everything >"$WORK/$driver.new"
done

# -------------------------------------------------------------------------------------------------------------- the end
# What is above a store's own emptiness: records that containerd or shale see, files, mounts, loop devices.
store_is_sound() { "$SHALE" --root "$(place_of "$driver")" check "$@" >"$WORK/check" 2>&1 || fail "$driver: $(cat "$WORK/check")"; }
# What a cleanup may leave is only what a gc decides about: layers that an image import made (they have a chain id), which an
# image may want again, and their blobs.
nothing_left() { # [LAYERS that shale's images have left]
  local root layers=${1:-0}
  root=$(place_of "$driver")
  ctr containers ls -q | grep . && fail "containers are left"
  ctr images ls -q | xargs -r "${CTR[@]}" images rm --sync >/dev/null
  ctr content prune references >/dev/null
  [[ $(snapshots ls | tail -n +2) == "" ]] || fail "$driver: containerd still has $(snapshots ls)"
  until_is "$driver: containerd's clean-up left something" is_empty
  [[ -z $(ctr content ls -q) ]] || fail "content is left: $(ctr content ls)"
  store_is_sound
  "$SHALE" --root "$root" layer ls --json | python3 -c 'import json, sys
left = json.load(sys.stdin); assert len(left) == int(sys.argv[1]) and all(layer["chain_id"].strip("sha256:0") for layer in left), left' "$layers" ||
    fail "$driver: the cleanup left other layers than $layers of images"
  "$SHALE" --root "$root" gc --dry-run --json | python3 -c 'import json, sys
left = json.load(sys.stdin); assert left["leftovers"] == 0 and left["layers"] == int(sys.argv[1]) and (left["layers"] or not left["blobs"]), left' "$layers" ||
    fail "$driver: the cleanup left something for gc to find"
  ((layers)) || everything | diff "$WORK/$driver.new" - || fail "$driver: the cleanup left files"
  "$SHALE" --root "$root" gc >/dev/null
  [[ -z $("$SHALE" --root "$root" layer ls --quiet) ]] || fail "$driver: layers are left: $("$SHALE" --root "$root" layer ls)"
  store_is_sound
  everything | diff "$WORK/$driver.new" - || fail "$driver: the store is not as it was at the beginning"
  awk -v root="$root/" 'index($5, root) == 1 { print; found = 1 } END { exit found }' /proc/self/mountinfo || fail "$driver: mounts are left"
  losetup --noheadings --output BACK-FILE | grep -F "$root/" && fail "$driver: loop devices are left"
  took "$driver: nothing is left"
}
CTR=(ctr --address "$address" --namespace "$WORLD")

# ------------------------------------------------------------------------------------------------------------ the parts
import_image() {
  ctr images import --snapshotter "shale-$driver" --base-name debian "$debian" >/dev/null
  (($(snapshots ls | count ' Committed') == layers)) || fail "$driver: $layers layers were to be committed: $(snapshots ls)"
  took "$driver: imported"
}

# What it writes it reads again; it sees the image, and none of the others' files. It says so by its exit code: of the text of
# a short container ctr may read nothing any more on a busy machine. TOGETHER: a directory where it says that it runs, and
# waits for a line from the pipe "go".
container_once() { # DRIVER N [TOGETHER]
  local said status=0 mount=()
  [[ -z ${3:-} ]] || mount=(--mount "type=bind,src=$3,dst=/mnt,options=rbind:rw")
  said=$(ctr run --snapshotter "shale-$1" "${mount[@]}" "$image" "$1-$2" sh -exc "test ! -p /mnt/go || { : >/mnt/runs-$2; read -r go </mnt/go; }
    echo number $2 >/srv/of-$2; rm /etc/shadow
    test \"\$(cat /srv/of-*)\" = 'number $2'; test \"\$(cat /usr/share/doc/new)\" = new; test ! -e /etc/shadow
    dpkg -s libc6 | grep '^Status: install ok installed'; exit 42" 2>&1) || status=$?
  ((status == 42)) && return
  [[ -z ${3:-} ]] || : >"$3/failed"
  fail "$1: container $2 ended with $status: $said"
}
export -f container_once
# None of them ends before all of them run, where they run at once.
a_hundred_containers() {
  local together=$WORK/together-$driver gate starting end=$((SECONDS + 600)) running=0 status=0
  mkdir "$together"; mkfifo "$together/go"
  exec {gate}<>"$together/go" # open for writing all the time: nobody who reads sees an end
  seq "$containers" | xargs -P "$at_once" -I {} bash -c 'container_once "$1" "$2" "$3"' one "$driver" {} "$together" {gate}>&- &
  starting=$!
  if ((at_once == containers)); then
    while ((running < containers && SECONDS < end)) && [[ ! -e $together/failed ]] && kill -0 "$starting" 2>/dev/null; do
      sleep 0.2
      running=$(find "$together" -name 'runs-*' | wc -l)
    done
    ((running == containers)) && running=$(ctr tasks ls | count ' RUNNING')
  fi
  printf '%*s' "$containers" '' | tr ' ' '\n' >&"$gate" # a line for each, also when not all came
  wait "$starting" || status=$?
  exec {gate}>&-
  ((status == 0)) || fail "$driver: of $containers containers some failed"
  ((at_once < containers || running == containers)) || fail "$driver: $running of $containers containers ran at once"
  took "$driver: $containers containers have run, $at_once at once"
  (($(snapshots ls | count " Active") == containers)) || fail "$driver: not $containers active snapshots: $(snapshots ls)"
  ctr containers ls -q | xargs -P "$at_once" -n 5 "${CTR[@]}" containers rm
  (($(snapshots ls | count " Active") == 0)) || fail "$driver: active snapshots are left: $(snapshots ls)"
  took "$driver: they are removed"
}

snapshot_commands() {
  local size top
  top=$(snapshots info worker 2>/dev/null) && fail "there is a worker already"
  ctr run --snapshotter "shale-$driver" "$image" worker sh -c 'echo kept >/srv/kept; rm /etc/issue; head -c 3000000 /dev/urandom >/srv/big'
  snapshots ls | grep -E '^worker +sha256:[0-9a-f]{64} +Active' >/dev/null || fail "ls: $(snapshots ls)"
  top=$(snapshots info worker | python3 -c 'import json, sys; i = json.load(sys.stdin); assert i["Kind"] == "Active" and i["Name"] == "worker", i; print(i["Parent"])')
  (($(snapshots tree | count sha256:) == layers)) || fail "tree: $(snapshots tree)"
  snapshots tree | grep '^ .*worker' >/dev/null || fail "tree: $(snapshots tree)"
  size=$(snapshots usage -b worker | awk '$1 == "worker" { print $2 }')
  ((size >= 3000000 && size < 20000000)) || fail "usage: $size"
  (($(snapshots usage | wc -l) == layers + 2)) || fail "usage of all: $(snapshots usage)"
  [[ $(snapshots label worker colour=blue) == *colour=blue* ]]
  snapshots label worker containerd.io/snapshot/colour=red >/dev/null
  snapshots info worker | grep '"colour": "blue"' >/dev/null || fail "label: $(snapshots info worker)"
  snapshots info worker | grep '"containerd.io/snapshot/colour": "red"' >/dev/null || fail "label: $(snapshots info worker)"
  snapshots label worker containerd.io/snapshot/colour= >/dev/null
  snapshots info worker | grep red && fail "the label is still there"
  snapshots diff worker >"$WORK/diff.tar.gz"
  tar -tzf "$WORK/diff.tar.gz" | grep -E '^(srv/(kept|big)|etc/.wh.issue)$' | sort | diff <(printf '%s\n' etc/.wh.issue srv/big srv/kept) - || fail "diff: $(tar -tzf "$WORK/diff.tar.gz")"
  refuse "already exists" -- snapshots commit "$top" worker
  refuse "remove" -- snapshots rm "$top"
  snapshots commit made worker
  ctr containers rm worker
  snapshots info made | grep '"Kind": "Committed"' >/dev/null || fail "commit: $(snapshots info made)"
  # The difference of the committed one is that of the active one.
  snapshots diff made | tar -tzf - | diff <(tar -tzf "$WORK/diff.tar.gz") - || fail "the difference is another one after the commit"
  mkdir -p "$WORK/again"
  snapshots prepare again made
  eval "$(snapshots mounts "$WORK/again" again)"
  ctr run --rm --env PATH=/usr/bin --rootfs "$WORK/again" again \
    sh -c 'ls -l /srv >&2; [ "$(cat /srv/kept)" = kept ] && [ ! -e /etc/issue ] && echo more >>/srv/kept && [ "$(wc -l </srv/kept)" = 2 ]' ||
    fail "$driver: a container of the committed snapshot does not see what is in it"
  umount "$WORK/again"
  refuse "remove" -- snapshots rm made
  snapshots rm again made
  took "$driver: ctr's snapshot commands"
}

beats() { stat -c %s "/proc/$steady/root/srv/beats"; }
beats_on() { (($(beats) > $1)); } # SINCE
survives_restarts() {
  local n before
  ctr run --detach --snapshotter "shale-$driver" "$image" steady sh -c 'while echo x >>/srv/beats; do sleep 0.02; done'
  steady=$(ctr tasks ls | awk '$1 == "steady" { print $2 }')
  until_is "the container does not write" beats_on 0
  for ((n = 1; n <= restarts; ++n)); do
    kill -9 "$shaled"; wait "$shaled" 2>/dev/null || true
    before=$(beats)
    until_is "$driver: the container stopped when shaled was killed" beats_on "$before"
    start_shaled
    before=$(beats)
    until_is "$driver: the container stopped when shaled came back" beats_on "$before"
    until_is "$driver: containerd does not find shaled again" snapshots info steady
    container_once "$driver" "after-$n"
    ctr containers rm "$driver-after-$n"
  done
  (($(ctr tasks exec --exec-id look steady wc -l /srv/beats | cut -d ' ' -f 1) > restarts)) || fail "$driver: what it wrote is not there"
  ctr tasks kill --signal SIGKILL steady
  until_is "$driver: the container does not end" ctr tasks rm steady
  ctr containers rm steady
  took "$driver: a container has outlived shaled $restarts times"
}

pull() { # LAYOUT NAME: prints how many layers were downloaded
  "$PULL" "$address" "$WORLD" "shale-$driver" "$1" "$2" >"$WORK/pulled"
  count 'image\.layer' <"$WORK/pulled"
}
# Everything below the driver's directory, but not what is mounted there.
layers_on_disk() { find "$(place_of "$driver")/$driver" -xdev -printf '%y %s %P\n' | sort; }
shared_layers() {
  local root downloads
  root=$(place_of "$driver")
  "$SHALE" --root "$root" image import "$debian" --name "$image" 2>/dev/null
  "$SHALE" --root "$root" container create --name writer "$image" >/dev/null
  echo "from shale" >"$("$SHALE" --root "$root" container mount writer)/srv/shale"
  "$SHALE" --root "$root" container unmount writer
  "$SHALE" --root "$root" container commit writer debian:more >/dev/null
  "$SHALE" --root "$root" image export debian:more "$WORK/more.tar"
  "$SHALE" --root "$root" container rm writer >/dev/null
  "$SHALE" --root "$root" image rm debian:more >/dev/null
  "$SHALE" --root "$root" gc >/dev/null
  rm -rf "$WORK/layout" "$WORK/more"; mkdir "$WORK/layout" "$WORK/more"
  tar -xf "$debian" -C "$WORK/layout"; tar -xf "$WORK/more.tar" -C "$WORK/more"
  layers_on_disk >"$WORK/layers-before"

  downloads=$(pull "$WORK/layout" example.test/debian:remote)
  ((downloads == 0)) || fail "$driver: $downloads layers were downloaded that are there: $(cat "$WORK/pulled")"
  layers_on_disk | diff "$WORK/layers-before" - || fail "$driver: layers were made that are there"
  (($(snapshots ls | count ' Committed') == layers)) || fail "$driver: $(snapshots ls)"
  image=example.test/debian:remote container_once "$driver" remote
  ctr containers rm "$driver-remote"

  # Of this one the last layer is not there.
  downloads=$(pull "$WORK/more" example.test/debian:more)
  ((downloads == 1)) || fail "$driver: one layer was to be downloaded, not $downloads: $(cat "$WORK/pulled")"
  (($("$SHALE" --root "$root" layer ls --quiet | wc -l) == layers + 1)) || fail "$driver: $("$SHALE" --root "$root" layer ls)"
  # By its exit code: what a container prints that ends at once, ctr may have no time to read.
  ctr run --rm --snapshotter "shale-$driver" example.test/debian:more more sh -c 'ls -l /srv >&2; [ "$(cat /srv/shale)" = "from shale" ]' ||
    fail "$driver: the downloaded layer does not have what was written into it"

  # What containerd drops stays for shale's image, and the other way round.
  ctr images rm --sync example.test/debian:remote example.test/debian:more >/dev/null
  [[ -z $(snapshots ls | tail -n +2) ]] || fail "$driver: $(snapshots ls)"
  until_is "$driver: layers stay in the trash" no_trash
  "$SHALE" --root "$root" gc >/dev/null
  (($("$SHALE" --root "$root" layer ls --quiet | wc -l) == layers)) || fail "$driver: $("$SHALE" --root "$root" layer ls)"
  downloads=$(pull "$WORK/layout" example.test/debian:remote)
  ((downloads == 0)) || fail "$driver: $downloads layers were downloaded the second time: $(cat "$WORK/pulled")"
  "$SHALE" --root "$root" image rm "$image" >/dev/null
  "$SHALE" --root "$root" gc >/dev/null
  image=example.test/debian:remote container_once "$driver" kept
  ctr containers rm "$driver-kept"
  store_is_sound --level data
  took "$driver: layers shared with shale's images"
}

for driver in "${drivers[@]}"; do
  import_image
  a_hundred_containers
  snapshot_commands
  survives_restarts
  nothing_left
  if [[ -n $PULL ]]; then
    shared_layers
    nothing_left "$layers"
  fi
done
kill -TERM "$shaled"
wait "$shaled" || fail "shaled ended with $?: $(tail -n 20 "$WORK/shaled.log")"
grep -E ' (error|warning) ' "$WORK/shaled.log" || true
