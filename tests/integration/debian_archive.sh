# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2016,SC2154
# For tests that make a Debian with debootstrap: sourced after lib.sh. $tree is where the test wants it.
suite=bookworm
# The archive that apt on this machine is set to. Without package lists apt does not know whose archive it is.
need debootstrap apt-get
mirror=$(apt-get indextargets --format '$(REPO_URI)|$(RELEASE)|$(ORIGIN)' 'Created-By: Packages' |
  awk -F '|' -v suite="$suite" '$2 == suite && ($3 == "Debian" || $3 == "") && !/security/ { print $1; exit }') || true
[[ -n $mirror ]] || skip "apt on this machine names no archive of Debian $suite"
no_network='Failed getting release file|Invalid Release|Couldn.t download|Failed to fetch|Unable to fetch|Temporary failure|Could not (connect|resolve)'
# from_network LOG COMMAND: a command that fails for want of the network skips the test.
from_network() {
  local log=$1; shift
  "$@" >"$log" 2>&1 && return
  tail -n 5 "$log"
  grep -qE "$no_network" "$log" || fail "$1 failed"
  skip "the archive of Debian $suite cannot be reached: $(grep -E "$no_network" "$log" | tail -n 1)"
}
small_debian() { from_network "$WORK/debootstrap.log" debootstrap --variant=minbase "$suite" "$tree" "$mirror"; }
in_tree() { # COMMAND: in the tree, with a /proc and processes that go when the command has ended
  unshare --mount --propagation private --pid --fork --kill-child \
    sh -ec 'mount -t proc proc "$1/proc"; exec chroot "$1" sh -ec "$2"' sh "$tree" "$1"
}
took() { echo "-- $SECONDS s: $*"; }
