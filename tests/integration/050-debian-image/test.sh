#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A real Debian, made by debootstrap and umoci, goes through skopeo's two archive formats (and buildah, where it works)
# into shale and out again with equal digests, runs, and is the tree that umoci unpacks: on every driver of this host. What
# 055 and 056 need to do the same with those that only a guest's kernel has is left beside the results.
# Time limit: 1800 s (two to three minutes on an idle machine; debootstrap is most of it)
source "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/integration/debian_image.sh
source "$(dirname "$0")/../debian_image.sh"
need debootstrap umoci skopeo python3 setcap setfattr tar apt-get
command -v crun >/dev/null || command -v runc >/dev/null || skip "neither crun nor runc is installed"
need_root "debootstrap, file capabilities and owners"
need_overlay

make_debian
rm -rf "$bundle"
umoci unpack --image "$image:real" "$WORK/umoci"

# digests SOURCE: what skopeo finds: the manifest, the config, then the layers as they lie there, then their tars.
digests() {
  skopeo inspect --raw "$1" >"$WORK/manifest.json"
  skopeo inspect --config --raw "$1" >"$WORK/config.json"
  python3 - "$WORK" <<'PY'
import hashlib, json, sys
manifest, config = (open(f"{sys.argv[1]}/{name}.json", "rb").read() for name in ("manifest", "config"))
said = json.loads(manifest)
print("manifest sha256:" + hashlib.sha256(manifest).hexdigest())
print("config", said["config"]["digest"])
assert said["config"]["digest"] == "sha256:" + hashlib.sha256(config).hexdigest(), "config and manifest disagree"
for layer in said["layers"]:
    print("layer", layer["digest"], layer["size"])
for diff_id in json.loads(config)["rootfs"]["diff_ids"]:
    print("diff", diff_id)
PY
}
# same_digests SOURCE SOURCE: equal, and every blob is what its digest says (skopeo verifies what it copies).
same_digests() {
  digests "$1" >"$WORK/digests-in"; digests "$2" >"$WORK/digests-out"
  diff "$WORK/digests-in" "$WORK/digests-out" || fail "$2 is not $1"
  rm -rf "$WORK/copied"
  skopeo --insecure-policy copy -q "$2" "dir:$WORK/copied"
}
layers=$(digests "oci:$image:real" | grep -c '^layer') || true
((layers == 8)) || fail "eight layers were expected of umoci, not $layers"

mapfile -t archives < <(digests "oci:$image:real" | sed -n 's/^layer sha256:\([0-9a-f]*\) .*/\1/p' | sed "s|^|$image/blobs/sha256/|")
# What the base says of opt; the tree's own time is no measure, since umoci rounds it to seconds.
opt_time=$(python3 -c 'import sys, tarfile; print(int(tarfile.open(sys.argv[1]).getmember("opt").mtime))' "${archives[0]}")
# objects TREE OUT: everything but the times of directories that no layer states, and of those that they are in.
objects() { "$REPO/tools/tree_manifest.py" --layers "${archives[@]}" -- "$1" >"$2"; }
objects "$WORK/umoci/rootfs" "$WORK/objects-umoci"
(($(wc -l <"$WORK/objects-umoci") > 5000)) || fail "that is no Debian: $(wc -l <"$WORK/objects-umoci") objects"
for wanted in $'\tsecurity.capability=' 'user.colour=' $'^srv/setuid\t-\t6755\t1000:1001' $'^opt/times\td.*\t1012709106000000001' \
  $'^opt/times/device\tb.*\t7,300\t' $'^srv/python\t.*\tsrv/python$' $'^usr/share/doc/new\t' $'^dev/null\tc.*1,3'; do
  grep -P -- "$wanted" "$WORK/objects-umoci" >/dev/null || [[ $wanted == user* ]] || fail "the image has nothing like '$wanted'"
done

same_tree() { # IMAGE WHAT [FIELDS]
  local mounted
  shale container create --name same "$1" >/dev/null
  mounted=$(shale container mount same | tail -n 1)
  objects "$mounted" "$WORK/objects-shale"
  # umoci's time of opt is that of its unpacking, for opt/unstated is made in it. What counts is opt's entry in the first layer.
  [[ $(stat -c %Y "$mounted/opt") == "$opt_time" ]] || fail "$2: the time of /opt is $(stat -c %y "$mounted/opt"), not $(date -d "@$opt_time" "+%F %T")"
  shale container unmount same; shale container rm same
  # A file of the legacy overlay's has the names of the layers below, too: links are not compared.
  diff <(cut -f "${3:-1-9}" "$WORK/objects-umoci") <(cut -f "${3:-1-9}" "$WORK/objects-shale") >"$WORK/difference" || {
    head -n 40 "$WORK/difference"; fail "$2: the trees of umoci and shale differ in $(grep -c '^[<>]' "$WORK/difference") lines"; }
  took "$2: $(wc -l <"$WORK/objects-shale") objects, no difference"
}
runs() { # IMAGE WHAT RUNTIME
  command -v "$3" >/dev/null || { skip_part "$2: running with $3: it is not installed"; return 0; }
  shale run --runtime "$3" --rm "$1" dpkg -l >"$WORK/run.out" || fail "$2, $3: dpkg does not run"
  grep -E '^ii +libc6[: ]' "$WORK/run.out" >/dev/null || fail "$2, $3: dpkg lists no libc6"
  grep -E '^ii +python3-minimal ' "$WORK/run.out" >/dev/null || fail "$2, $3: dpkg lists no python3-minimal"
  local said
  said=$(shale run --runtime "$3" --rm "$1" python3 -c 'import os, sys; print(sys.version_info[0], os.getcwd(), os.environ["FROM"], os.getpid())')
  [[ $said == "3 /srv config 1" ]] || fail "$2, $3: python3 does not run as the config says, but '$said'"
  took "$2, $3: dpkg and python3 run"
}

ROOT=$WORK/overlay2
shale --driver overlay2 image import "$WORK/oci.tar" --name debian:oci
same_tree debian:oci "overlay2, OCI archive"
runs debian:oci overlay2 crun
runs debian:oci overlay2 runc
shale image import "$WORK/docker.tar" --name debian:docker
[[ $(shale layer ls --quiet | wc -l) == "$layers" ]] || fail "the docker archive's layers are not the OCI archive's: $(shale layer ls)"
shale image export debian:oci "$WORK/out.tar"
same_digests "oci-archive:$WORK/oci.tar" "oci-archive:$WORK/out.tar"
shale image export --format docker debian:docker "$WORK/out-docker.tar"
same_digests "docker-archive:$WORK/docker.tar" "docker-archive:$WORK/out-docker.tar"
shale image export --format docker debian:oci "$WORK/out-docker.tar"
same_digests "docker-archive:$WORK/docker.tar" "docker-archive:$WORK/out-docker.tar"
took "exports have equal digests"

# buildah (1.28) cannot write a layer with sparse entries again, so it gets the image without the last layer.
build() {
  local containers=(buildah --root "$WORK/buildah" --runroot "$WORK/buildah-run" --storage-driver overlay) name
  name=$("${containers[@]}" from --pull=never "oci-archive:$WORK/plain.tar") &&
    "${containers[@]}" run --isolation chroot --network host "$name" sh -c 'rm -rf /usr/share/perl5; echo built >/srv/buildah; dpkg -S /bin/sh' &&
    "${containers[@]}" commit -q --format oci "$name" "oci-archive:$WORK/buildah.tar:built" >/dev/null
}
if ! command -v buildah >/dev/null; then
  skip_part "an image of buildah: buildah is not installed"
elif ! build >"$WORK/buildah.log" 2>&1; then
  cat "$WORK/buildah.log"
  skip_part "an image of buildah: buildah does not work here: $(tail -n 1 "$WORK/buildah.log")"
else
  took "buildah"
  shale image import "$WORK/buildah.tar" --name debian:buildah
  [[ $(shale layer ls --quiet | wc -l) == $((layers + 1)) ]] || fail "buildah's image is not one layer more: $(shale layer ls)"
  [[ $(shale run --rm debian:buildah sh -c 'cat buildah; ls -d /usr/share/perl5 2>&1') == $'built\nls: '* ]] ||
    fail "what buildah changed is not in its image"
  shale image export debian:buildah "$WORK/out-buildah.tar"
  same_digests "oci-archive:$WORK/buildah.tar" "oci-archive:$WORK/out-buildah.tar"
  took "buildah's image"
fi
shale check

if command -v mkfs.btrfs >/dev/null; then
  truncate -s 8G "$WORK/btrfs.img"; mkfs.btrfs -q "$WORK/btrfs.img" >/dev/null
  mkdir "$WORK/btrfs"; mount -o loop "$WORK/btrfs.img" "$WORK/btrfs"
else
  skip_part "btrfs: mkfs.btrfs is not installed"
fi
for driver in btrfs erofs vfs overlay; do
  ROOT=$WORK/$driver/store
  [[ $driver != btrfs || -d $WORK/btrfs ]] || continue
  mkdir -p "$WORK/$driver"
  shale --driver "$driver" image import "$WORK/docker.tar" --name debian:docker
  fields=1-9; [[ $driver != overlay ]] || fields=1-8
  same_tree debian:docker "$driver, docker archive" "$fields"
  runs debian:docker "$driver" crun
  shale image export --format docker debian:docker "$WORK/out-docker.tar"
  same_digests "docker-archive:$WORK/docker.tar" "docker-archive:$WORK/out-docker.tar"
  shale check
  took "$driver"
done
keep_debian "$WORK/oci.tar" debian.tar
keep_debian "$WORK/objects-umoci" debian.objects
keep_debian "$WORK/plain.tar" debian-plain.tar
took "done"
