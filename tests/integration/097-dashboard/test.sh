#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The dashboard of shaled, in a browser: a disk whose inodes run out under a guard, layers of an image, an event. What the
# browser has laid out is measured, at the width of a screen and of a telephone.
source "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/integration/world.sh
source "$(dirname "$0")/../world.sh"
need mkfs.ext4 python3 curl chromium
need_root "a file system of its own"
need_overlay
own_world
SHALED=$(dirname "$SHALE")/shaled
[[ -x $SHALED ]] || skip "no shaled beside $SHALE"

truncate -s 64M "$WORK/disk.img"; mkfs.ext4 -q -m 0 -N 2000 "$WORK/disk.img"
mkdir "$WORK/disk"; mount -o loop "$WORK/disk.img" "$WORK/disk"
"$REPO/tools/busybox_image.sh" "$WORK/image.tar" tour:v1
ROOT=$WORK/disk/store shale --driver overlay2 image import "$WORK/image.tar" --name tour:v1 >/dev/null
cat >"$WORK/shaled.toml" <<TOML
[shaled]
metrics = "$WORK/monitor.sock"
[[snapshotter]]
name = "tour"
driver = "overlay2"
root = "$WORK/disk/store"
socket = "$WORK/snapshotter.sock"
[guard]
interval_s = 1
[guard.bytes]
min_space = 0
TOML
"$SHALED" --config "$WORK/shaled.toml" >"$WORK/shaled.log" 2>&1 & shaled=$!
release() { kill -9 "$shaled" 2>/dev/null || true; }
ask() { curl -sf --max-time 60 --unix-socket "$WORK/monitor.sock" "http://shaled$1"; }
for ((n = 0; n < 300; n++)); do ask /healthz >/dev/null 2>&1 && break; sleep 0.1; done

mkdir "$WORK/disk/many"
python3 - "$WORK/disk/many" <<'PYTHON'
import os, sys
stat = os.statvfs(sys.argv[1])
for i in range(stat.f_favail - stat.f_files * 7 // 100): open(f"{sys.argv[1]}/{i}", "w").close()
PYTHON
entered() { # the inodes' first mark, with some history
  ask /dashboard.json >"$WORK/dashboard.json" && python3 - "$WORK/dashboard.json" <<'PYTHON'
import json, sys
row = next(row for row in json.load(open(sys.argv[1]))["served"][0]["resources"] if row["kind"] == "inodes")
sys.exit(not (row["marks"][0]["entered"] and len(row["history"]) >= 3))
PYTHON
}
for ((n = 0; n < 300; n++)); do entered 2>/dev/null && break; sleep 0.1; done
entered || fail "the mark is not entered: $(cat "$WORK/dashboard.json" "$WORK/shaled.log")"
python3 - "$WORK/dashboard.json" <<'PYTHON' || fail "the document: $(cat "$WORK/dashboard.json")"
import json, sys
document = json.load(open(sys.argv[1]))
served = document["served"][0]
assert served["layers"] and served["driver"] == "overlay2"
assert any(event["type"] == "entered" and event["kind"] == "inodes" for event in served["events"])
assert any(finding["check"] == "inodes-low" for finding in document["findings"]), document["findings"]
PYTHON
ask / >"$WORK/page.html"
! grep -iE '<script|https?://|javascript:' "$WORK/page.html" || fail "the page has a script, or something from elsewhere"

# The page itself has no script; this one, of the test, measures what the browser made of it.
python3 - "$WORK" <<'PYTHON'
import pathlib, sys
work = pathlib.Path(sys.argv[1])
page = (work / "page.html").read_text()
measure = """<script>
const all = query => [...document.querySelectorAll(query)];
const inside = (inner, outer) => { const a = inner.getBoundingClientRect(), b = outer.getBoundingClientRect();
  return a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1; };
const map = document.querySelector('svg[aria-label="layers by their bytes"]');
document.body.setAttribute("data-measured", JSON.stringify({
  fits: document.documentElement.scrollWidth <= window.innerWidth,
  width: window.innerWidth,
  resources: all("#resources tr").length - 1,
  bars: all("#resources .bar .use").filter(bar => bar.getBoundingClientRect().height > 5).length,
  marks: all("#resources .bar line.entered").length,
  lines: all("#resources .line polyline").length,
  map: map && map.getBoundingClientRect().height > 50,
  rectangles: map ? [...map.querySelectorAll("rect")].filter(one => inside(one, map)).length : 0,
  outside: map ? [...map.querySelectorAll("rect, text")].filter(one => !inside(one, map)).length : -1,
  findings: all(".finding").length,
  events: all("#events tr").length - 1,
}));
</script></body>"""
assert "</body>" in page
(work / "measured.html").write_text(page.replace("</body>", measure).replace('<meta http-equiv="refresh" content="15">', ""))
PYTHON
for size in 1280,1000 420,900; do
  HOME=$WORK timeout 120 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir="$WORK/browser" \
    --enable-logging=stderr --window-size="$size" --dump-dom "file://$WORK/measured.html" >"$WORK/dom.html" 2>"$WORK/browser.log" ||
    fail "the browser ended with $?: $(tail -n 5 "$WORK/browser.log")"
  ! grep -F "CONSOLE" "$WORK/browser.log" || fail "the browser complains"
  python3 - "$WORK/dom.html" "$WORK/dashboard.json" <<'PYTHON' || fail "not laid out as it should be at $size"
import html, json, re, sys
measured = json.loads(html.unescape(re.search(r'data-measured="([^"]*)"', open(sys.argv[1]).read()).group(1)))
print(measured)
rows = json.load(open(sys.argv[2]))["served"][0]["resources"]
assert measured["fits"], "wider than the window"
assert measured["resources"] == len(rows) == measured["bars"] == measured["lines"]
assert measured["marks"] >= 1
assert measured["map"] and measured["rectangles"] >= 2 and measured["outside"] == 0
assert measured["findings"] >= 1 and measured["events"] >= 1
PYTHON
done
kill "$shaled"; wait "$shaled" || fail "shaled did not end well: $(cat "$WORK/shaled.log")"
