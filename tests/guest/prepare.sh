#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# prepare.sh [CACHE]: Debian's kernel for the guest: fetched, not installed. Prints its folder in the cache: vmlinux and
# modules/. A kernel that the cache has is used as it is, whatever the archive has by now: to renew it, delete the cache.
# Needs: apt-get, dpkg, debian-archive-keyring, python3.
set -euo pipefail
[[ -z ${1:-} ]] || SHALE_GUEST_CACHE=$1
# shellcheck source=tests/guest/common.sh
. "$(dirname "$(readlink -f "$0")")/common.sh"

# Fetches the newest kernel and leaves what the guest needs of it in DIR/whole; prints its version.
fetch() { # DIR
  local package kernel modules
  cd "$1"
  apt_private "$PWD/apt" main
  package=$(apt-cache "${apt_options[@]}" depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  [[ -n $package ]] || die "the archive has no linux-image-amd64"
  kernel=${package#linux-image-}
  apt_fetch "$package" || die "$package cannot be fetched"
  modules=./lib/modules/$kernel/kernel
  dpkg --fsys-tarfile "$package"_*.deb | tar -x "./boot/vmlinuz-$kernel" "$modules"/{drivers/{md,block,virtio},net/9p,fs,lib,crypto,arch/x86/crypto}
  mkdir whole
  python3 "$guest_dir/vmlinux.py" "boot/vmlinuz-$kernel" whole/vmlinux
  mv "$modules" whole/modules
  echo "$kernel"
}

main() {
  local kernel work
  kernel=$(cached_kernel)
  if [[ -z $kernel ]]; then
    [[ $(uname -m) == x86_64 ]] || die "the guest is made for x86_64, not for $(uname -m)"
    lock_cache kernel
    kernel=$(cached_kernel)
  fi
  if [[ -z $kernel ]]; then
    say "fetching a kernel for the guest into $guest_cache"
    rm -rf "$guest_cache"/kernels/.new.* # of those that were killed
    mkdir -p "$guest_cache/kernels"
    work=$(mktemp -d "$guest_cache/kernels/.new.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    kernel=$(fetch "$work")
    mv "$work/whole" "$guest_cache/kernels/$kernel"
  fi
  echo "$guest_cache/kernels/$kernel"
}

main
