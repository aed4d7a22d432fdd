#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An unprivileged user, without any subordinate ids, uses shale from import to export.
source "$(dirname "$0")/../lib.sh"
need busybox
"$REPO/tools/busybox_image.sh" "$WORK/image.tar" tour:v1
cp "$SHALE" "$WORK/shale"
mkdir "$WORK/home" "$WORK/run"
chmod 0755 "$WORK" "$WORK/shale"
if (($(id -u) == 0)); then
  need setpriv
  chown 65534:65534 "$WORK/home" "$WORK/run"
  as_user=(setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all)
else
  as_user=()
fi
user() { "${as_user[@]}" env -i PATH="$PATH" HOME="$WORK/home" XDG_RUNTIME_DIR="$WORK/run" LC_ALL=C "$@"; }
user_shale() { user "$WORK/shale" --root "$WORK/home/store" "$@"; }

user_shale info | tee "$WORK/info"
user_shale image import "$WORK/image.tar" --name tour:v1
user_shale image ls | grep tour
[[ $(user_shale layer ls --quiet | wc -l) == 2 ]]
user_shale container create --name tour tour:v1
user_shale container ls | grep tour
user_shale container diff tour
if ! command -v crun >/dev/null; then
  skip_part "running a program: crun is not installed"
elif ! user unshare --user --map-root-user --mount true 2>/dev/null; then
  skip_part "running a program: this host allows no user namespace to unprivileged users"
else
  user_shale run --container tour -- /bin/sh -c 'echo written >/hello; rm /etc/motd'
  user_shale container diff tour | grep -E '^A +/hello$'
  user_shale container diff tour | grep -E '^D +/etc/motd$'
fi
user_shale container commit tour tour:v2
user_shale image export tour:v2 "$WORK/home/out.tar"
user_shale check
user_shale df
user_shale container rm tour
user_shale image rm tour:v1
user_shale image rm tour:v2
user_shale gc
[[ -z $(user_shale layer ls --quiet) ]] || fail "layers are left"

# Without any privilege, and with no way to get one, vfs does the same.
user "$WORK/shale" --root "$WORK/home/vfs" --driver vfs image import "$WORK/image.tar" --name tour:v1
user "$WORK/shale" --root "$WORK/home/vfs" container create --name tour tour:v1
user "$WORK/shale" --root "$WORK/home/vfs" check
