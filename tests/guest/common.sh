# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts of this folder: where the cache lies, one preparation at a time, packages without installing.
#
# The cache:  kernels/VERSION/{vmlinux,modules/}   zfs/VERSION/{modules/,root/}   initrd/HASH.cpio
# Whatever stands under such a name is whole: it is made elsewhere and renamed. Locks are flocks, so a killed
# preparation leaves none behind.
# shellcheck shell=bash
shopt -s inherit_errexit

guest_dir=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
guest_cache=${SHALE_GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/shale-guest}

say() { echo "guest: $*" >&2; }
die() { say "$*"; exit 1; }

# The newest kernel in the cache; nothing when there is none.
cached_kernel() {
  local dir found=()
  for dir in "$guest_cache"/kernels/*/; do
    [[ ! -e $dir/vmlinux ]] || found+=("$(basename "$dir")")
  done
  ((${#found[@]} == 0)) || printf '%s\n' "${found[@]}" | sort -V | tail -n 1
}

# Waits until no other process prepares the same thing (a name) in this cache; held until this process ends.
lock_cache() { # NAME
  mkdir -p "$guest_cache" || die "the cache $guest_cache cannot be made; SHALE_GUEST_CACHE names another"
  exec 9>>"$guest_cache/lock-$1"
  flock -n 9 || { say "another process prepares the $1 in $guest_cache; waiting for it"; flock 9; }
}

# Points `apt_options` at a private apt, so that nothing of the machine's own changes and no root is needed: the
# Debian sources that the machine has, with COMPONENTS in place of theirs; lists and cache in DIR.
apt_options=()
apt_private() { # DIR COMPONENTS
  local dir=$1 components=$2 uri suite keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  command -v apt-get >/dev/null || die "there is no apt-get here: the guest's kernel comes from Debian packages"
  [[ -r $keyring ]] || die "needs $keyring (package debian-archive-keyring)"
  mkdir -p "$dir"/{sources,lists/partial,archives/partial}
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' 'Component: main' | sort -u |
    while read -r uri suite; do
      printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: %s\n\n' "$uri" "$suite" "$components" "$keyring"
    done >"$dir/sources/shale.sources"
  [[ -s $dir/sources/shale.sources ]] || die "apt knows no Debian source here (run apt-get update first)"
  apt_options=(-q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$dir/sources" -o "Dir::State::lists=$dir/lists"
    -o "Dir::Cache=$dir" -o APT::Sandbox::User=root -o Acquire::Retries=3 -o Acquire::Languages=none)
  apt-get "${apt_options[@]}" update >&2 || die "apt-get update failed"
}

# Fetches packages into the current directory.
apt_fetch() { # PACKAGE...
  apt-get "${apt_options[@]}" download "$@" >&2
}
