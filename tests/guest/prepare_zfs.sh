#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# prepare_zfs.sh [CACHE]: OpenZFS for the guest's kernel, built from Debian's zfs-dkms, and its tools, unpacked.
# Installs nothing. Prints its folder in the cache: modules/*.ko and root/, a file tree with zfs and zpool in it.
#
# No package holds modules that are built, and building takes about 20 minutes of processor time the first time; all of
# it runs at the lowest priority. A build that was interrupted goes on where it was. The cache is looked at first, and
# then nothing is fetched or built.
# Needs: apt-get, dpkg, debian-archive-keyring, gcc, make, libelf1 (the kernel's objtool), strip.
set -euo pipefail
[[ -z ${1:-} ]] || SHALE_GUEST_CACHE=$1
# shellcheck source=tests/guest/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

fetch() { # KERNEL: what is needed to build in ./root, and what is needed to run in ./run
  local kernel=$1 abi series libraries
  abi=${kernel%-*amd64}
  series=$(cut -d. -f1-2 <<<"$kernel")
  apt_private "$PWD/apt" "main contrib"
  rm -rf root run deb
  mkdir -p root run deb/build deb/run
  (cd deb/build && apt_fetch "linux-headers-$kernel" "linux-headers-$abi-common" "linux-kbuild-$series" zfs-dkms) ||
    die "the headers of Linux $kernel or zfs-dkms (component contrib) cannot be had"
  libraries=$(apt-cache "${apt_options[@]}" depends zfsutils-linux | sed -n 's|^ *Depends: \(lib.*linux\)$|\1|p')
  # shellcheck disable=SC2086
  (cd deb/run && apt_fetch zfsutils-linux libtirpc3 $libraries) || die "zfsutils-linux (component contrib) cannot be had"
  local package
  for package in deb/build/*.deb; do dpkg -x "$package" root; done
  for package in deb/run/*.deb; do dpkg -x "$package" run; done
  # The only absolute path in the headers.
  sed -i "s#/usr/src/#$PWD/root/usr/src/#" "root/usr/src/linux-headers-$kernel/Makefile"
  rm -rf deb apt
}

configure() { # KERNEL
  local sources=$PWD/root/usr/src log=$PWD/configure.log
  cd "$sources"/zfs-*
  ./configure --disable-dependency-tracking --with-config=kernel --with-linux="$sources/linux-headers-${1%-*amd64}-common" \
    --with-linux-obj="$sources/linux-headers-$1" >"$log" 2>&1 || { tail -n 5 "$log" >&2; die "configuring OpenZFS failed; see $log"; }
}

build() {
  local log=$PWD/make.log
  cd root/usr/src/zfs-*
  make -j"${JOBS:-$(nproc)}" -C module KCFLAGS=-g0 >"$log" 2>&1 || { tail -n 5 "$log" >&2; die "building OpenZFS failed; see $log"; }
}

# Moves what lies in /lib and /sbin of a tree below /usr. The tree is laid over the host's /, where those are links.
merge_usr() { # TREE
  local dir
  for dir in bin sbin lib; do
    [[ -d $1/$dir ]] || continue
    mkdir -p "$1/usr/$dir"
    cp -a "$1/$dir/." "$1/usr/$dir/"
    rm -rf "${1:?}/$dir"
  done
}

step() { # NAME ARGS...: does what is not done yet, so that an interrupted build goes on
  [[ ! -e done-$1 ]] || return 0
  local start=$SECONDS
  say "OpenZFS: $1"
  ("$@")
  touch "done-$1"
  say "OpenZFS: $1 took $((SECONDS - start)) s"
}

main() {
  local kernel result module
  kernel=$("$guest_dir/prepare.sh")
  kernel=${kernel##*/}
  result=$guest_cache/zfs/$kernel
  [[ -e $result ]] && { echo "$result"; return; }
  lock_cache zfs
  [[ -e $result ]] && { echo "$result"; return; }
  renice -n 19 $$ >/dev/null
  mkdir -p "$guest_cache/zfs/build-$kernel"
  cd "$guest_cache/zfs/build-$kernel"
  step fetch "$kernel"
  step configure "$kernel"
  step build
  rm -rf whole
  mkdir -p whole/modules
  for module in root/usr/src/zfs-*/module/*/*.ko; do
    strip -g -o "whole/modules/${module##*/}" "$module"
  done
  merge_usr run
  mv run whole/root
  mv whole "$result"
  cd /
  rm -rf "$guest_cache/zfs/build-$kernel"
  echo "$result"
}

main
exit
