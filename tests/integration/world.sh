# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# A world of a test's own. After own_world the test runs in PID and mount namespaces of its own, with an empty /run: what it
# starts (daemons, their shims, containers) and what it mounts ends with it, and loop devices go with their mounts. What
# namespaces do not end is a cgroup: everything below a cgroup named $WORLD goes too.
#
# So it is even when the test is killed with -9: a keeper, in a session of its own, reads from a pipe that only the test
# holds, ends the world when the pipe closes, and removes what is left. A test that ends by itself goes the same way.

own_world() {
  if [[ -n ${WORLD:-} ]]; then
    mount -t tmpfs -o mode=0755 tmpfs /run
    return
  fi
  unshare --mount --pid --fork --mount-proc true 2>/dev/null || skip "PID and mount namespaces cannot be made here"
  local namespaces init='' status=0
  exec {world_pipe}> >(exec setsid bash "${BASH_SOURCE[0]}" "$WORK")
  world_keeper=$!
  release() {
    exec {world_pipe}>&-
    while kill -0 "$world_keeper" 2>/dev/null; do sleep 0.05; done
  }
  WORLD=$(basename "$WORK") SHALE_TEST_DIR=$WORK unshare --mount --pid --fork --kill-child --mount-proc bash "$0" {world_pipe}>&- &
  namespaces=$!
  echo "$namespaces" >&"$world_pipe"
  while [[ -z $init ]] && kill -0 "$namespaces" 2>/dev/null; do
    read -r init 2>/dev/null <"/proc/$namespaces/task/$namespaces/children" || true
  done
  echo "$namespaces $init" >&"$world_pipe"
  wait "$namespaces" || status=$?
  echo ended >&"$world_pipe"
  exit "$status"
}

keep_world() { # WORK
  local namespaces='' init='' work=$1 words point group left
  trap '' HUP INT TERM
  while read -r words; do read -r namespaces init <<<"$words"; done
  if [[ $namespaces != ended ]]; then # init gets a SIGKILL when its parent dies, and takes all others with it
    kill -KILL "$namespaces"
    while kill -0 "$namespaces" || { [[ -n $init ]] && kill -0 "$init"; }; do sleep 0.05; done
  fi 2>/dev/null
  for _ in {1..100}; do # a cgroup stays busy for a moment after its last process
    left=0
    while read -r group; do rmdir -- "$group" 2>/dev/null || left=1; done \
      < <(find /sys/fs/cgroup -depth -type d -path "*/$(basename "$work")*" 2>/dev/null)
    ((left)) || break
    sleep 0.05
  done
  while read -r point; do umount -l -- "$point" || true; done \
    < <(awk -v dir="$work/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
  rm -rf -- "$work"
}

[[ ${BASH_SOURCE[0]} != "$0" ]] || keep_world "$@"
