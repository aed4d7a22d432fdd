#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Holds the include graph of src/ to docs/design.md: a room includes itself and the rooms below it, named from the root of src/.
# Violations are printed as file:line.
set -euo pipefail
cd "$(dirname "$0")/.."
find src -name '*.h' -o -name '*.cc' | sort | xargs awk '
BEGIN {
  low = "base sys"
  allow("base", "base"); allow("sys", low)
  allow("archive", low " archive"); allow("probe", low " probe")
  allow("oci", low " archive oci"); allow("drivers", low " archive drivers")
  store = low " archive oci drivers probe store"
  allow("store", store)
  n = split("frontends doctor guard lab advise volumes", upper, " ")
  for (i = 1; i <= n; i++) { allow(upper[i], store " " upper[i]); all = all " " upper[i] }
  allow("guard", "doctor")
  allow("cli", store " " all " cli")
  allow("daemon", store " " all " cli daemon")
}
function allow(room, below,  parts, k, i) { known[room] = 1; k = split(below, parts, " "); for (i = 1; i <= k; i++) ok[room, parts[i]] = 1 }
FNR == 1 { split(FILENAME, part, "/"); room = part[2]; files++
  if (!(room in known)) { printf "%s:1: room \"%s\" is not in the include graph (tools/check_includes.sh)\n", FILENAME, room; bad++ } }
/^[ \t]*#[ \t]*include[ \t]*"/ {
  path = $0; sub(/^[^"]*"/, "", path); sub(/".*/, "", path); split(path, to, "/")
  if (index(path, "/") == 0 || !(to[1] in known)) {
    if (index(path, "/") != 0 && system("test -e src/" to[1]) != 0) next   # a library header in quotes
    printf "%s:%d: \"%s\" must be named from the root of src/ (room/file.h)\n", FILENAME, FNR, path; bad++
  } else if (!((room, to[1]) in ok)) {
    printf "%s:%d: %s/ may not include %s/ (\"%s\")\n", FILENAME, FNR, room, to[1], path; bad++
  } else if ((getline line < ("src/" path)) < 0) {
    printf "%s:%d: \"%s\" does not exist\n", FILENAME, FNR, path; bad++
  } else close("src/" path)
}
END { if (bad) { printf "include graph: %d violations in %d files\n", bad, files; exit 1 } printf "include graph: %d files, no violation\n", files }'
