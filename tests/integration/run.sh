#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs tests/integration/NNN-*/test.sh (all, or those whose name contains an argument after RESULTS) on $SHALE.
#   tests/integration/run.sh [RESULTS [NAME...]]     RESULTS: a directory for logs and integration.tsv
# A test that exits 77 was skipped; its last "SKIP: reason" line says why. Lines "SKIP-PART: what: why not" of a test that
# passed name what of it was left out. A test has 600 s, or what its "# Time limit: N s" line says.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
results=${1:-$(mktemp -d)}
shift || true
mkdir -p "$results/integration"
export SHALE=${SHALE:-$here/../../build/dev/shale}
[[ -x $SHALE ]] || { printf 'integration\tFAIL\tno program at %s\n' "$SHALE" >>"$results/integration.tsv"; echo "no program at $SHALE" >&2; exit 1; }
failed=0
for test in "$here"/[0-9]*/test.sh; do
  name=$(basename "$(dirname "$test")")
  if (($#)); then
    chosen=0
    for word; do [[ $name == *"$word"* ]] && chosen=1; done
    ((chosen)) || continue
  fi
  log=$results/integration/$name.log
  limit=$(sed -n 's/^# Time limit: \([0-9]*\) s.*/\1/p' "$test")
  timeout --kill-after=10 "${limit:=600}" bash "$test" >"$log" 2>&1
  status=$?
  case $status in
    0) outcome=PASS reason= ;;
    77) outcome=SKIP reason=$(sed -n 's/^SKIP: //p' "$log" | tail -n 1) ;;
    124 | 137) outcome=FAIL reason="did not end within $limit s" failed=1 ;;
    *) outcome=FAIL reason="exit $status: $(tail -n 1 "$log" | tr '\t' ' ')" failed=1 ;;
  esac
  printf 'integration: %s\t%s\t%s\n' "$name" "$outcome" "$reason" >>"$results/integration.tsv"
  printf '%s %s%s\n' "$outcome" "$name" "${reason:+: $reason}"
  [[ $outcome != PASS ]] || sed -n 's/^SKIP-PART: //p' "$log" | while IFS= read -r part; do
    printf 'integration: %s (a part)\tSKIP\t%s\n' "$name" "$part" >>"$results/integration.tsv"
    printf 'SKIP %s, a part: %s\n' "$name" "$part"
  done
  [[ $outcome == FAIL ]] && sed 's/^/    /' "$log" | tail -n 40
done
exit "$failed"
