#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Options, good and bad: what is unknown, obsolete or invented is refused by its name, with what to do instead.
source "$(dirname "$0")/../lib.sh"

with() { "$SHALE" --root "$WORK/store" "$@"; }
# Docker's spelling of driver and options is understood.
with --storage-driver vfs info >/dev/null
rm -rf "$WORK/store"
with --driver vfs info >/dev/null
rm -rf "$WORK/store"

refuse override_kernel_check obsolete -- with --storage-opt overlay2.override_kernel_check=true info
refuse overlay2.made_up -- with --storage-opt overlay2.made_up=1 info
refuse size -- with --driver overlay2 --storage-opt overlay2.size info
refuse aufs -- with --driver aufs info
refuse nosuchdriver -- with --driver nosuchdriver info
refuse nosuchverb -- with nosuchverb
refuse --nosuchflag -- with info --nosuchflag
# A slip of the pen is met with the nearest word.
refuse redirect_dir -- with --driver overlay2 --storage-opt overlay2.redirect_dri=on info

printf 'rot = "/x"\n' >"$WORK/bad.toml"
refuse bad.toml:1 rot -- with --config "$WORK/bad.toml" info
printf 'driver = "vfs"\n[limits]\nentries = "many"\n' >"$WORK/type.toml"
refuse type.toml -- with --config "$WORK/type.toml" info
printf '{"storage-driver": "vfs", "graph": "/x"}\n' >"$WORK/daemon.json"
refuse graph -- with --daemon-json "$WORK/daemon.json" info
printf '{"storage-driver": "vfs", "debug": true}\n' >"$WORK/daemon.json"
with --daemon-json "$WORK/daemon.json" config show | grep vfs >/dev/null
rm -rf "$WORK/store"

# What the drivers cost here, measured; nothing stays.
with --json drivers --measure | python3 -c '
import json, sys
rows = {row["name"]: row for row in json.load(sys.stdin)}
assert rows["vfs"]["usable"], rows["vfs"]["reason"]
for name, row in rows.items():
    assert row["usable"] == ("measured" in row), name
    assert not row["usable"] or all(row["measured"][key] > 0 for key in ("create_us", "copy_up_us", "write_4k_ns", "remove_us")), row
' || fail "drivers --measure"
left=$(find "$WORK" -maxdepth 1 -name '.shale-probe-*')
[[ -z $left ]] || fail "drivers --measure left $left"

# Usage errors and failures differ in their exit code.
status=0; with info --nosuchflag >/dev/null 2>&1 || status=$?
((status == 2)) || fail "a usage error exits with $status, not 2"
status=0; with image export nosuch:image "$WORK/x.tar" >/dev/null 2>&1 || status=$?
((status == 1)) || fail "a failure exits with $status, not 1"
[[ ! -e $WORK/x.tar ]] || fail "a failed export left a file"

# A store with images refuses another driver, naming both.
need busybox
"$REPO/tools/busybox_image.sh" "$WORK/image.tar" tour:v1
with --driver vfs image import "$WORK/image.tar" --name tour:v1
refuse overlay2 vfs -- with --driver overlay2 image ls
with image ls | grep tour >/dev/null
