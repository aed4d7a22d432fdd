#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures shale beside its floors and its peers, in turns on the same file system; prints tables, writes JSON.

usage: run.py [--dir DIR] [--images DIR] [--runs N] [--only import,drivers,containers,migrate,floors,lifecycle,depth,commit,rpc,guest]
              [--cases A-gz,...] [--rows erofs,overlayfs] [--peers containerd,podman,umoci | --peers none] [--shale PROGRAM] [--out FILE]
              [--strict]

Every figure is the median of N runs; the order within a round is the same for all, so that load from elsewhere meets all of them.
Peak memory is the largest resident set of the process tree's members (containerd: of the daemon).
What must be kept stands in musts.py; each item judges its own, and a summary ends the run. Exit status 1 with --strict when one was
missed; what was not measured does not count.
"""
import argparse
import contextlib
import json
import os
import pathlib
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile

from guest import Guest
from musts import Musts, print_summary
from rpc import Rpc
from tools import daemon, daemon_cpu, fresh, memory_mb, own_mounts, print_steps, remove, run, warm

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parent


class Bench:
    def __init__(self, options):
        self.options = options
        self.dir = pathlib.Path(options.dir)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.images = pathlib.Path(options.images or self.dir / "images")
        self.work = self.dir / "work"
        self.musts = Musts()
        self.result = {"host": {"kernel": platform.release(), "cpus": os.cpu_count(),
                                "file_system": subprocess.run(["stat", "-f", "-c", "%T", self.dir], capture_output=True,
                                                              text=True, check=True).stdout.strip()},
                       "runs": options.runs}

    # ------------------------------------------------------------------------------------------------ engines: import
    def shale(self, *arguments, **keywords):
        return run([self.options.shale, "--root", str(self.work / "store"), *arguments], **keywords)

    def import_shale(self, image):
        fresh(self.work / "store")
        return self.shale("image", "import", str(image), "--name", "bench:import")[0]

    def import_shale_relaxed(self, image):
        fresh(self.work / "store")
        return self.shale("--durability", "none", "image", "import", str(image), "--name", "bench:import")[0]

    def import_podman(self, image):
        root = fresh(self.work / "podman")
        return run(["podman", "--root", root + "/root", "--runroot", root + "/run", "--storage-driver", "overlay",
                    "pull", "-q", f"oci-archive:{image}"])[0]

    @contextlib.contextmanager
    def containerd(self, root, plugins=""):
        """A containerd of its own below `root`: its process and its socket. `plugins`: more of its configuration."""
        socket = root + "/containerd.sock"
        config = pathlib.Path(root, "config.toml")
        config.write_text(f'version = 2\nroot = "{root}/root"\nstate = "{root}/state"\n'
                          'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
                          f'[grpc]\n  address = "{socket}"\n{plugins}')
        answers = ["ctr", "-a", socket, "version"]
        with daemon(["containerd", "-c", str(config)],
                    lambda: subprocess.run(answers, capture_output=True, check=False).returncode == 0, root + "/log") as process:
            yield process, socket

    def import_containerd(self, image, snapshotter="overlayfs", kind="ext4"):
        with self.containerd(fresh(self.work / "containerd", kind)) as (process, socket):
            before = daemon_cpu(process.pid)
            figures, _ = run(["ctr", "-a", socket, "images", "import", "--snapshotter", snapshotter, str(image)])
            figures["cpu_s"] += daemon_cpu(process.pid) - before
            figures["peak_mb"] = memory_mb(process.pid, "VmHWM")
            return figures

    def layout(self, image):
        """The archive as an OCI layout directory, once: umoci reads nothing else."""
        layout = self.work / ("layout-" + image.stem)
        if not layout.exists():
            layout.mkdir(parents=True)
            with tarfile.open(image) as tar:
                tar.extractall(layout)
        index = json.loads((layout / "index.json").read_text())
        return f"{layout}:{index['manifests'][0]['annotations']['org.opencontainers.image.ref.name']}"

    def import_umoci(self, image):
        source = self.layout(image)
        return run(["umoci", "unpack", "--image", source, fresh(self.work / "umoci") + "/bundle"])[0]

    def engines(self):
        peers = [] if self.options.peers == "none" else self.options.peers.split(",")
        program = {"containerd": "containerd", "podman": "podman", "umoci": "umoci"}
        found = {"shale": self.import_shale, "shale, not durable": self.import_shale_relaxed}
        for peer in peers:
            if shutil.which(program[peer]):
                found[peer] = getattr(self, "import_" + peer)
            else:
                print(f"run.py: {peer} is not installed: left out", file=sys.stderr)
        return found

    def imports(self):
        self.result["import"] = {}
        for case in self.options.cases.split(","):
            image = self.images / f"{case}.tar"
            if not image.exists():
                print(f"run.py: {image} is missing: run bench/images.sh", file=sys.stderr)
                continue
            warm(image)
            engines, samples = self.engines(), {}
            for _ in range(self.options.runs):
                for name, measure in list(engines.items()):
                    try:
                        samples.setdefault(name, []).append(measure(image))
                    except RuntimeError as error:
                        print(f"run.py: {name} on {case}: {error}", file=sys.stderr)
                        del engines[name]
                for scratch in ("store", "podman", "containerd", "umoci"):
                    remove(self.work / scratch)
            rows = {name: {key: statistics.median(s[key] for s in all_) for key in all_[0]} | {"samples": all_}
                    for name, all_ in samples.items()}
            self.result["import"][case] = rows
            base = rows.get("shale", {}).get("wall_s")
            print(f"\nimport {case}: {image.stat().st_size / 1e6:.0f} MB\n  {'':20} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'x shale':>8}")
            for name, row in rows.items():
                ratio = f"{row['wall_s'] / base:8.1f}" if base else ""
                print(f"  {name:20} {row['wall_s']:8.2f} {row['cpu_s']:8.2f} {row['peak_mb']:8.0f} {ratio}")
            self.musts.judge_and_print("import", {case: rows})
            sys.stdout.flush()

    # -------------------------------------------------------------------------------------------------------- drivers
    def import_driver(self, image, driver, kind="ext4"):
        """An import with this driver on a new file system of its own, and what it takes there."""
        root = fresh(self.work / "store", kind)
        self.shale("--driver", driver, "gc")  # an empty store: what counts is what the image adds
        before = os.statvfs(root)
        figures = self.shale("--driver", driver, "image", "import", str(image), "--name", "bench:import")[0]
        os.sync()
        after = os.statvfs(root)
        figures["used_mb"] = (before.f_bfree - after.f_bfree) * after.f_frsize / 1e6
        figures["inodes"] = before.f_ffree - after.f_ffree  # btrfs counts none
        return figures

    def untar(self, image):
        """Bare `tar -x` of the image's layers over one another, nothing synced."""
        layers = sorted((self.images / "layers" / image.stem[0]).glob("*.tar"))
        return run(["sh", "-c", 'd=$1; shift; for f; do tar -xf "$f" -C "$d" || exit 1; done', "-", fresh(self.work / "store"),
                    *map(str, layers)])[0]

    def drivers(self):
        """Drivers side by side on the same images, each on a new file system of the kind it is for."""
        self.result["drivers"] = {}
        known = json.loads(run([self.options.shale, "drivers", "--json"], stdout=subprocess.PIPE, check=False)[1])
        names = {row["name"] for row in known}
        for case in self.options.cases.split(","):
            image = self.images / f"{case}.tar"
            if not image.exists():
                print(f"run.py: {image} is missing: run bench/images.sh", file=sys.stderr)
                continue
            warm(image)
            rows = {}
            if "overlay2" in names:
                rows["overlay2 on ext4"] = lambda: self.import_driver(image, "overlay2")
            if "erofs" in names:
                rows["erofs on ext4"] = lambda: self.import_driver(image, "erofs")
            if "btrfs" in names:
                rows["btrfs"] = lambda: self.import_driver(image, "btrfs", "btrfs")
            rows["floor: tar -x on ext4"] = lambda: self.untar(image)
            if case.startswith("A"):
                rows["vfs on ext4"] = lambda: self.import_driver(image, "vfs")
                rows["vfs on btrfs (reflinks)"] = lambda: self.import_driver(image, "vfs", "btrfs")
            if "containerd" in self.options.peers and shutil.which("containerd"):
                rows["containerd overlayfs"] = lambda: self.import_containerd(image)
                rows["containerd btrfs"] = lambda: self.import_containerd(image, "btrfs", "btrfs")
            if self.options.rows:
                rows = {name: measure for name, measure in rows.items() if any(word in name for word in self.options.rows.split(","))}
            samples = {name: [] for name in rows}
            for _ in range(self.options.runs):
                for name, measure in rows.items():
                    samples[name].append(measure())
                    for scratch in ("store", "containerd"):
                        remove(self.work / scratch)
            medians = {name: {key: statistics.median(s[key] for s in all_) for key in all_[0]} for name, all_ in samples.items()}
            self.result["drivers"][case] = medians
            base = next(iter(medians.values()))["wall_s"]
            print(f"\ndrivers, import {case}\n  {'':26} {'wall s':>8} {'CPU s':>8} {'peak MB':>8} {'x first':>8} {'used MB':>8} {'inodes':>8}")
            for name, row in medians.items():
                space = f"{row['used_mb']:8.0f} {row['inodes']:8.0f}" if "used_mb" in row else ""
                print(f"  {name:26} {row['wall_s']:8.2f} {row['cpu_s']:8.2f} {row['peak_mb']:8.0f} {row['wall_s'] / base:8.2f} {space}")
            self.musts.judge_and_print("drivers", {case: medians})
            sys.stdout.flush()

    # ----------------------------------------------------------------------------------------------------- containers
    def containers(self):
        """What programs in a container of image A feel: the first look at every name, the first start of an interpreter.

        Each run begins with a new mount and empty caches of the kernel (root; the whole host feels that)."""
        commands = {"find / -xdev": ["find", "/", "-xdev"], "python3 -c 'import numpy'": ["python3", "-c", "import numpy"],
                    "python3 again, warm": ["python3", "-c", "import numpy"]}
        drivers, places = ("overlay2", "erofs"), {}
        rows = {name: {driver: [] for driver in drivers} for name in commands}
        try:
            for driver in drivers:
                places[driver] = fresh(self.work / f"store-{driver}")
                self.at(driver, "image", "import", str(self.images / "A-gz.tar"), "--name", "bench:a")
                self.at(driver, "container", "create", "--name", "it", "bench:a")
            for _ in range(self.options.runs):
                for name, argv in commands.items():
                    for driver in drivers:
                        tree = self.at(driver, "container", "mount", "it", stdout=subprocess.PIPE)[1].strip().splitlines()[-1]
                        os.sync()
                        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
                        if "warm" in name:
                            run(["chroot", tree, *argv])
                        rows[name][driver].append(run(["chroot", tree, *argv])[0])
                        self.at(driver, "container", "unmount", "it")
        finally:
            for place in places.values():
                remove(place)
        self.result["containers"] = rows
        print(f"\ncontainers of A: wall s\n  {'':26}" + "".join(f" {driver:>10}" for driver in drivers) + f" {'ratio':>6}")
        walls = {name: {driver: statistics.median(s["wall_s"] for s in row[driver]) for driver in drivers} for name, row in rows.items()}
        for name, wall in walls.items():
            print(f"  {name:26} {wall['overlay2']:10.3f} {wall['erofs']:10.3f} {wall['erofs'] / wall['overlay2']:6.2f}")
        self.musts.judge_and_print("containers", walls)
        sys.stdout.flush()

    def at(self, driver, *arguments, **keywords):
        """shale with the store of one of several drivers."""
        return run([self.options.shale, "--root", str(self.work / f"store-{driver}"), "--driver", driver, *arguments], **keywords)

    # -------------------------------------------------------------------------------------------------------- migrate
    def migrate(self):
        """Image A from overlay2 to btrfs on one btrfs, beside importing it by the btrfs driver on a new one; and the removal of the
        old side, when somebody says that it is not needed any more, beside `rm -rf` of the same."""
        image = self.images / "A-gz.tar"
        rows = {"import by btrfs": [], "migrate --to btrfs": [], "migrate --finish": [], "floor: rm -rf of the old side": []}
        warm(image)
        for _ in range(self.options.runs):
            rows["import by btrfs"].append(self.import_driver(image, "btrfs", "btrfs"))
            self.import_driver(image, "overlay2", "btrfs")
            rows["migrate --to btrfs"].append(self.shale("migrate", "--to", "btrfs")[0])
            os.sync()
            rows["migrate --finish"].append(self.shale("migrate", "--finish")[0])
            self.import_driver(image, "overlay2", "btrfs")
            rows["floor: rm -rf of the old side"].append(run(["rm", "-rf", str(self.work / "store" / "overlay2")])[0])
            remove(self.work / "store")
        self.result["migrate"] = rows
        walls = {name: statistics.median(s["wall_s"] for s in all_) for name, all_ in rows.items()}
        print(f"\nmigrate of A\n  {'':26} {'wall s':>8} {'x import':>8}")
        for name, wall in walls.items():
            print(f"  {name:26} {wall:8.2f} {wall / walls['import by btrfs']:8.2f}")
        self.musts.judge_and_print("migrate", walls)
        sys.stdout.flush()

    # --------------------------------------------------------------------------------------------------------- floors
    def floors(self):
        """CPU seconds of the stages that an import cannot do without, each alone, from the page cache."""
        self.result["floors"] = {}
        for letter in sorted({case[0] for case in self.options.cases.split(",")}):
            layers = sorted((self.images / "layers" / letter).glob("*.tar"))
            if not layers:
                continue
            scratch = pathlib.Path(fresh(self.work / "floors"))
            packed = scratch / "gz"
            packed.mkdir()
            for layer in layers:
                with open(packed / layer.name, "wb") as out:
                    subprocess.run(["pigz" if shutil.which("pigz") else "gzip", "-6", "-n", "-c", layer], stdout=out, check=True)
            blobs = [str(packed / layer.name) for layer in layers]
            tars = [str(layer) for layer in layers]
            stages = {"sha256 of the compressed": ["openssl", "dgst", "-sha256", *blobs],
                      "sha256 of the tar": ["openssl", "dgst", "-sha256", *tars],
                      "gzip -dc": ["gzip", "-dc", *blobs]}
            if shutil.which("igzip"):
                stages["igzip -dc"] = ["sh", "-c", 'for f; do igzip -dc <"$f" || exit 1; done', "-", *blobs]
            extract = ["sh", "-c", 'd=$1; shift; for f; do mkdir -p "$d/${f##*/}"; tar -xf "$f" -C "$d/${f##*/}" || exit 1; done',
                       "-", str(scratch / "tree"), *tars]
            rows = {name: [] for name in [*stages, "tar -x"]}
            for _ in range(self.options.runs):
                for name, argv in stages.items():
                    rows[name].append(run(argv)[0]["cpu_s"])
                fresh(scratch / "tree")
                rows["tar -x"].append(run(extract)[0]["cpu_s"])
            remove(scratch)
            medians = {name: statistics.median(all_) for name, all_ in rows.items()}
            needed = ["igzip -dc" if "igzip -dc" in medians else "gzip -dc", "sha256 of the compressed", "sha256 of the tar", "tar -x"]
            total = sum(medians[name] for name in needed)
            medians["sum"] = total
            medians["sum / processors"] = total / (os.cpu_count() or 1)
            self.result["floors"][letter] = medians
            print(f"\nfloors {letter} gz: CPU s of the stages")
            for name, seconds in medians.items():
                print(f"  {name:28} {seconds:8.2f}")
            sys.stdout.flush()

    # ------------------------------------------------------------------------------------------------------ lifecycle
    def lifecycle(self, key, image, count):
        program = pathlib.Path(self.options.shale).parent / "bench" / "lifecycle"
        if not program.exists():
            print(f"run.py: {program} is missing: run ./dev build bench", file=sys.stderr)
            return
        samples = []
        for _ in range(self.options.runs):
            scratch = fresh(self.work / "lifecycle")
            samples.append(json.loads(run([str(program), scratch, str(image), str(count)], stdout=subprocess.PIPE)[1]))
            remove(scratch)
        self.result[key] = samples
        print(f"\n{key}: {samples[0]['layers']} lower layers, {count} containers, {samples[0]['driver']}; us, median (99 %)")
        print_steps(samples, ("create", "mount", "unmount", "remove", "sum"))
        sys.stdout.flush()

    def tiny_image(self, letter, count):
        """An image of `count` tiny layers, made when it is not there."""
        image = self.images / f"{letter}-gz.tar"
        if not image.exists():
            layers = self.images / "layers" / letter
            subprocess.run([HERE / "mkimage.py", "tiny", str(count), layers], check=True)
            subprocess.run([HERE / "mkimage.py", "oci", f"bench-{letter.lower()}:gz", image, "gzip", *sorted(layers.glob("*.tar"))], check=True)
        return image

    # ---------------------------------------------------------------------------------------------------------- facts
    def facts(self):
        """The inodes and bytes of a store of 1,000,000 files, beside `find` over it: which looks at no inode, and beside that does."""
        root = fresh(self.work / "facts")
        tree = pathlib.Path(root, "docker/overlay2", "c" * 64, "diff")
        for records in ("layerdb/sha256", "layerdb/mounts", "imagedb/content/sha256"):
            os.makedirs(f"{root}/docker/image/overlay2/{records}")
        for number in range(1000):
            directory = tree / str(number // 10) / str(number % 10)
            directory.mkdir(parents=True)
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            for name in range(1000):
                os.close(os.open(str(name), os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
            os.close(descriptor)
        rows = {"shale facts": [self.options.shale, "facts", "--store", f"docker={root}/docker"],
                "find": ["sh", "-c", 'find "$1" | wc -l', "-", root],
                "find -printf %b": ["sh", "-c", 'find "$1" -printf "%b\\n" | wc -l', "-", root]}
        samples = {name: [] for name in rows}
        for _ in range(self.options.runs + 1):  # the first one warms the caches
            for name, argv in rows.items():
                samples[name].append(run(argv, stdout=subprocess.DEVNULL)[0])
        remove(self.work / "facts")
        self.result["facts"] = samples
        medians = {name: {key: statistics.median(s[key] for s in all_[1:]) for key in ("wall_s", "cpu_s", "peak_mb")} for name, all_ in samples.items()}
        print(f"\nfacts of a store of 1,000,000 files\n  {'':26} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}")
        for name, row in medians.items():
            print(f"  {name:26} {row['wall_s']:8.2f} {row['cpu_s']:8.2f} {row['peak_mb']:8.0f}")
        self.musts.judge_and_print("facts", medians)
        sys.stdout.flush()

    # --------------------------------------------------------------------------------------------------------- commit
    def commit(self):
        """Diff and commit of 1,000 changed files over a large image, beside tar of the same upper directory."""
        fresh(self.work / "store")
        self.shale("image", "import", str(self.images / "A-gz.tar"), "--name", "bench:a")
        self.shale("container", "create", "--name", "changed", "bench:a")
        tree = self.shale("container", "mount", "changed", stdout=subprocess.PIPE)[1].strip().splitlines()[-1]
        changed = total = 0
        for folder, _, files in os.walk(os.path.join(tree, "usr")):
            for name in files:
                path = os.path.join(folder, name)
                if not os.path.islink(path) and os.path.isfile(path):
                    total += 1
                    if total % 30 == 0 and changed < 1000 and os.path.getsize(path) < 1 << 20:
                        with open(path, "ab") as data:
                            data.write(b"changed\n")
                        changed += 1
        upper = None
        with open("/proc/self/mountinfo") as table:
            for line in table:
                if f" {tree} " in line and "upperdir=" in line:
                    upper = line.split("upperdir=")[1].split(",")[0]
        self.shale("container", "unmount", "changed")
        rows = {"container diff": [], "container commit": []}
        if upper:
            rows |= {"floor: tar -c upper": [], "floor: tar -c | gzip": []}
        for n in range(self.options.runs):
            rows["container diff"].append(self.shale("container", "diff", "changed")[0])
            rows["container commit"].append(self.shale("container", "commit", "changed", f"bench:c{n}")[0])
            if upper:
                rows["floor: tar -c upper"].append(run(["sh", "-c", 'tar -cf - -C "$1" . | cat', "-", upper])[0])
                rows["floor: tar -c | gzip"].append(run(["sh", "-c", 'tar -cf - -C "$1" . | gzip -6', "-", upper])[0])
        self.result["commit"] = {"changed_files": changed, "files": total} | \
            {name: {key: statistics.median(s[key] for s in all_) for key in all_[0]} for name, all_ in rows.items()}
        print(f"\ncommit: {changed} files changed of {total}\n  {'':22} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}")
        for name, all_ in rows.items():
            row = self.result["commit"][name]
            print(f"  {name:22} {row['wall_s']:8.3f} {row['cpu_s']:8.3f} {row['peak_mb']:8.0f}")
        remove(self.work / "store")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default="/var/tmp/shale-bench")
    parser.add_argument("--images")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default="import,drivers,containers,migrate,floors,lifecycle,depth,commit,facts,rpc,guest")
    parser.add_argument("--cases", default="A-gz,A-zst,B-gz,C-gz")
    parser.add_argument("--rows", help="of `drivers`: only the rows with one of these words in their names")
    parser.add_argument("--peers", default="containerd,podman,umoci")
    parser.add_argument("--shale", default=str(next((p for p in (REPO / "build/bench/shale", REPO / "build/release/shale") if p.exists()),
                                                    REPO / "build/bench/shale")))
    parser.add_argument("--out", default=str(REPO / "bench/out/result.json"))
    parser.add_argument("--strict", action="store_true", help="exit status 1 when a must was missed")
    options = parser.parse_args()
    own_mounts()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by way of every finally
    bench = Bench(options)
    bench.work.mkdir(parents=True, exist_ok=True)
    wanted = options.only.split(",")
    try:
        for item in wanted:
            match item:
                case "import":
                    bench.imports()
                case "floors":
                    bench.floors()
                case "lifecycle":
                    bench.lifecycle("lifecycle", bench.images / "A-gz.tar", 300)
                case "depth":
                    bench.lifecycle("depth", bench.tiny_image("D", 499), 50)
                case "facts":
                    bench.facts()
                case "commit":
                    bench.commit()
                case "rpc":
                    Rpc(bench).measure()
                case "guest":
                    Guest(bench).measure()
                case "drivers":
                    bench.drivers()
                case "containers":
                    bench.containers()
                case "migrate":
                    bench.migrate()
                case _:
                    parser.error(f"--only: there is no '{item}'")
    finally:
        remove(bench.work)
        verdicts = bench.result["musts"] = bench.musts.all_of(wanted)
        os.makedirs(os.path.dirname(options.out), exist_ok=True)
        pathlib.Path(options.out).write_text(json.dumps(bench.result, indent=1) + "\n")
    print_summary(verdicts)
    print(f"\nwritten: {options.out}")
    if options.strict and any(verdict["kept"] is False for verdict in verdicts):
        sys.exit(1)


if __name__ == "__main__":
    main()
