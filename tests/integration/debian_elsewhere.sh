# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# The Debian of 050-debian-image on a driver that few kernels have: round_trip DRIVER PLACE [OPTION...], in a new store at
# PLACE/store, whose driver gets these KEY=VALUE; any number of times.
debian_results=$(dirname "$SHALE")/results

need_debian() { # after what this kernel lacks, which a guest may have
  [[ -e $debian_results/debian.tar ]] || skip "no image: 050-debian-image leaves it at $debian_results/debian.tar when it passes"
}

opts=()
shale() { "$SHALE" "${opts[@]}" --root "$ROOT" "$@"; }

round_trip() {
  local tree archives
  ROOT=$2/store opts=("${@:3}")
  opts=("${opts[@]/#/--storage-opt=$1.}")
  shale --driver "$1" image import "$debian_results/debian.tar" --name debian:oci
  shale container create --name same debian:oci
  tree=$(shale container mount same | tail -n 1)
  if [[ ! -d $WORK/in ]]; then
    mkdir "$WORK/in"
    tar -xf "$debian_results/debian.tar" -C "$WORK/in"
    (cd "$WORK/in/blobs/sha256" && sha256sum -- * | sort) >"$WORK/sums"
  fi
  mapfile -t archives < <(python3 - "$WORK/in" <<'PY'
import json, sys
def read(digest): return json.load(open(f"{sys.argv[1]}/blobs/sha256/{digest.removeprefix('sha256:')}"))
for layer in read(json.load(open(sys.argv[1] + "/index.json"))["manifests"][0]["digest"])["layers"]:
    print(f"{sys.argv[1]}/blobs/sha256/{layer['digest'].removeprefix('sha256:')}")
PY
  )
  "$REPO/tools/tree_manifest.py" --layers "${archives[@]}" -- "$tree" >"$WORK/objects"
  diff "$debian_results/debian.objects" "$WORK/objects" >"$WORK/difference" || { head -n 40 "$WORK/difference"; fail "$1 ${*:3}: the tree is not umoci's"; }
  shale container unmount same
  shale image export debian:oci "$WORK/out.tar"
  mkdir "$WORK/out"
  tar -xf "$WORK/out.tar" -C "$WORK/out"
  diff "$WORK/sums" <(cd "$WORK/out/blobs/sha256" && sha256sum -- * | sort) || fail "$1 ${*:3}: blobs differ after the round trip"
  rm -r "$WORK/out" "$WORK/out.tar"
  shale container rm same
  shale check
  shale image rm debian:oci
  shale gc
}
