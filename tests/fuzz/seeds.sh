#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes a few small valid inputs for each fuzz target: DIR/TARGET/*.
#   tests/fuzz/seeds.sh DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(readlink -f "$1")
work=$(mktemp -d "${TMPDIR:-/var/tmp}/shale-seeds.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"/{tar_reader,extract,decompress,docker_archive,layout,oci_manifest,oci_config,oci_reference,mountinfo,config,users,zfs_list,erofs,filter,facts,host_text,event_queue,guard}

# --- trees and archives
tree=$work/tree
mkdir -p "$tree/dir/sub" "$tree/etc"
printf 'hello\n' >"$tree/etc/motd"
ln -s ../etc/motd "$tree/dir/link"
ln -s / "$tree/dir/up"
ln "$tree/etc/motd" "$tree/dir/hard"
: >"$tree/dir/.wh.gone"
: >"$tree/dir/sub/.wh..wh..opq"
mkfifo "$tree/dir/fifo"
chmod 4755 "$tree/etc/motd"
setfattr -n user.note -v value "$tree/etc/motd" 2>/dev/null || true
long=$(printf 'n%.0s' {1..120})
mkdir -p "$work/long/$long/$long"
: >"$work/long/$long/$long/file"
ln -s "$long/$long/$long" "$work/long/link"
truncate -s 1M "$work/sparse"
printf data | dd of="$work/sparse" bs=1 seek=65536 conv=notrunc status=none
printf data | dd of="$work/sparse" bs=1 seek=524288 conv=notrunc status=none
pack() { tar --sort=name --mtime=@1700000000.5 --owner=0 --group=0 --numeric-owner -b1 "$@"; }
archives=$work/archives
mkdir "$archives"
for format in v7 ustar gnu pax; do
  pack --format="$format" -C "$tree" -cf "$archives/$format.tar" . 2>/dev/null || true # v7 has no fifos
done
pack --format=pax --xattrs -C "$tree" -cf "$archives/xattrs.tar" .
pack --format=gnu -C "$work/long" -cf "$archives/long-gnu.tar" .
pack --format=pax -C "$work/long" -cf "$archives/long-pax.tar" .
pack --format=gnu -S -C "$work" -cf "$archives/sparse-gnu.tar" sparse
for version in 0.0 0.1 1.0; do
  pack --format=pax -S --sparse-version="$version" -C "$work" -cf "$archives/sparse-$version.tar" sparse
done
pack --format=ustar -P -C "$tree" --transform='s,^etc,../host,' -cf "$archives/outside.tar" etc
pack --format=ustar -P -C "$tree" --transform='s,^etc,dir/up/host,SH' -cf "$archives/through-link.tar" dir/up etc
cp "$archives"/* "$out/tar_reader/"
cp "$archives"/* "$out/extract/"
cp "$archives"/* "$out/erofs/"

# --- compressed streams; the first byte of an input is the target's own: odd gzip, even zstd
for tar in ustar pax; do
  gzip -9n <"$archives/$tar.tar" >"$work/$tar.gz"
  zstd -q -19 --check <"$archives/$tar.tar" >"$work/$tar.zst"
  { printf 'a'; cat "$work/$tar.gz"; } >"$out/decompress/$tar-gzip"
  { printf 'b'; cat "$work/$tar.zst"; } >"$out/decompress/$tar-zstd"
done
{ printf 'a'; gzip -1n </etc/passwd; gzip -1N <"$tree/etc/motd"; } >"$out/decompress/two-members"
{ printf 'b'; zstd -q -1 <"$tree/etc/motd"; printf '\x50\x2a\x4d\x18\x04\0\0\0skip'; zstd -q -3 --no-check </etc/passwd; } >"$out/decompress/two-frames"

# --- documents
sum() { sha256sum "$1" | cut -d' ' -f1; }
layer=$archives/ustar.tar
diff_id=$(sum "$layer")
config='{"architecture":"amd64","os":"linux","created":"2023-11-14T22:13:20Z","author":"a","config":{"User":"1:2","Env":["PATH=/bin","A=b"],"Entrypoint":["/bin/sh"],"Cmd":["-c","true"],"WorkingDir":"/","Labels":{"a":"b"},"StopSignal":"SIGTERM","Volumes":{"/v":{}},"ExposedPorts":{"80/tcp":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:'$diff_id'"]},"history":[{"created":"2023-11-14T22:13:20Z","created_by":"x"},{"created_by":"y","empty_layer":true}]}'
printf '%s' "$config" >"$out/oci_config/full"
printf '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}' >"$out/oci_config/small"
oci=application/vnd.oci.image
docker=application/vnd.docker
manifest='{"schemaVersion":2,"mediaType":"'$oci'.manifest.v1+json","config":{"mediaType":"'$oci'.config.v1+json","digest":"@2","size":#2},"layers":[{"mediaType":"'$oci'.layer.v1.tar","digest":"@3","size":#3,"annotations":{"a":"b"}}]}'
index='{"schemaVersion":2,"mediaType":"'$oci'.index.v1+json","manifests":[{"mediaType":"'$oci'.manifest.v1+json","digest":"@1","size":#1,"platform":{"os":"linux","architecture":"amd64","variant":"v1"},"annotations":{"org.opencontainers.image.ref.name":"v1","io.containerd.image.name":"docker.io/library/a:v1"}}]}'
nested='{"schemaVersion":2,"manifests":[{"mediaType":"'$oci'.index.v1+json","digest":"@4","size":#4}]}'
filled() { # TEXT: with a digest and a size in the place of each mark
  printf '%s' "$1" | sed -E "s/@[0-9]/sha256:$diff_id/g; s/#[0-9]/10240/g"
}
filled "$manifest" >"$out/oci_manifest/manifest"
filled "$index" >"$out/oci_manifest/index"
filled "$manifest" | sed "s,$oci.manifest.v1+json,$docker.distribution.manifest.v2+json,; s,$oci.config.v1+json,$docker.container.image.v1+json,; s,$oci.layer.v1.tar,$docker.image.rootfs.diff.tar.gzip," >"$out/oci_manifest/docker"
plain_config=$(printf '%s' "$config" | sed "s/sha256:$diff_id/@3/")
printf '%s\0%s\0%s\0%s' "$index" "$manifest" "$plain_config" layer >"$out/layout/one"
inner=$(printf '%s' "$index" | sed 's/@1/@5/; s/#1/#5/')
behind=$(printf '%s' "$manifest" | sed 's/@2/@6/; s/#2/#6/; s/@3/@7/; s/#3/#7/')
printf '%s\0\0\0\0%s\0%s\0%s\0%s' "$nested" "$inner" "$behind" "$(printf '%s' "$plain_config" | sed 's/@3/@7/')" layer >"$out/layout/nested"

# --- whole archives
image=$work/image
mkdir -p "$image/l"
cp "$layer" "$image/l/layer.tar"
printf '%s' "$config" >"$image/config.json"
printf '[{"Config":"config.json","RepoTags":["a:v1"],"Layers":["l/layer.tar"]}]' >"$image/manifest.json"
pack --format=ustar -C "$image" -cf "$out/docker_archive/docker.tar" manifest.json config.json l
ln -s ../l/layer.tar "$image/l/again.tar"
printf '[{"Config":"config.json","RepoTags":null,"Layers":["l/again.tar"]}]' >"$image/manifest.json"
pack --format=ustar -C "$image" -cf "$out/docker_archive/links.tar" manifest.json config.json l
gzip -9n <"$out/docker_archive/docker.tar" >"$out/docker_archive/docker.tar.gz"
zstd -q -19 <"$out/docker_archive/docker.tar" >"$out/docker_archive/docker.tar.zst"
layout=$work/layout
mkdir -p "$layout/blobs/sha256"
blob() { cp "$1" "$layout/blobs/sha256/$(sum "$1")"; }
blob "$layer"
blob "$image/config.json"
refer() { # TEXT NUMBER FILE: the marks of that number
  printf '%s' "$1" | sed "s/@$2/sha256:$(sum "$3")/; s/#$2/$(stat -c %s "$3")/"
}
refer "$(refer "$manifest" 2 "$image/config.json")" 3 "$layer" >"$work/manifest"
blob "$work/manifest"
refer "$index" 1 "$work/manifest" >"$layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
pack --format=ustar -C "$layout" -cf "$out/docker_archive/oci.tar" oci-layout index.json blobs

# --- texts
n=0
for name in debian debian:12 host:5000/a/b:tag docker.io/library/a:v1 "a@sha256:$diff_id" localhost/x "[::1]:5000/a" a--b/c__d.e; do
  n=$((n + 1))
  printf '%s' "$name" >"$out/oci_reference/$n"
done
head -n 20 /proc/self/mountinfo >"$out/mountinfo/self"
printf '36 35 98:0 /a\\040b /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n25 1 0:5 / / rw - tmpfs  rw\n' >"$out/mountinfo/octal"
printf 't%s\n' 'root = "/srv/shale"
driver.name = "overlay2"
durability = "none"
jobs = 4
[driver.overlay2]
size = "10G"
[limits]
entries = 1000
layer_bytes = "20G"' >"$out/config/toml"
printf 'troot = """\\\n  /a\\u00e9"""\njobs = 0x10\nlimits = { entries = 1_000 }\n[[x]]\ny = [1979-05-27T07:32:00Z, 1e3, nan, true]\n' >"$out/config/toml-forms"
printf 'j{"storage-driver":"overlay2","storage-opts":["overlay2.size=10G","size=1M"],"data-root":"/x"}' >"$out/config/daemon"
printf 'c["/bin/sh","-c","true"]' >"$out/config/command"
for size in 10 10k 1.5G 10GB 10GiB 1e3B '1 M'; do printf 's%s' "$size" >"$out/config/size-${size// /}"; done
printf 'w%s\n' run --name a --rm -- debian ls --json >"$out/config/words-run"
printf 'w--root\n/x\n--storage-opt=size=1G\n--jobs\n2\nimage\nimport\n--platform\nlinux/arm64\nfile\n' >"$out/config/words-import"
printf 'wcontainer\nremvoe\nx\n' >"$out/config/words-wrong"
printf 'user:staff\0root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n\0root:x:0:\nstaff:x:50:user,root\n\0user:100000:65536\n1000:200000:65536\n' >"$out/users/names"
printf 'user\0user:x:1000:1000::/home/user:/bin/sh\n\0a:x:1:user\nb:x:2:x,user\n\0' >"$out/users/groups"
printf '1000:50\0\0\0' >"$out/users/numbers"

# --- filters of List
printf '%s\n' 'name==a,kind==active' 'parent!=""' >"$out/filter/plain"
printf '%s\n' 'labels."containerd.io/snapshot.ref"=="sha256:0123",parent=="base"' 'labels.l' >"$out/filter/labels"
printf '%s\n' 'name ~= /^default\/[0-9]+\/"x\\.y/' 'kind~=|(view|active)|' 'name=="\x41\u00e9\U0001F600\101\n"' >"$out/filter/quoted"

# --- what a host is read from
number=0
for facts in "$here"/../golden/doctor/*/*.facts.json; do
  cp "$facts" "$out/facts/$((number += 1)).json"
done
printf '\003%s\n' '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue' >"$out/host_text/mounts"
printf '\000activation {\n\tthin_pool_autoextend_threshold = 80 # percent\n}\n' >"$out/host_text/lvm"
printf '\007version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  a = ["b", 1, true]\n' >"$out/host_text/toml"
printf '\007[storage]\ndriver = "overlay"\n' >"$out/host_text/storage"
printf '\012[{"id":"a","names":["b"]},{"id":"c"}]' >"$out/host_text/layers"
printf '\011rw,lowerdir=/a:/b,upperdir=/u,workdir=/w' >"$out/host_text/overlay"
printf '\015Package: docker-ce\nStatus: install ok installed\nDescription: d\n e\nVersion: 5:27.3.1-1~debian.12~bookworm\n\nPackage: x\n' >"$out/host_text/dpkg"
be32() { # NUMBERS...
  local number hex
  for number; do
    hex=$(printf '%08x' "$number")
    printf %b "\\x${hex:0:2}\\x${hex:2:2}\\x${hex:4:2}\\x${hex:6:2}"
  done
}
{
  printf '\010\001' # the second file
  be32 4 40 1001 6 0 1 1116 4 7 2 1117 8 15 2 1118 8 30 1
  printf '24.0.5\0'; be32 0 0; printf 'docker\0dockerd\0/usr/bin/\0'
} >"$out/host_text/rpm"

# --- buffers of the kernel: one event each
printf 'a\070\0\0\0\003\0\030\0\002\0\0\0\0\0\0\0\377\377\377\377\001\0\0\0\002\0\040\0filesyst\010\0\0\0\001\0\0\0handle_8a\0\0\0' >"$out/event_queue/fanotify"
printf 'b\001\0\0\0\002\0\0\0\0\0\0\0\004\0\0\0a\0\0\0' >"$out/event_queue/inotify"
printf '0[guard]\ninterval_s = 10\n[guard.bytes]\nmin_space = "10G"\n[guard.bytes.tiers]\nrefuse_creates = [95, 97]\ngc = true\n' >"$out/guard/config"
printf '1{"time":"2026-11-24T05:16:14.123Z","time_ms":1795497374123,"type":"entered","kind":"inodes","subject":"/data","tier":"gc","what":"gc at 90 %%","evidence":["a"],"undone":false}' >"$out/guard/event"
printf '2{"version":1,"steps":[{"percent":90,"tier":"gc","inside":true,"acted":true,"failures":1,"began_ms":null,"ended_ms":1795497374123}]}' >"$out/guard/state"
