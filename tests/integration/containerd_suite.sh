# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# containerd's own test suite of snapshotters through its proxy client (Debian's Go packages): make_suite once, suite for each
# driver, then suites_passed. The client is kept beside the programs' results: a guest, whose processor is an emulated one, takes
# the one that the host has made.
SHALED=${SHALED:-$(dirname "$SHALE")/shaled}
[[ -x $SHALED ]] || fail "no program at $SHALED"
suite_client=$(dirname "$SHALE")/results/containerd-suite
suite_library=/usr/share/gocode/src/github.com/containerd/containerd/snapshots/testsuite
broken=()

make_suite() { # false: what it is made of is not installed
  local here
  here=$(dirname "${BASH_SOURCE[0]}")/070-containerd-suite/suite_test.go
  [[ ! -x $suite_client || $here -nt $suite_client ]] || return 0
  command -v go >/dev/null && [[ -d $suite_library ]] || return 1
  mkdir -p "$WORK/go/src/shalesuite"
  cp "$here" "$WORK/go/src/shalesuite/"
  GO111MODULE=off GOPATH=$WORK/go:/usr/share/gocode GOFLAGS=-p=2 go test -c -o "$WORK/suite" shalesuite
  mkdir -p "$(dirname "$suite_client")" && mv "$WORK/suite" "$suite_client" 2>/dev/null || suite_client=$WORK/suite
}

suite() { # DRIVER PLACE [TEST [OPTION...]]: all pass; TEST is what this driver cannot
  local out=$WORK/$1.out place=$2/$1 failed mounts status=0 options
  options=("${@:4}")
  mkdir -p "$place"
  local tests=() wanted=.
  if [[ -n ${suite_without:-} ]]; then # Go's -skip came later than Debian's Go
    mapfile -t tests < <(sed -n 's/^\tt\.Run("\([^"]*\)".*/\1/p' "$suite_library/testsuite.go" | grep -vxF "$suite_without")
    wanted="^TestSuite\$/^($(IFS='|'; echo "${tests[*]}"))\$"
  fi
  TMPDIR=$place SHALED="$SHALED --driver $1 --log-level error ${options[*]/#/--storage-opt=$1.}" SHALED_LOG=$WORK/$1.log \
    "$suite_client" -test.v -test.parallel 2 -test.timeout 20m -test.run "$wanted" >"$out" 2>&1 || status=$?
  results() { sed -n "s|^ *--- $1: TestSuite/\([^ ]*\) .*|\1|p" "$out" | sort | tr '\n' ' '; }
  failed=$(results FAIL)
  # What the engine mounts for committed layers (erofs: their images) outlives it, as it must: containers stand on it.
  mounts=$(awk -v dir="$place/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | wc -l)
  echo "containerd's suite on $1: $(results PASS | wc -w) passed, $(wc -w <<<"$failed") failed ($failed), skipped: $(results SKIP)($mounts mounts of layers stay)"
  if [[ ${failed% } != "${3:-}" ]] || (($(results PASS | wc -w) < 19)) || ((status > 1)); then
    grep -E '^ *--- FAIL|_test.go|testsuite.go|shaled|panic' "$out" | head -n 60
    tail -n 20 "$WORK/$1.log" || true
    broken+=("$1")
  fi
}

suites_passed() { ((${#broken[@]} == 0)) || fail "containerd's suite fails on: ${broken[*]}"; }
