#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds the images that the measurements use, from Debian packages alone (needs root, debootstrap, python3, zstd).
#   bench/images.sh [OUTDIR]     default /var/tmp/shale-bench/images; what is there already is kept
# A: a Debian in 10 layers, about 1 GB of tar, with deletions, opaque directories, hard links and a file capability.
# B: 120 tiny layers.   C: 200,000 small files in 4 layers.
# The mirror is the one that apt on this machine is set to.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-/var/tmp/shale-bench/images}
mkimage="$here/mkimage.py"

need() { command -v "$1" >/dev/null || { echo "images.sh: $1 is missing; run: ./dev deps bench" >&2; exit 1; }; }
need python3; need zstd; need gzip

if [[ ${SHALE_IMAGES_NS:-} != 1 && $(id -u) == 0 ]]; then
  # A mount namespace of its own: whatever happens, no mount outlives the script.
  SHALE_IMAGES_NS=1 exec unshare --mount --propagation private -- "$0" "$@"
fi
mkdir -p "$out/layers"
cd "$out"

archive_all() { # LETTER FORMAT...
  local letter=$1 how; shift
  for how in "$@"; do
    local short=${how/gzip/gz}; short=${short/zstd/zst}
    [[ -e $letter-$short.tar ]] || { echo "images.sh: $letter-$short.tar"; python3 "$mkimage" oci "bench-${letter,,}:$short" "$letter-$short.tar" "$how" layers/"$letter"/*.tar; }
  done
  [[ -e $letter-docker.tar ]] || python3 "$mkimage" docker "bench-${letter,,}:docker" "$letter-docker.tar" layers/"$letter"/*.tar
}

if [[ ! -e layers/B/0119.tar ]]; then python3 "$mkimage" tiny 120 layers/B; fi
archive_all B gzip
if [[ ! -e layers/C/0003.tar ]]; then python3 "$mkimage" small 200000 4 layers/C; fi
archive_all C gzip

[[ $(id -u) == 0 ]] || { echo "images.sh: image A needs root (debootstrap, overlay mounts); B and C are built" >&2; exit 1; }
need debootstrap
# The Debian archive of this machine: "SITE SUITE" of the first index whose origin is Debian and that is no update suite.
read -r mirror suite < <(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(ORIGIN) $(RELEASE)' 'Created-By: Packages' |
  awk '$3 == "Debian" && $2 == $4 { print $1, $2; exit }') || true
[[ -n ${mirror:-} ]] || { echo "images.sh: apt names no Debian archive here; run apt-get update first" >&2; exit 1; }

build=$out/build
mkdir -p "$build" layers/A
layer_no=0
step() { # SLUG: runs the function step_SLUG on the merged tree of all earlier layers, packs what changed
  local slug=$1 dir lower="" n
  dir=$build/$(printf '%02d' "$layer_no")
  if [[ ! -e $dir.done ]]; then
    echo "images.sh: A layer $layer_no: $slug"
    rm -rf "$dir" "$dir.work"; mkdir -p "$dir" "$dir.work" "$build/merged"
    if ((layer_no == 0)); then
      debootstrap --variant=minbase "$suite" "$dir" "$mirror" >"$build/debootstrap.log"
      rm -rf "$dir"/var/cache/apt/archives/*.deb "$dir"/var/lib/apt/lists/*
      printf 'deb %s %s main\n' "$mirror" "$suite" >"$dir/etc/apt/sources.list"
    else
      for ((n = layer_no - 1; n >= 0; n--)); do lower+=${lower:+:}$build/$(printf '%02d' "$n"); done
      mount -t overlay overlay -o "lowerdir=$lower,upperdir=$dir,workdir=$dir.work,redirect_dir=off,metacopy=off" "$build/merged"
      "step_$slug" "$build/merged"
      umount "$build/merged"
    fi
    rm -rf "$dir.work"
    python3 "$mkimage" upper "$dir" "layers/A/$(printf '%04d' "$layer_no")-$slug.tar"
    touch "$dir.done"
  fi
  layer_no=$((layer_no + 1))
}
install_in() { # ROOT PACKAGE...
  local root=$1; shift
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  mount -t proc proc "$root/proc"
  DEBIAN_FRONTEND=noninteractive chroot "$root" sh -ec "apt-get -qq update
    apt-get -qq -y install --no-install-recommends $* >/dev/null
    apt-get clean; rm -rf /var/lib/apt/lists/*"
  umount "$root/proc"
}
step_base() { :; }
step_python() { install_in "$1" python3 python3-numpy python3-scipy; }
step_node() { install_in "$1" nodejs npm; }
step_build() { install_in "$1" build-essential; }
step_tools() { install_in "$1" git cmake clang; }
step_app() { mkdir -p "$1/srv/app/lib" "$1/srv/app/cache"; for i in $(seq 300); do seq "$i" $((i + 200)) >"$1/srv/app/lib/$i.txt"; done; seq 5000 >"$1/srv/app/cache/index"; }
step_deletions() { rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/man[2-7] "$1/srv/app/lib/7.txt"; rm -f "$1/etc/motd"; }
step_opaque() { rm -rf "$1/srv/app/lib" "$1/etc/skel"; mkdir -p "$1/srv/app/lib" "$1/etc/skel"; seq 10 >"$1/srv/app/lib/new.txt"; echo "# new" >"$1/etc/skel/.profile"; }
step_links() { mkdir "$1/srv/links"; for i in $(seq 100); do seq "$i" 400 >"$1/srv/links/$i"; ln "$1/srv/links/$i" "$1/srv/links/$i.same"; ln "$1/srv/links/$i" "$1/srv/links/$i.too"; done; }
step_caps() { cp "$1/bin/cat" "$1/srv/app/netcat"; setcap cap_net_bind_service,cap_net_raw+ep "$1/srv/app/netcat"; chown 1000:1000 "$1/srv/app/cache"; chmod 2775 "$1/srv/app/cache"; }
for slug in base python node build tools app deletions opaque links caps; do step "$slug"; done
archive_all A gzip zstd
rm -rf "$build"
ls -l "$out"/*.tar
