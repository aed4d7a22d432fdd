#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes a docker-save archive of a small image out of this machine's busybox: two layers, the second of which
# changes and deletes something of the first. Needs no privilege, no network and nothing but shell tools.
#   tools/busybox_image.sh OUT.tar NAME:TAG
set -euo pipefail
out=$(readlink -f "$1") name=$2
busybox=$(command -v busybox) || { echo "busybox_image.sh: no busybox; run: ./dev deps up" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/var/tmp}/shale-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

pack() { # TREE OUT: equal trees give equal archives
  tar --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner --format=pax \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -C "$1" -cf "$2" .
}
umask 022
mkdir -p base/{bin,dev,etc,proc,root,srv,sys,tmp,usr/share/doc} base/var/log top/etc top/usr/share
chmod 1777 base/tmp
cp "$busybox" base/bin/busybox
chmod 0755 base/bin/busybox
base/bin/busybox --list | while read -r applet; do
  [[ $applet == busybox ]] || ln -s busybox "base/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >base/etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' >base/etc/group
printf 'first layer\n' >base/etc/motd
printf 'gone in the second layer\n' >base/usr/share/doc/old
ln base/etc/motd base/etc/motd.same
printf 'second layer\n' >top/etc/motd
: >top/usr/share/.wh.doc
pack base base.tar
pack top top.tar

sum() { sha256sum "$1" | cut -d' ' -f1; }
one=$(sum base.tar) two=$(sum top.tar)
printf '{"architecture":"amd64","os":"linux","created":"2023-11-14T22:13:20Z","config":{"Cmd":["/bin/sh"],"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s","sha256:%s"]},"history":[{"created":"2023-11-14T22:13:20Z","created_by":"busybox"},{"created":"2023-11-14T22:13:20Z","created_by":"motd"}]}' "$one" "$two" >config.json
config=$(sum config.json)
mkdir -p "image/$one" "image/$two"
mv base.tar "image/$one/layer.tar"
mv top.tar "image/$two/layer.tar"
mv config.json "image/$config.json"
printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["%s/layer.tar","%s/layer.tar"]}]' "$config" "$name" "$one" "$two" >image/manifest.json
tar --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner -C image -cf "$out" manifest.json "$config.json" "$one" "$two"
echo "$out: $name, two layers, $(stat -c %s "$out") bytes"
