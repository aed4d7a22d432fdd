# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# A real Debian as an image of eight layers, made by debootstrap and umoci from the archive that apt on this machine is set
# to; a network that is missing skips the test. What a test run leaves beside its results is taken again by later tests.
debian_results=$(dirname "$SHALE")/results

# shellcheck source=tests/integration/debian_archive.sh
source "$(dirname "${BASH_SOURCE[0]}")/debian_archive.sh"

layer() { took "layer: $1"; umoci repack --refresh-bundle --image "$image:real" --history.comment "$1" "$bundle"; }

# Leaves in $WORK: oci.tar, docker.tar, and plain.tar without the last two layers; $image, an OCI layout (tags real and plain);
# and what umoci keeps beside the tree in $bundle.
make_debian() {
  image=$WORK/image bundle=$WORK/build tree=$WORK/build/rootfs
  umoci init --layout "$image"
  umoci new --image "$image:real"
  umoci config --image "$image:real" --config.cmd /bin/bash --config.env PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    --config.env FROM=config --config.workingdir /srv
  umoci unpack --image "$image:real" "$bundle"

  took "debootstrap"
  small_debian
  rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
  layer "base"

  cp -L /etc/resolv.conf "$tree/etc/resolv.conf"
  from_network "$WORK/apt.log" in_tree 'export DEBIAN_FRONTEND=noninteractive; apt-get -q update
    apt-get -q -y install --no-install-recommends python3-minimal; apt-get clean; rm -rf /var/lib/apt/lists/*'
  layer "python"

  rm -rf "$tree"/usr/share/doc/{bash,tar,sed} "$tree"/usr/share/man/man8 "$tree/usr/share/locale"
  rm -f "$tree/etc/motd" "$tree/usr/bin/faillog" "$tree"/var/log/*.log
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

  # A directory takes a file's name, and the other way round: umoci adds what was in the directory as whiteouts, which
  # containerd 1.6 refuses.
  rm -rf "$tree/etc/skel" "$tree/etc/issue.net"; echo file >"$tree/etc/skel"; mkdir "$tree/etc/issue.net"; echo dir >"$tree/etc/issue.net/x"
  layer "swaps"

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
}

# Prints nothing; leaves in `debian` the archive of the image's first six layers, which every tool can unpack: that of an
# earlier test, or one made now (and kept).
debian_archive() {
  debian=$debian_results/debian-plain.tar
  [[ ! -e $debian ]] || return 0
  need debootstrap umoci skopeo setcap setfattr tar apt-get
  make_debian
  rm -rf "$bundle" "$image"
  debian=$WORK/plain.tar
  keep_debian "$debian" debian-plain.tar
}
keep_debian() { # FILE NAME
  [[ ! -d $debian_results ]] || { cp "$1" "$debian_results/$2.part"; mv "$debian_results/$2.part" "$debian_results/$2"; }
}
