#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Several processes import the same image into the same new store at once: all succeed, every layer is there once.
source "$(dirname "$0")/../lib.sh"
need python3
"$REPO/bench/mkimage.py" tiny 24 "$WORK/layers"
"$REPO/bench/mkimage.py" oci many:v1 "$WORK/image.tar" gzip "$WORK"/layers/*.tar

importers=()
for n in 1 2 3 4; do
  shale image import "$WORK/image.tar" --name "many:$n" >"$WORK/import.$n" 2>&1 &
  importers+=($!)
done
status=0
for n in 1 2 3 4; do
  wait "${importers[n - 1]}" || { status=1; echo "importer $n failed:"; cat "$WORK/import.$n"; }
done
((status == 0)) || fail "an importer failed"
[[ $(shale layer ls --quiet | wc -l) == 24 ]] || fail "24 layers were expected, there are $(shale layer ls --quiet | wc -l)"
for n in 1 2 3 4; do shale image ls | grep -E "many[: ]+$n( |$)" >/dev/null || fail "image many:$n is missing: $(shale image ls)"; done
shale check

# Removal while others create: nobody trips over a neighbour.
workers=()
for n in 1 2 3 4; do
  (for round in 1 2 3 4 5; do
    shale container create --name "c$n-$round" "many:$n" >/dev/null
    shale container rm "c$n-$round" >/dev/null
  done) >"$WORK/worker.$n" 2>&1 &
  workers+=($!)
done
for n in 1 2 3 4; do wait "${workers[n - 1]}" || { cat "$WORK/worker.$n"; fail "worker $n failed"; }; done
[[ -z $(shale container ls --quiet) ]] || fail "containers are left"

# An importer that is killed in the middle leaves nothing behind that the next command does not clean.
"$REPO/bench/mkimage.py" small 4000 1 "$WORK/big"
"$REPO/bench/mkimage.py" oci big:v1 "$WORK/big.tar" gzip "$WORK"/big/*.tar
"$SHALE" --root "$WORK/store" image import "$WORK/big.tar" --name big:v1 >/dev/null 2>&1 &
victim=$!
for _ in $(seq 2000); do [[ -n $(ls "$WORK/store/tmp") || ! -d /proc/$victim ]] && break; done
kill -9 "$victim" 2>/dev/null || true
wait "$victim" 2>/dev/null || true
shale image import "$WORK/big.tar" --name big:v1 >/dev/null
[[ $(shale layer ls --quiet | wc -l) == 25 ]] || fail "25 layers were expected after the kill and the repeat"
shale check
