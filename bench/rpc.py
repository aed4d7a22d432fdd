# SPDX-License-Identifier: Apache-2.0
"""run.py's item `rpc`: shaled beside containerd's own overlayfs snapshotter, both behind the same hop.

The peer is that snapshotter served over a unix socket by a program of ours (peers/overlayfs-snapshotter), as containerd serves
its snapshotters to others. Both have a store of 100 and one of 10,000 snapshots on one new file system, and are called by one
client (rpc.cc), in turns. Then a containerd imports image A: into its overlayfs, into shaled, and into a shaled that has the
image's layers already (peers/pull-layout).

What a call waits for: the peer has one bolt transaction on the disk (fdatasync) after each Prepare, Commit and Remove, and never
syncs a layer's files. shaled answers when the change is in its records' log, which the next synced transaction puts on the
disk; after a Commit its background syncs the layer's files, then writes with a synced transaction that they are safe. After a
power cut shaled has no layer whose files are not all there; the peer may have.

List is timed twice: until all of its messages are here, and with the client's decoding of them. The second is what a client
waits for; decoding costs the same on either side. musts.py holds both to a third of the peer.

A restart: shaled with 10,000 snapshots is killed with -9 and started again at once; the time is from the start of the new
process to the first answer of Stat, whose client has been there before it. A store that was killed under load is what the kill
storm of the tests is about (tests/rpc/storm_test.cc).
"""
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

from musts import said
from tools import daemon, daemon_cpu, fresh, memory_mb, remove, run, warm

HERE = pathlib.Path(__file__).resolve().parent
GO_LIBRARY = "/usr/share/gocode"
FEW, MANY = 100, 10_000
COMMIT_TURNS = 3  # of each, in every round: the tenth longest of a thousand calls varies by a fifth from turn to turn
PARENT = "9"  # the top of the first chain of ten that `rpc fill` makes
SIDES = ("shale", "peer")
RESTART = f"restart after kill -9 to the first answer, {MANY} snapshots, ms"


class Rpc:
    def __init__(self, bench):
        self.bench = bench
        self.programs = pathlib.Path(bench.options.shale).parent
        self.samples = {}
        self.table = []

    def add(self, what, side, value):
        self.samples.setdefault(what, {}).setdefault(side, []).append(value)

    def measure(self):
        if not (self.programs / "bench" / "rpc").exists():
            print(f"run.py: {self.programs}/bench/rpc is missing: run ./dev build bench", file=sys.stderr)
            return
        peer = self.peer_program("overlayfs-snapshotter") if self.bench.options.peers != "none" else None
        self.calls(peer)
        if self.bench.options.peers != "none" and shutil.which("containerd"):
            self.imports()
        self.bench.result["rpc"] = {"table": self.table, "samples": self.samples}
        self.print()

    # -------------------------------------------------------------------------------------------------------- the sides
    def peer_program(self, name):
        """A Go program of peers/, compiled against Debian's packages of containerd; None where these are missing."""
        library = pathlib.Path(GO_LIBRARY, "src/github.com/containerd/containerd")
        if not shutil.which("go") or not library.exists():
            print("run.py: golang-go or golang-github-containerd-containerd-dev is not installed: the peer is left out", file=sys.stderr)
            return None
        out = self.programs / "bench" / name
        run(["go", "build", "-o", str(out), str(HERE / "peers" / name / "main.go")],
            env=os.environ | {"GO111MODULE": "off", "GOPATH": GO_LIBRARY, "GOFLAGS": "-p=2"})
        return out

    def server(self, side, root, peer=None):
        """A daemon of `side` with its store at `root`, and its socket."""
        socket = root + ".sock"
        argv = {"shale": [str(self.programs / "shaled"), "--root", root, "--driver", "overlay2", "--listen", socket,
                          "--log-level", "warning"],
                "peer": [str(peer), root, socket]}[side]
        return daemon(argv, lambda: os.path.exists(socket), root + ".log"), socket

    def client(self, socket, *arguments):
        return json.loads(run([str(self.programs / "bench" / "rpc"), socket, *map(str, arguments)], stdout=subprocess.PIPE)[1])

    @staticmethod
    def settle(pids):
        """Until what is done in the background is done, and everything is on the disk."""
        os.sync()
        end, before = time.monotonic() + 120, None
        while time.monotonic() < end:
            now = [daemon_cpu(pid) for pid in pids]
            if now == before:
                break
            before = now
            time.sleep(1)
        os.sync()

    # ------------------------------------------------------------------------------------------------------------ calls
    def calls(self, peer):
        sides = SIDES if peer else ("shale",)
        place = fresh(self.bench.work / "rpc")
        with contextlib.ExitStack() as all_:
            sockets, pids, daemons = {}, {}, {}
            for side in sides:
                for count in (FEW, MANY):
                    served, socket = self.server(side, f"{place}/{side}-{count}", peer)
                    daemons[side, count] = all_.enter_context(served)
                    pids[side, count] = daemons[side, count].pid
                    sockets[side, count] = socket
            time.sleep(1)
            for side in sides:
                self.add("resident MB, idle", side, memory_mb(pids[side, FEW], "VmRSS"))
            for (side, count), socket in sockets.items():
                filled = self.client(socket, "fill", count)
                if count == MANY:
                    self.add(f"fill {MANY} (8 clients), s", side, filled["seconds"])
            self.settle(pids.values())
            for _ in range(self.bench.options.runs):
                self.round(sides, sockets)
            self.settle(pids.values())
            for side in sides:
                self.add(f"resident MB, {MANY} snapshots", side, memory_mb(pids[side, MANY], "VmRSS"))
                self.add(f"most resident MB, {MANY} snapshots", side, memory_mb(pids[side, MANY], "VmHWM"))
            process = daemons["shale", MANY]
            for _ in range(self.bench.options.runs):
                process = self.restart(process, f"{place}/shale-{MANY}", all_)
        remove(self.bench.work / "rpc")

        self.row("Prepare+Mounts+Remove, 1 client, p50 us")
        self.row("Prepare+Mounts+Remove, 1 client, p99 us")
        self.row("Prepare+Mounts+Remove, 50 clients, /s")
        self.commit_rows()
        self.row(f"List of {MANY}, ms")
        self.row(f"List of {MANY}, decoded by the client, ms")
        self.row(RESTART)
        self.row("resident MB, idle")
        self.row(f"resident MB, {MANY} snapshots")

    def round(self, sides, sockets):
        for side in sides:
            one = self.client(sockets[side, FEW], "life", PARENT, 1, 1000)
            self.add("Prepare+Mounts+Remove, 1 client, p50 us", side, one["cycle"]["median_us"])
            self.add("Prepare+Mounts+Remove, 1 client, p99 us", side, one["cycle"]["p99_us"])
            for call in ("prepare", "mounts", "remove"):
                self.add(f"{call}, 1 client, p50 us", side, one[call]["median_us"])
        for side in sides:
            fifty = self.client(sockets[side, FEW], "life", PARENT, 50, 2000)
            self.add("Prepare+Mounts+Remove, 50 clients, /s", side, fifty["cycles_per_s"])
            self.add("Prepare+Mounts+Remove, 50 clients, p99 us", side, fifty["cycle"]["p99_us"])
        for _ in range(COMMIT_TURNS):
            for side in sides:
                for count in (FEW, MANY):
                    commit = self.client(sockets[side, count], "commit", PARENT, 1000)["commit"]
                    self.add(f"Commit, {count} present, p99 us", side, commit["p99_us"])
                    self.add(f"Commit, {count} present, p50 us", side, commit["median_us"])
        for side in sides:
            listed = self.client(sockets[side, MANY], "list", 10)
            if listed["found"] != MANY:
                raise RuntimeError(f"{side} lists {listed['found']} snapshots instead of {MANY}")
            self.add(f"List of {MANY}, ms", side, listed["list"]["median_us"] / 1000)
            self.add(f"List of {MANY}, decoded by the client, ms", side, listed["decoded"]["median_us"] / 1000)

    def restart(self, process, root, all_):
        """Kills shaled, starts it again and adds how long that took; the new process, which ends with `all_`."""
        process.kill()
        process.wait()
        client = [str(self.programs / "bench" / "rpc"), root + ".sock", "first", str(MANY - 1)]
        with subprocess.Popen(client, stdout=subprocess.PIPE) as waiting:
            begin = time.monotonic()
            process = all_.enter_context(self.server("shale", root)[0])
            text = waiting.communicate()[0]
        if waiting.returncode != 0:
            raise RuntimeError(f"{' '.join(client)}: exit {waiting.returncode}")
        self.add(RESTART, "shale", (json.loads(text)["answered_at_s"] - begin) * 1000)
        return process

    # ---------------------------------------------------------------------------------------------------------- imports
    def imports(self):
        image = self.bench.images / "A-gz.tar"
        puller = self.peer_program("pull-layout")
        if not image.exists():
            print(f"run.py: {image} is missing: run bench/images.sh", file=sys.stderr)
            return
        warm(image)
        for _ in range(self.bench.options.runs):
            self.add("import", "peer", self.bench.import_containerd(image)["wall_s"])
            self.add("import", "shale", self.import_shaled(image, None))
            if puller:
                self.add("pull", "shale", self.import_shaled(image, puller))
            remove(self.bench.work / "containerd")
        self.row("import", "ctr images import, image A, s")
        if puller:
            self.samples["pull"]["peer"] = self.samples["import"]["peer"]
            self.row("pull", "the same, unpacked by shale image import before, s")

    def import_shaled(self, image, puller):
        """Seconds of an import through a containerd that has shaled for its snapshotter, on a new file system."""
        root = fresh(self.bench.work / "containerd")
        store = root + "/store"
        if puller:
            run([self.bench.options.shale, "--root", store, "--driver", "overlay2", "image", "import", str(image), "--name", "bench:import"])
            layout = self.bench.layout(image).rsplit(":", 2)[0]
        served, socket = self.server("shale", store)
        plugin = f'[proxy_plugins.shale]\n  type = "snapshot"\n  address = "{socket}"\n'
        with served, self.bench.containerd(root, plugin) as (_, containerd):
            if not puller:
                return run(["ctr", "-a", containerd, "images", "import", "--snapshotter", "shale", str(image)])[0]["wall_s"]
            figures, text = run([str(puller), containerd, "shale", layout, "local/bench:import"], stdout=subprocess.PIPE)
            pulled = json.loads(text)
            if pulled["fetched"]:
                raise RuntimeError(f"{pulled['fetched']} of {pulled['layers']} layers were fetched, though shaled has them all")
            return figures["wall_s"]

    # ------------------------------------------------------------------------------------------------------------ table
    def medians(self, what):
        return {side: statistics.median(all_) for side, all_ in self.samples.get(what, {}).items()}

    def row(self, what, name=None):
        """One row of the table, with its must when there is one."""
        median = self.medians(what)
        ratio = median["shale"] / median["peer"] if "peer" in median else None
        self.table.append({"row": name or what, **median, "ratio": ratio} | self.judge(name or what, median))

    def judge(self, row, figures):
        verdicts = self.bench.musts.judge("rpc", {row: figures})
        return {"must": verdicts[0]["must"], "kept": verdicts[0]["kept"]} if verdicts else {}

    def commit_rows(self):
        """With many snapshots present against few, side by side in every round: shale's alone has a must."""
        for which in ("p99", "p50"):
            few, many = (self.samples[f"Commit, {count} present, {which} us"] for count in (FEW, MANY))
            for side in few:
                row = f"Commit {which} us, {side}'s, {FEW} and {MANY} present"
                figures = {"few": statistics.median(few[side]), "many": statistics.median(many[side])}
                self.table.append({"row": row, **figures, "ratio": figures["many"] / figures["few"]} | self.judge(row, figures))

    def print(self):
        print(f"\nrpc: shaled beside containerd's overlayfs snapshotter behind the same hop; medians of {self.bench.options.runs} rounds\n"
              f"  {'':62} {'shale':>9} {'peer':>9} {'ratio':>7} {'must':>10}")
        for row in self.table:
            cells = [row.get("shale", row.get("few")), row.get("peer", row.get("many"))]
            text = " ".join(f"{cell:9.4g}" if cell is not None and cell < 1000 else f"{cell:9.0f}" if cell is not None else f"{'':9}"
                            for cell in cells)
            ratio = f"{row['ratio']:7.3f}" if row["ratio"] is not None else f"{'':7}"
            kept = said(row["kept"]) if "kept" in row else ""
            print(f"  {row['row']:62} {text} {ratio} {row.get('must', ''):>10} {kept}".rstrip())
        sys.stdout.flush()
