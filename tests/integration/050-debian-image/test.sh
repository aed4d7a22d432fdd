#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A real Debian, made by debootstrap and umoci, goes through skopeo's two archive formats (and buildah, where it works)
# into shale and out again with equal digests, runs, and is the tree that umoci unpacks: on overlay2 and on vfs.
# Time limit: 1800 s (two to three minutes on an idle machine; debootstrap is most of it)
source "$(dirname "$0")/../lib.sh"
need debootstrap umoci skopeo python3 setcap setfattr tar apt-get
command -v crun >/dev/null || command -v runc >/dev/null || skip "neither crun nor runc is installed"
need_root "debootstrap, file capabilities and owners"
need_overlay

suite=bookworm
# The archive that apt on this machine is set to. Without package lists apt does not know whose archive it is.
mirror=$(apt-get indextargets --format '$(REPO_URI)|$(RELEASE)|$(ORIGIN)' 'Created-By: Packages' |
  awk -F '|' -v suite="$suite" '$2 == suite && ($3 == "Debian" || $3 == "") && !/security/ { print $1; exit }') || true
[[ -n $mirror ]] || skip "apt on this machine names no archive of Debian $suite"
no_network='Failed getting release file|Invalid Release|Couldn.t download|Failed to fetch|Unable to fetch|Temporary failure|Could not (connect|resolve)'
# from_network LOG COMMAND: a command that fails for want of the network skips the test.
from_network() {
  local log=$1; shift
  "$@" >"$log" 2>&1 && return
  tail -n 5 "$log"
  grep -qE "$no_network" "$log" || fail "$1 failed"
  skip "the archive of Debian $suite cannot be reached: $(grep -E "$no_network" "$log" | tail -n 1)"
}
took() { echo "-- $SECONDS s: $*"; }

image=$WORK/image bundle=$WORK/build tree=$WORK/build/rootfs
umoci init --layout "$image"
umoci new --image "$image:real"
umoci config --image "$image:real" --config.cmd /bin/bash --config.env PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  --config.env FROM=config --config.workingdir /srv
umoci unpack --image "$image:real" "$bundle"
layer() { took "layer: $1"; umoci repack --refresh-bundle --image "$image:real" --history.comment "$1" "$bundle"; }

took "debootstrap"
from_network "$WORK/debootstrap.log" debootstrap --variant=minbase "$suite" "$tree" "$mirror"
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
layer "base"

in_tree() { # COMMAND: in the tree, with a /proc that goes when the command has ended
  unshare --mount --propagation private sh -ec 'mount -t proc proc "$1/proc"; exec chroot "$1" sh -ec "$2"' sh "$tree" "$1"
}
cp -L /etc/resolv.conf "$tree/etc/resolv.conf"
from_network "$WORK/apt.log" in_tree 'export DEBIAN_FRONTEND=noninteractive; apt-get -q update
  apt-get -q -y install --no-install-recommends python3-minimal; apt-get clean; rm -rf /var/lib/apt/lists/*'
layer "python"

rm -rf "$tree"/usr/share/doc/{bash,tar,sed} "$tree"/usr/share/man/man8 "$tree/usr/share/locale"
rm -f "$tree/etc/motd" "$tree/usr/bin/faillog" "$tree"/var/log/*.log
# A directory takes a file's name, and the other way round.
rm -rf "$tree/etc/skel" "$tree/etc/issue.net"; echo file >"$tree/etc/skel"; mkdir "$tree/etc/issue.net"; echo dir >"$tree/etc/issue.net/x"
layer "deletions"

mkdir "$WORK/skel"; echo new >"$WORK/skel/new"; chmod 0750 "$WORK/skel"; chown 1000:1001 "$WORK/skel"
umoci insert --image "$image:real" --opaque "$WORK/skel" /usr/share/doc
umoci insert --image "$image:real" --whiteout /usr/share/bug
rm -rf "$bundle"; umoci unpack --image "$image:real" "$bundle"

cp "$tree/bin/cat" "$tree/srv/capable"; setcap cap_net_raw,cap_net_bind_service+ep "$tree/srv/capable"
cp "$tree/bin/true" "$tree/srv/setuid"; chown 1000:1001 "$tree/srv/setuid"; chmod 6755 "$tree/srv/setuid"
seq 1000 >"$tree/srv/links"; ln "$tree/srv/links" "$tree/srv/.links"; ln "$tree/srv/links" "$tree/var/links"
ln "$tree/usr/bin/python3.11" "$tree/srv/python" # a link to a file of a lower layer
truncate -s 8M "$tree/srv/sparse"; printf 'data' | dd of="$tree/srv/sparse" bs=1 seek=5000000 conv=notrunc status=none
echo attributes >"$tree/srv/attributes"
setfattr -n user.colour -v blue "$tree/srv/attributes" || skip_part "user.* attributes: the file system has none"
setfattr -n trusted.colour -v 0x00ff0a "$tree/srv/attributes"
chmod 1777 "$tree/srv"; touch -d '1969-07-20 20:17:40 UTC' "$tree/srv/links"
layer "attributes"

umoci tag --image "$image:real" plain

# What umoci does not write: times with nanoseconds, sparse entries, a directory without an entry.
mkdir -p "$WORK/gnu/opt"/{times,unstated/deep}
truncate -s 3M "$WORK/gnu/opt/times/sparse"; printf 'data' | dd of="$WORK/gnu/opt/times/sparse" bs=1 seek=2000000 conv=notrunc status=none
echo fine >"$WORK/gnu/opt/times/fine"; echo deep >"$WORK/gnu/opt/unstated/deep/file"
mkfifo "$WORK/gnu/opt/times/fifo"; mknod "$WORK/gnu/opt/times/device" b 7 300; ln -s "$(head -c 300 /dev/zero | tr '\0' n)" "$WORK/gnu/opt/times/long"
touch -d '2001-02-03 04:05:06.123456789 UTC' "$WORK/gnu/opt/times/fine"; touch -h -d '2001-02-03 04:05:06.5 UTC' "$WORK/gnu/opt/times/long"
touch -d '2002-02-03 04:05:06.000000001 UTC' "$WORK/gnu/opt/times"
tar --format=posix --sparse --numeric-owner --no-recursion -C "$WORK/gnu" -cf "$WORK/gnu.tar" \
  opt/times opt/times/{sparse,fine,fifo,device,long} opt/unstated/deep/file
umoci raw add-layer --image "$image:real" "$WORK/gnu.tar"

took "archives"
skopeo --insecure-policy copy -q "oci:$image:real" "oci-archive:$WORK/oci.tar:real"
skopeo --insecure-policy copy -q "oci:$image:real" "docker-archive:$WORK/docker.tar:debian:real"
skopeo --insecure-policy copy -q "oci:$image:plain" "oci-archive:$WORK/plain.tar:plain"
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
((layers == 7)) || fail "seven layers were expected of umoci, not $layers"

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

same_tree() { # IMAGE WHAT
  local mounted
  shale container create --name same "$1" >/dev/null
  mounted=$(shale container mount same | tail -n 1)
  objects "$mounted" "$WORK/objects-shale"
  # umoci's time of opt is that of its unpacking, for opt/unstated is made in it. What counts is opt's entry in the first layer.
  [[ $(stat -c %Y "$mounted/opt") == "$opt_time" ]] || fail "$2: the time of /opt is $(stat -c %y "$mounted/opt"), not $(date -d "@$opt_time" "+%F %T")"
  shale container unmount same; shale container rm same
  diff "$WORK/objects-umoci" "$WORK/objects-shale" >"$WORK/difference" || {
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

ROOT=$WORK/vfs
shale --driver vfs image import "$WORK/docker.tar" --name debian:docker
same_tree debian:docker "vfs, docker archive"
runs debian:docker vfs crun
shale check
took "done"
