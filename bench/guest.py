# SPDX-License-Identifier: Apache-2.0
"""run.py's item `guest`: create and remove of 100 containers by devicemapper and by zfs, beside the bare ioctls and commands.

The measuring is lifecycle.cc's, on an image of ten tiny layers. A driver whose kernel parts are here (and root) is measured here, on
a new file system; else in a virtual machine on Debian's kernel (tests/guest), a new one with a new disk for each run. Without a kernel
prepared for it the driver is left out, loudly.

The musts are about containers that nobody mounts, and about such that were mounted once; a removal includes its share of the reaping,
and where blocks were written, of giving them back below the pool. Both sides run on the same processor in
turns, so the ratio holds in the guest too; but an emulated processor needs 40 to 110 ms to start a program, which zfs's floor, the
commands, pays each time.
"""
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

from tools import fresh, print_steps, remove, run

GUEST = pathlib.Path(__file__).resolve().parent.parent / "tests" / "guest"
SCRATCH = "/run/scratch"  # the guest's own disk: ext4, 8 GiB
COUNT, LAYERS = 100, 10
LIMIT_S = 3600
# devicemapper's sizes are those of the floor's pool.
OPTIONS = {"devicemapper": ["data_size=4G", "base_size=1G"], "zfs": []}
FLOORS = {"devicemapper": "the bare ioctls", "zfs": "the zfs commands"}
# The arguments: the pool, its file, the command.
WITH_POOL = ('truncate -s 3G "$2" && zpool create -o cachefile=none -O mountpoint=legacy "$1" "$2" || exit 1\n'
             'shift 2; exec "$@"')


class Guest:
    def __init__(self, bench):
        self.bench = bench
        self.program = pathlib.Path(bench.options.shale).absolute().parent / "bench" / "lifecycle"

    def measure(self):
        if not self.program.exists():
            print(f"run.py: {self.program} is missing: run ./dev build bench", file=sys.stderr)
            return
        results = self.bench.result["guest"] = {}
        image, why_not_here = self.bench.tiny_image("T", LAYERS), self.why_not_here()
        for driver in OPTIONS:
            here = not why_not_here[driver]
            if not here and (why := why_no_guest(driver)):
                results[driver] = {"not_measured": f"{why_not_here[driver]}; {why}"}
                print(f"\n!! NOT MEASURED: {driver}: {why_not_here[driver]}; {why}", file=sys.stderr)
                continue
            try:
                samples = [self.here(driver, image) if here else self.in_guest(driver, image) for _ in range(self.bench.options.runs)]
            except RuntimeError as error:
                results[driver] = {"not_measured": str(error)}
                print(f"\n!! NOT MEASURED: {driver}: {error}", file=sys.stderr)
                continue
            results[driver] = {"where": "here" if here else "guest", "samples": samples}
            self.show(driver, results[driver])

    def show(self, driver, result):
        samples = result["samples"]
        unmounted = [sample["unmounted"] for sample in samples]
        where = "on this kernel" if result["where"] == "here" else "in a guest"
        print(f"\n{driver}, {where}: {samples[0]['layers']} layers, {COUNT} containers, beside {FLOORS[driver]}; us, median (99 %)")
        print_steps(unmounted, ("create", "remove", "reap", "mean"))
        print("  the same with mounts")
        print_steps(samples, ("create", "mount", "unmount", "remove", "reap", "mean"))
        means = {how: {side: statistics.median(sample[side]["sum_of_means_us"] for sample in all_) for side in ("floor", "shale")}
                 for how, all_ in (("unmounted", unmounted), ("mounted", samples))}
        self.bench.musts.judge_and_print("guest", {driver: means})
        sys.stdout.flush()

    # ------------------------------------------------------------------------------------------------------------ where
    def why_not_here(self):
        """By driver: why this kernel, or this user, cannot run it; empty: nothing against it."""
        text = run([self.bench.options.shale, "--root", str(self.bench.work / "store"), "drivers", "--json"], stdout=subprocess.PIPE)[1]
        reasons = {row["name"]: row["reason"] for row in json.loads(text)}
        # As in the tests: "this kernel" is what a reason says that another kernel would mend. Without a pool zfs has others.
        lacking = {driver: reasons[driver] if "this kernel" in reasons[driver] else "" for driver in OPTIONS}
        return lacking if os.geteuid() == 0 else {driver: why or "needs root" for driver, why in lacking.items()}

    def here(self, driver, image):
        scratch = fresh(self.bench.work / "lifecycle")
        pool = f"shale-bench-{os.getpid()}"
        try:
            return measured(self.command(driver, image, scratch, pool))
        finally:
            if driver == "zfs" and shutil.which("zpool"):
                subprocess.run(["zpool", "destroy", "-f", pool], stderr=subprocess.DEVNULL, check=False)
            remove(scratch)

    def in_guest(self, driver, image):
        options = ["-t", str(LIMIT_S)] + (["-z"] if driver == "zfs" else [])
        for place in (str(self.program.resolve().parent), str(image.resolve().parent)):
            if place.startswith(("/tmp/", "/run/", "/dev/shm/")):  # the guest has its own
                options += ["-k", place]
        return measured([str(GUEST / "run.sh"), *options, *self.command(driver, image, SCRATCH, "shale-bench")])

    def command(self, driver, image, scratch, pool):
        argv = [str(self.program), scratch, str(image.resolve()), str(COUNT), driver, *OPTIONS[driver]]
        return argv if driver != "zfs" else ["sh", "-c", WITH_POOL, "-", pool, scratch + "/pool", *argv, f"dataset={pool}"]


def why_no_guest(driver):
    """Why there is no guest for this driver; empty: there is one."""
    if not shutil.which("qemu-system-x86_64"):
        return "no guest either: qemu-system-x86_64 is not installed (./dev deps guest)"
    script = '. "$1" && kernel=$(cached_kernel) && [[ -n $kernel ]] && echo kernel && [[ -d $guest_cache/zfs/$kernel ]] && echo zfs'
    prepared = subprocess.run(["bash", "-c", script, "-", str(GUEST / "common.sh")], capture_output=True, text=True, check=False).stdout.split()
    if "kernel" not in prepared:
        return "no guest either: no kernel is prepared for it; run tests/guest/prepare.sh"
    if driver == "zfs" and "zfs" not in prepared:
        return "no guest either: ZFS is not built for its kernel; run tests/guest/prepare_zfs.sh (20 minutes of processor time, once)"
    return ""


def measured(argv):
    """What `lifecycle` prints: the line of JSON among what a guest or a tool may say besides."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace") as process:
        try:
            text = process.communicate()[0]
        except BaseException:  # interrupted; run.sh ends its guest at this signal
            process.terminate()
            raise
    found = [line for line in text.splitlines() if line.startswith("{")]
    if process.returncode != 0 or not found:
        raise RuntimeError(f"{' '.join(argv)}: exit {process.returncode}: {text[-600:]}")
    return json.loads(found[-1])
