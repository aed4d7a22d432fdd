#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# shale watch where inotify goes blind. A program in a mount namespace and root of its own watches its configuration with
# inotify, and reads it again at SIGHUP: a file that is bound alone and replaced on the host, a ConfigMap whose link is
# turned, a file of an image that an overlay copies up. Its own watch is silent, shale's signal comes. And: commands, exit
# statuses, hostile names, a user without privileges, a container of the store.
source "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/integration/world.sh
source "$(dirname "$0")/../world.sh"
need python3
need_root "mount namespaces"
need_overlay
own_world

# The program: ROOT LOG FILE... It says what its inotify and its SIGHUP tell it.
cat >"$WORK/app.py" <<'PYTHON'
import ctypes, os, signal, sys
root, log, files = sys.argv[1], open(sys.argv[2], "a", buffering=1), sys.argv[3:]
libc = ctypes.CDLL(None, use_errno=True)
os.chroot(root)
os.chdir("/")
queue = libc.inotify_init1(0)
IN_MODIFY, IN_CLOSE_WRITE, IN_DELETE_SELF, IN_MOVE_SELF = 0x2, 0x8, 0x400, 0x800
for file in files:
    assert libc.inotify_add_watch(queue, file.encode(), IN_MODIFY | IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MOVE_SELF) >= 0, file
def reload(*_):
    log.write("reload: %s\n" % " ".join(open(file).read().strip() for file in files))
signal.signal(signal.SIGHUP, reload)
log.write("ready\n")
while True:
    os.read(queue, 65536)
    log.write("inotify\n")
PYTHON

wait_for() { # WHAT COMMAND...: 30 s
  local what=$1 n
  shift
  for ((n = 0; n < 300; n++)); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
  fail "$what did not come; $(tail -n 20 "$WORK"/*.log "$WORK"/*.events "$WORK"/*.notes 2>/dev/null)"
}
lines() { [[ $(grep -c -- "$1" "$2") == "$3" ]]; } # PATTERN FILE COUNT
stop() { # PID: of this shell's; its exit status must be 0
  kill -TERM "$1"
  wait "$1" || fail "ended with status $? at SIGTERM; $(cat "$WORK"/*.notes)"
}
end() { # PID...
  kill -9 "$@"
  wait "$@" 2>/dev/null || true
}
watch() { # NAME ARGUMENTS...: in the background; $watcher, NAME.events, NAME.notes
  local name=$1
  shift
  "$SHALE" watch "$@" >"$WORK/$name.events" 2>"$WORK/$name.notes" & watcher=$!
  wait_for "the watch $name" grep -F "shale: watches" "$WORK/$name.notes"
}
event() { # FILE EXPRESSION: a Python expression over its last event
  python3 - "$1" "$2" <<'PYTHON' || fail "not so: $2; the events: $(cat "$1")"
import json, sys
last = json.loads(open(sys.argv[1]).read().splitlines()[-1])
sys.exit(0 if eval(sys.argv[2]) else 1)
PYTHON
}
replace() { # FILE CONTENTS
  echo "$2" >"$1.new"
  mv "$1.new" "$1"
}

# ------------------------------------------------------------------------------------------- a file that is bound alone
mkdir -p "$WORK/host/conf" "$WORK/root/etc" "$WORK/root/config"
echo one >"$WORK/host/conf/app.conf"
: >"$WORK/root/etc/app.conf"
unshare --mount --propagation private bash -c "
  mount --bind '$WORK/root' '$WORK/root' && mount --bind '$WORK/host/conf/app.conf' '$WORK/root/etc/app.conf' &&
  exec python3 '$WORK/app.py' '$WORK/root' '$WORK/app.log' /etc/app.conf" & app=$!
wait_for "the program" grep -x ready "$WORK/app.log"
watch bound --json --pid "$app" --signal HUP /etc/app.conf
bound_watcher=$watcher
echo "one, in place" >"$WORK/host/conf/app.conf" # both hear of that
wait_for "the first event" lines . "$WORK/bound.events" 1
event "$WORK/bound.events" 'last["event"] == "modified" and last["path"] == "/etc/app.conf" and last["inode_before"] == last["inode_after"]'
wait_for "SIGHUP" grep -x "reload: one, in place" "$WORK/app.log"
wait_for "inotify" grep -x inotify "$WORK/app.log"
sleep 0.5
heard=$(grep -c inotify "$WORK/app.log")
for n in 2 3; do
  replace "$WORK/host/conf/app.conf" "number $n"
  wait_for "event $n" lines . "$WORK/bound.events" "$n"
  event "$WORK/bound.events" "last['event'] == 'replaced' and last['source'] == '$WORK/host/conf/app.conf' and last['stale'] and last['inode_after'] == $(stat -c %i "$WORK/host/conf/app.conf")"
  wait_for "SIGHUP" lines "reload:" "$WORK/app.log" "$n"
done
lines inotify "$WORK/app.log" "$heard" || fail "inotify should have been silent: $(cat "$WORK/app.log")"
# It was told, and still sees the old one; that is said once.
grep -c "whatever it is told" "$WORK/bound.notes" | grep -x 1 >/dev/null || fail "the stale file is not told: $(cat "$WORK/bound.notes")"
grep "reload:" "$WORK/app.log" | tail -n 1 | grep -x "reload: one, in place" >/dev/null || fail "the bound file is not the old one any more?"
# Bound anew, it is seen at once: a mount is a change, too.
nsenter --target "$app" --mount bash -c "umount '$WORK/root/etc/app.conf' && mount --bind '$WORK/host/conf/app.conf' '$WORK/root/etc/app.conf'"
wait_for "the mount" lines . "$WORK/bound.events" 4
event "$WORK/bound.events" 'last["event"] == "replaced" and "stale" not in last and "source" not in last'
wait_for "the new file" grep -x "reload: number 3" "$WORK/app.log"
# A watch that begins when all is lost already says so, and finds the name.
replace "$WORK/host/conf/app.conf" "number 4"
watch late --verbose --pid "$app" /etc/app.conf
grep -F "whatever it is told" "$WORK/late.notes" >/dev/null || fail "a file that was replaced before is not told: $(cat "$WORK/late.notes")"
stop "$watcher"
# A directory that goes and comes back under the same name.
mv "$WORK/host/conf" "$WORK/host/old"
wait_for "the directory's going" lines moved "$WORK/bound.events" 1
mkdir "$WORK/host/conf"
echo again >"$WORK/host/conf/app.conf"
wait_for "its return" lines created "$WORK/bound.events" 1
# The program ends, and so does what watches for it.
end "$app"
status=0
wait "$bound_watcher" || status=$?
((status == 1)) || fail "the process has ended, and the exit status is $status: $(cat "$WORK/bound.notes")"
refuse "there is no process" -- "$SHALE" watch --pid 4194000 /x
echo "bound file: done"

# --------------------------------------------------------------------------------------- a ConfigMap, and a file of it
update() { # NAME CONTENTS: as Kubernetes does it
  mkdir "$WORK/host/map/$1"
  echo "$2" >"$WORK/host/map/$1/app.conf"
  ln -s "$1" "$WORK/host/map/..data_tmp"
  local old
  old=$(readlink "$WORK/host/map/..data" || true)
  mv -T "$WORK/host/map/..data_tmp" "$WORK/host/map/..data"
  [[ -z $old ]] || rm -r "$WORK/host/map/$old"
}
mkdir "$WORK/host/map"
update ..2024_01 one
ln -s ..data/app.conf "$WORK/host/map/app.conf"
unshare --mount --propagation private bash -c "
  mount --bind '$WORK/root' '$WORK/root' && mount --bind '$WORK/host/map' '$WORK/root/config' &&
  mount --bind '$WORK/host/map/..2024_01/app.conf' '$WORK/root/etc/app.conf' &&
  exec python3 '$WORK/app.py' '$WORK/root' '$WORK/map.log' /config/app.conf" & app=$!
wait_for "the program" grep -x ready "$WORK/map.log"
watch map --json --pid "$app" --signal SIGHUP /config/app.conf
map_watcher=$watcher
watch subpath --json --pid "$app" /etc/app.conf
for n in 2 3; do
  update "..2024_0$n" "number $n"
  wait_for "event $n" lines replaced "$WORK/map.events" $((n - 1))
  wait_for "SIGHUP $n" grep -x "reload: number $n" "$WORK/map.log"
  # subPath binds the file behind the link: it is followed by the link nevertheless.
  wait_for "the bound file's" lines replaced "$WORK/subpath.events" $((n - 1))
  event "$WORK/subpath.events" "last['source'] == '$WORK/host/map/..data/app.conf' and last['stale']"
done
stop "$map_watcher"
stop "$watcher"
end "$app"
echo "ConfigMap: done"

# ------------------------------------------------------------------------------------------------- an overlay's copy-up
mkdir -p "$WORK/lower/etc" "$WORK/upper" "$WORK/work" "$WORK/merged"
for name in written moded replaced; do echo "$name" >"$WORK/lower/etc/$name"; done
mount -t overlay overlay -o "lowerdir=$WORK/lower,upperdir=$WORK/upper,workdir=$WORK/work" "$WORK/merged"
# This one watches the image's files, which never change again.
python3 "$WORK/app.py" "$WORK/lower" "$WORK/lower.log" /etc/written /etc/moded /etc/replaced & image=$!
python3 "$WORK/app.py" "$WORK/merged" "$WORK/merged.log" /etc/written & app=$!
wait_for "the programs" grep -x ready "$WORK/lower.log"
wait_for "the programs" grep -x ready "$WORK/merged.log"
watch overlay --json --pid "$app" --signal HUP /etc/written /etc/moded /etc/replaced
one_more() { # KIND PATH COMMAND...
  local kind=$1 path=$2 before
  shift 2
  before=$(wc -l <"$WORK/overlay.events")
  "$@"
  wait_for "$kind $path" lines . "$WORK/overlay.events" $((before + 1))
  event "$WORK/overlay.events" "last['event'] == '$kind' and last['path'] == '$path'"
}
# shellcheck disable=SC2016
one_more modified /etc/written bash -c 'echo more >>"$1"' - "$WORK/merged/etc/written"
[[ -e $WORK/upper/etc/written ]] || fail "the file was not copied up"
# shellcheck disable=SC2016
one_more modified /etc/written bash -c 'echo "and more" >>"$1"' - "$WORK/merged/etc/written"
one_more attributes /etc/moded chmod 600 "$WORK/merged/etc/moded"
one_more replaced /etc/replaced replace "$WORK/merged/etc/replaced" new
one_more deleted /etc/moded rm "$WORK/merged/etc/moded"
wait_for "SIGHUP" lines "reload:" "$WORK/merged.log" 5
lines inotify "$WORK/lower.log" 0 || fail "the image's files changed? $(cat "$WORK/lower.log")"
stop "$watcher"
end "$image" "$app"
umount "$WORK/merged"
echo "overlay: done"

# ------------------------------------------------------------------------------------------- commands, statuses, names
mkdir "$WORK/dir"
cd "$WORK/dir"
# shellcheck disable=SC2016
"$SHALE" watch --once --timeout 60 later sub/late --exec -- sh -c 'echo "$SHALE_EVENT $SHALE_PATH" >>"$0/exec.log"; exit 7' "$WORK" >"$WORK/once.events" 2>"$WORK/once.notes" & watcher=$!
wait_for "the watch" grep -F "shale: watches 2 paths" "$WORK/once.notes"
grep -F "nothing is at later; it is waited for" "$WORK/once.notes" >/dev/null || fail "what is not there is not told"
mkdir sub
echo x >sub/late
wait "$watcher" || fail "--once ended with status $?: $(cat "$WORK/once.notes")"
[[ $(cat "$WORK/exec.log") == "created sub/late" ]] || fail "the command got: $(cat "$WORK/exec.log")"
grep -E '^[0-9-]+T[0-9:.]+Z created +sub/late$' "$WORK/once.events" >/dev/null || fail "the event is: $(cat "$WORK/once.events")"
grep -F "sh ended with status 7" "$WORK/once.notes" >/dev/null || fail "the command's failure is not told: $(cat "$WORK/once.notes")"
status=0
"$SHALE" watch --timeout 0 later >/dev/null 2>&1 || status=$?
((status == 1)) || fail "--timeout without an event: exit $status"
for arguments in "" "--signal HUP x" "--pid 1 --signal FROB /x" "x --exec" "--pid 1 relative"; do
  status=0
  # shellcheck disable=SC2086
  "$SHALE" watch $arguments >/dev/null 2>&1 || status=$?
  ((status == 2)) || fail "'shale watch $arguments': exit $status"
done
# A name cannot look like an event, nor write to the terminal.
watch names --recursive .
touch $'evil\n2024-01-01T00:00:00Z replaced   passwd\e[2J'
wait_for "the hostile name" lines evil "$WORK/names.events" 1
lines . "$WORK/names.events" 1 || fail "a name made lines of its own: $(cat -v "$WORK/names.events")"
grep -F 'evil\x0a2024-01-01' "$WORK/names.events" >/dev/null || fail "the name is not escaped: $(cat -v "$WORK/names.events")"
mkdir -p a/b/c
echo x >a/b/c/deep
wait_for "the new tree" grep -E ' created +\./a/b/c/deep$' "$WORK/names.events"
stop "$watcher"
# Without privileges, in one's own directory; of those above, names can be looked up but not listed.
mkdir "$WORK/own"
chown 65534:65534 "$WORK/own"
chmod 711 "$WORK" "$(dirname "$WORK")"
cp "$SHALE" "$WORK/shale"
nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups env HOME="$WORK/own" "$@"; }
if nobody "$WORK/shale" version >/dev/null 2>&1; then
  nobody "$WORK/shale" watch --once --timeout 60 "$WORK/own/file" >"$WORK/user.events" 2>"$WORK/user.notes" & watcher=$!
  wait_for "the user's watch" grep -F "shale: watches" "$WORK/user.notes"
  nobody touch "$WORK/own/file"
  wait "$watcher" || fail "as a user: status $?, $(cat "$WORK/user.notes")"
  grep -F "created" "$WORK/user.events" >/dev/null || fail "as a user: $(cat "$WORK/user.events")"
  cat "$WORK/user.notes"
  refuse "permission denied" -- nobody "$WORK/shale" watch --pid 1 /etc
else
  skip_part "without privileges: another user can run no program in $WORK"
fi
cd /
echo "commands, statuses, names: done"

# -------------------------------------------------------------------------------------------- a container of the store
if command -v crun >/dev/null && command -v busybox >/dev/null; then
  "$REPO/tools/busybox_image.sh" "$WORK/image.tar" app:1
  shale image import "$WORK/image.tar" --name app:1 >/dev/null
  shale run --name web app:1 -- sh -c 'trap "echo reload" HUP; echo ready; while :; do sleep 0.1; done' >"$WORK/web.log" 2>&1 & container=$!
  wait_for "the container" grep -x ready "$WORK/web.log"
  merged=$(shale container inspect web | sed -n 's/.*"mounted_at": "\(.*\)".*/\1/p')
  watch container --root "$WORK/store" --once --container web --signal HUP /etc/motd
  echo changed >"$merged/etc/motd"
  wait "$watcher" || fail "the container's watch ended with status $?: $(cat "$WORK/container.notes")"
  wait_for "the container's SIGHUP" grep -x reload "$WORK/web.log"
  shale container rm --force web >/dev/null 2>&1 || true
  kill "$container" 2>/dev/null || true
  shale container create --name idle app:1 >/dev/null
  refuse "is not mounted" -- shale watch --container idle /etc
  refuse "no container" -- shale watch --container nonesuch /etc
else
  skip_part "a container of the store: crun or busybox is not installed"
fi
