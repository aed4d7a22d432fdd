#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An image of several awkward layers goes in and out with equal digests, and its tree is the one that umoci unpacks.
source "$(dirname "$0")/../lib.sh"
need umoci python3 busybox setcap setfattr zstd
need_root "file capabilities and owners"
need_overlay

# Three layers: this machine's own Debian files with links, capabilities, odd names, times and attributes; then
# deletions and an opaque directory; then replacements of one type by another.
one=$WORK/one two=$WORK/two three=$WORK/three
mkdir -p "$one"/{bin,etc,opt/data,opt/gone,opt/opaque,srv,usr/share/doc,tmp}
cp "$(command -v busybox)" "$one/bin/busybox"
for applet in sh ls cat echo; do ln "$one/bin/busybox" "$one/bin/$applet"; done
cp -a /usr/share/doc/{bash,tar,sed,grep} "$one/usr/share/doc/" 2>/dev/null || true
cp -a /etc/{passwd,group,debian_version} "$one/etc/"
cp /bin/true "$one/bin/capable"
setcap cap_net_raw,cap_net_bind_service+ep "$one/bin/capable"
chmod 4755 "$one/bin/cat" 2>/dev/null; chmod 1777 "$one/tmp"; chmod 2750 "$one/srv"
chown 1000:1001 "$one/srv"; chown -h 12345:54321 "$one/etc/group"
setfattr -n user.colour -v blue "$one/etc/passwd" 2>/dev/null || skip_part "user.* attributes: the file system has none"
mkfifo "$one/opt/data/fifo"
mknod "$one/opt/data/null" c 1 3
ln -s ../data "$one/opt/gone/link"; ln -s /nowhere/at/all "$one/opt/data/dangling"
printf 'x' >"$one/opt/data/$(printf 'caf\303\251 \\ new\nline')"
printf 'y' >"$one/opt/data/$(head -c 200 /dev/zero | tr '\0' n)"
seq 100000 >"$one/opt/data/numbers"
touch -d '1985-10-26 01:21:00' "$one/opt/data/numbers"
for name in a b c; do echo "$name" >"$one/opt/opaque/$name"; echo "$name" >"$one/opt/gone/$name"; done

mkdir -p "$two"/opt/{data,opaque} "$two/usr/share/doc"
: >"$two/opt/.wh.gone"
: >"$two/opt/opaque/.wh..wh..opq"
echo new >"$two/opt/opaque/new"
: >"$two/usr/share/doc/.wh.sed"
echo replaced >"$two/opt/data/dangling"
chmod 0700 "$two/opt/opaque"

mkdir -p "$three"/opt/{gone,data} "$three/etc"
echo back >"$three/opt/gone/b"
ln -s busy "$three/opt/data/numbers"
echo linked >"$three/etc/first"; ln "$three/etc/first" "$three/etc/second"
chmod 0755 "$two" "$three" "$one"

for layer in one two three; do "$REPO/bench/mkimage.py" tree "$WORK/$layer" "$WORK/$layer.tar"; done
for how in gzip zstd none; do
  echo "-- $how"
  "$REPO/bench/mkimage.py" oci "roundtrip:$how" "$WORK/in-$how.tar" "$how" "$WORK"/{one,two,three}.tar
  shale image import "$WORK/in-$how.tar" --name "roundtrip:$how"
  shale image export "roundtrip:$how" "$WORK/out-$how.tar"
  mkdir "$WORK/in-$how" "$WORK/out-$how"
  tar -xf "$WORK/in-$how.tar" -C "$WORK/in-$how"; tar -xf "$WORK/out-$how.tar" -C "$WORK/out-$how"
  (cd "$WORK/in-$how/blobs/sha256" && sha256sum -- * | sort) >"$WORK/blobs-in"
  (cd "$WORK/out-$how/blobs/sha256" && sha256sum -- * | sort) >"$WORK/blobs-out"
  diff "$WORK/blobs-in" "$WORK/blobs-out" || fail "$how: blobs differ after the round trip"
  manifest_of() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))["manifests"][0]["digest"])' "$1/index.json"; }
  [[ $(manifest_of "$WORK/in-$how") == "$(manifest_of "$WORK/out-$how")" ]] || fail "$how: the manifest's digest changed"
done
# The three share their layers: what an archive is compressed with is not part of a layer's identity.
[[ $(shale layer ls --quiet | wc -l) == 3 ]] || fail "three shared layers were expected: $(shale layer ls)"

umoci unpack --image "$WORK/in-gzip:gzip" "$WORK/bundle"
shale container create --name tree roundtrip:gzip
tree=$(shale container mount tree | tail -n 1)
"$REPO/tools/tree_manifest.py" "$WORK/bundle/rootfs" >"$WORK/tree-umoci"
"$REPO/tools/tree_manifest.py" "$tree" >"$WORK/tree-shale"
diff "$WORK/tree-umoci" "$WORK/tree-shale" || fail "the trees of umoci and shale differ"
[[ $(wc -l <"$WORK/tree-shale") -gt 20 ]]
[[ $(stat -c %Y "$tree/opt/data") == $(stat -c %Y "$three/opt/data") ]] || fail "a directory's time is not the top layer's"
shale container unmount tree
shale container rm tree
shale check

# The same through vfs, which makes full copies: the same tree.
ROOT=$WORK/vfs
shale --driver vfs image import "$WORK/in-zstd.tar" --name roundtrip:vfs
shale container create --name tree roundtrip:vfs
tree=$(shale container mount tree | tail -n 1)
"$REPO/tools/tree_manifest.py" "$tree" >"$WORK/tree-vfs"
diff "$WORK/tree-umoci" "$WORK/tree-vfs" || fail "the trees of umoci and shale's vfs differ"
shale container unmount tree
shale check
