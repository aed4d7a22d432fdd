#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What ./dev up shows, asserted: import, container, run, diff, commit, export, check, df, removal.
source "$(dirname "$0")/../lib.sh"
need busybox sha256sum
"$REPO/tools/busybox_image.sh" "$WORK/image.tar" tour:v1

shale info >"$WORK/info"
shale image import "$WORK/image.tar" --name tour:v1
shale image ls | grep tour
[[ $(shale layer ls --quiet | wc -l) == 2 ]] || fail "two layers were expected"
shale container create --name tour tour:v1

changed=0
if command -v crun >/dev/null && shale run --container tour -- /bin/sh -c \
  'echo written >/hello; rm -f /etc/motd; mkdir -p /srv/new; ls /usr/share' >"$WORK/run.out"; then
  changed=1
  ! grep -q doc "$WORK/run.out" || fail "a file deleted by the second layer is visible in the container"
  shale container diff tour | tee "$WORK/diff"
  grep -qE '^A +/hello$' "$WORK/diff"
  grep -qE '^A +/srv/new$' "$WORK/diff"
  grep -qE '^D +/etc/motd$' "$WORK/diff"
else
  (($(id -u) != 0)) || [[ ! -x $(command -v crun) ]] || fail "root with crun could not run a program: $(cat "$WORK/run.out")"
  skip_part "running a program: crun is not installed or cannot run here; a container without changes was committed"
fi
shale container commit tour tour:v2
shale image export tour:v2 "$WORK/out.tar"
tar -tf "$WORK/out.tar" | grep '^index.json$\|^./index.json$' >/dev/null
shale check
shale df

# The exported image is the committed one, to the byte of its manifest, in a second store.
ROOT=$WORK/second shale image import "$WORK/out.tar" --name again:v2
[[ $(ROOT=$WORK/second shale layer ls --quiet | wc -l) == 3 ]] || fail "three layers were expected in the second store"
if ((changed)); then
  ROOT=$WORK/second shale run --rm again:v2 /bin/sh -c 'cat /hello; test ! -e /etc/motd' | grep -x written >/dev/null
fi

shale container rm tour
shale image rm tour:v1
shale image rm tour:v2
shale gc
[[ -z $(shale layer ls --quiet) ]] || fail "layers are left after everything was removed"
shale check
