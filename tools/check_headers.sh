#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every header of src/ compiles alone: it includes what it needs. Arguments: headers (default: all).
set -euo pipefail
cd "$(dirname "$0")/.."
check() {
  printf '#include "%s"\n' "${1#src/}" |
    ${CXX:-g++} -std=c++23 -fsyntax-only -Wall -Wextra -iquote src -D_GNU_SOURCE '-DSHALE_VERSION="0"' -x c++ - ||
    { echo "$1: does not compile alone"; return 1; }
}
export -f check
if (($#)); then printf '%s\n' "$@"; else find src -name '*.h' | sort; fi |
  xargs -r -n 1 -P "${JOBS:-2}" bash -c 'check "$1"' _ || { echo "headers: not all are self-contained"; exit 1; }
echo "headers: all self-contained"
