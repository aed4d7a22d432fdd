#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# containerd's own test suite of snapshotters, through containerd's proxy client, against shaled with every driver that
# this host can run; then what only a daemon has: its sockets, several snapshotters at once, signals, monitoring.
# Time limit: 1800 s (the suite's client is compiled first: minutes where Go's cache is empty)
source "$(dirname "$0")/../lib.sh"
source "$(dirname "$0")/../containerd_suite.sh"
need_root "mounts, owners"
need_overlay
need curl python3

# ------------------------------------------------------------------------------------------------- the daemon itself
cat >"$WORK/shale.toml" <<TOML
[[snapshotter]]
name = "one"
driver = "overlay2"
root = "$WORK/one"
socket = "$WORK/one.sock"
[[snapshotter]]
name = "two"
driver = "vfs"
root = "$WORK/two"
socket = "$WORK/two.sock"
[shaled]
metrics = "$WORK/metrics.sock"
log_format = "json"
TOML
# What the service manager hears.
python3 - "$WORK/notify" >"$WORK/notified" <<'PY' &
import socket, sys
heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
heard.bind(sys.argv[1])
while True:
    print(heard.recv(4096).decode().replace("\n", " "), flush=True)
PY
listener=$!
daemon=
end() {
  local status=$?
  kill "$listener" ${daemon:+"$daemon"} 2>/dev/null || true
  set +e
  (exit "$status")
  cleanup
}
trap end EXIT
for _ in $(seq 100); do [[ -S $WORK/notify ]] && break; sleep 0.05; done
export NOTIFY_SOCKET=$WORK/notify
start() { # ARGUMENTS: until it says that it is ready
  "$SHALED" "$@" 2>>"$WORK/shaled.log" &
  daemon=$!
  for _ in $(seq 600); do
    curl -sf --unix-socket "$WORK/metrics.sock" http://shaled/healthz >/dev/null 2>&1 && return
    kill -0 "$daemon" 2>/dev/null || { cat "$WORK/shaled.log"; fail "shaled did not start"; }
    sleep 0.05
  done
  fail "shaled is not healthy: $(cat "$WORK/shaled.log")"
}
metrics() { curl -sf --unix-socket "$WORK/metrics.sock" http://shaled/metrics; }
resident() { awk '$1 == "VmRSS:" { print $2 }' "/proc/$daemon/status"; }

start --config "$WORK/shale.toml"
for socket in one two metrics; do
  [[ $(stat -c '%F %a %U' "$WORK/$socket.sock") == "socket 660 root" ]] || fail "$socket.sock is $(stat -c '%F %a %U' "$WORK/$socket.sock")"
done
metrics | grep -F 'shale_snapshots{snapshotter="two",kind="committed"} 0' >/dev/null || fail "no snapshots are counted: $(metrics)"
metrics | grep -F 'shale_trash_layers{snapshotter="one"} 0' >/dev/null || fail "the trash is not counted: $(metrics)"
echo "idle, two snapshotters: $(resident) KiB resident, $(awk '$1 == "Threads:" { print $2 }' "/proc/$daemon/status") threads"
refuse "another process listens" -- "$SHALED" --root "$WORK/three" --driver vfs --listen "$WORK/one.sock"
sed -i 's/^log_format.*/log_level = "debug"/' "$WORK/shale.toml"
kill -HUP "$daemon"
for _ in $(seq 100); do grep -F 'reloaded' "$WORK/shaled.log" >/dev/null && break; sleep 0.05; done
grep -F 'info reloaded' "$WORK/shaled.log" >/dev/null || fail "SIGHUP had no effect: $(cat "$WORK/shaled.log")"
for state in READY=1 RELOADING=1; do grep -- "$state" "$WORK/notified" >/dev/null || fail "$state was not said: $(cat "$WORK/notified")"; done
# A killed one leaves its sockets; the next takes them over.
kill -9 "$daemon"; wait "$daemon" 2>/dev/null || true
start --config "$WORK/shale.toml"
kill -TERM "$daemon"
wait "$daemon" || fail "SIGTERM: exit $?: $(cat "$WORK/shaled.log")"
[[ ! -e $WORK/one.sock && ! -e $WORK/metrics.sock ]] || fail "sockets are left"
grep STOPPING=1 "$WORK/notified" >/dev/null || fail "STOPPING=1 was not said"
unset NOTIFY_SOCKET
daemon=

# ------------------------------------------------------- a socket that the service manager holds while shaled restarts
python3 - "$SHALED" "$WORK" <<'PY'
import os, signal, socket, sys
shaled, work = sys.argv[1:]
path = work + "/held.sock"
held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
held.bind(path)
held.listen(16)
def start():
    pid = os.fork()
    if pid == 0:
        os.dup2(held.fileno(), 3)  # where sd_listen_fds(3) has the first
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
        os.execv(shaled, [shaled, "--root", work + "/held", "--driver", "vfs", "--listen", path, "--log-level", "error"])
    return pid
preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and empty settings
for _ in range(2):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(30)
    client.connect(path)  # before anybody serves
    client.sendall(preface)
    pid = start()
    frame = client.recv(9)
    assert len(frame) == 9 and frame[3] == 4, f"no settings came, but {frame!r}"
    os.kill(pid, signal.SIGTERM)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"shaled ended with {status}"
    assert os.path.exists(path), "the socket has gone"
PY

shale --config "$WORK/shale.toml" containerd config >"$WORK/containerd.toml"
grep -F "address = \"$WORK/two.sock\"" "$WORK/containerd.toml" >/dev/null || fail "containerd config: $(cat "$WORK/containerd.toml")"

# --------------------------------------------------------------------------------------------------------- the suite
if ! make_suite; then
  skip_part "containerd's suite: Debian's golang-go and golang-github-containerd-containerd-dev are not installed"
  exit 0
fi
ext4=$WORK/ext4
truncate -s 8G "$WORK/ext4.img"; mkfs.ext4 -q -F "$WORK/ext4.img"; mkdir "$ext4"
mount -o loop "$WORK/ext4.img" "$ext4" || { rmdir "$ext4"; ext4=$WORK; skip_part "a file system of the suite's own: no loop devices"; }
for driver in overlay2 erofs vfs; do suite "$driver" "$ext4"; done
suite overlay "$ext4" 128LayersMount # it stacks 100
if command -v mkfs.btrfs >/dev/null && [[ $ext4 != "$WORK" ]]; then
  truncate -s 8G "$WORK/btrfs.img"; mkfs.btrfs -q "$WORK/btrfs.img" >/dev/null
  mkdir "$WORK/btrfs"; mount -o loop "$WORK/btrfs.img" "$WORK/btrfs"
  suite btrfs "$WORK/btrfs"
else
  skip_part "btrfs: mkfs.btrfs or loop devices are missing"
fi
suites_passed
