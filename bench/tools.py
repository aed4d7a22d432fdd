# SPDX-License-Identifier: Apache-2.0
"""What the items of run.py share: running a program and counting what it took, scratch file systems, daemons, the table of steps."""
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time


def run(argv, env=None, stdout=subprocess.DEVNULL, check=True):
    """Wall s, CPU s, peak MB of one command and what it waited for; and its output when stdout is PIPE."""
    begin = time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, env=env)
    try:
        text = process.stdout.read() if stdout == subprocess.PIPE else b""
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:  # interrupted
        process.kill()
        process.wait()
        raise
    wall = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if check and process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, argv))}: exit {process.returncode}: {errors.decode(errors='replace')[-600:]}")
    return {"wall_s": wall, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}, text.decode()


def remove(path):
    """Removes a tree, what is mounted below or on it, and the file its file system was made in."""
    path = os.path.realpath(path)
    with open("/proc/self/mountinfo") as table:
        points = [line.split()[4] for line in table]
    for point in sorted((p for p in points if (p + "/").startswith(path + "/")), reverse=True):
        subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL, check=False)
    subprocess.run(["rm", "-rf", "--", path, path + ".ext4"], check=False)


def fresh(path, kind="ext4"):
    """A new, empty ext4 or btrfs of its own at `path` (root; else an empty directory).

    Not just an emptied directory: ext4 does not give an inode again for a minute or more after its deletion
    (fs/ext4/ialloc.c, recently_deleted), and skipping these one by one makes whatever creates files after an `rm -rf` many times slower.
    """
    remove(path)
    os.makedirs(path)
    if os.geteuid() == 0:
        image = os.path.realpath(path) + ".ext4"
        with open(image, "wb") as file:
            file.truncate(24 << 30)
        make, options = {"ext4": (["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"], "loop,noinit_itable"),
                         "btrfs": (["mkfs.btrfs", "-q", "-f", "-K", "-m", "single"], "loop")}[kind]
        subprocess.run([*make, image], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", options, image, path], check=True)
        # As a disk is: what is written goes through one page cache, not two.
        device = subprocess.run(["findmnt", "-no", "SOURCE", path], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        subprocess.run(["losetup", "--direct-io=on", device], check=True)
    os.sync()
    return str(path)


def warm(path):
    with open(path, "rb") as data:
        while data.read(1 << 22):
            pass


@contextlib.contextmanager
def daemon(argv, ready, log):
    """A running daemon (Popen) as soon as ready() says so. It ends with the block, or with this process, whatever ends that."""
    with open(log, "ab") as out:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        end = time.monotonic() + 60
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                with open(log, encoding="utf-8", errors="replace") as said:
                    raise RuntimeError(f"{argv[0]} did not start: {said.read()[-600:]}")
            time.sleep(0.02)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def daemon_cpu(pid):
    """CPU seconds of a process, and of its children that have ended."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid, field):
    """VmRSS (now) or VmHWM (the most ever)."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field + ":"))


def print_steps(samples, steps):
    """A table of what bench/lifecycle measured, medians over the samples; its last rows may be "sum" (of the steps' medians) or "mean"
    (of the steps' means: what a container took, all in all)."""
    sums = {"sum": "sum_of_medians_us", "mean": "sum_of_means_us"}
    print(f"  {'':10} {'floor':>16} {'shale':>16} {'ratio':>6}")
    for step in steps:
        cells, medians = {"floor": "", "shale": ""}, {}
        for side in cells:
            if step in sums:
                medians[side] = statistics.median(s[side][sums[step]] for s in samples)
                cells[side] = f"{medians[side]:.0f}"
            elif step in samples[0][side]:
                medians[side] = statistics.median(s[side][step]["median_us"] for s in samples)
                cells[side] = f"{medians[side]:.0f} ({statistics.median(s[side][step]['p99_us'] for s in samples):.0f})"
        ratio = f"{medians['shale'] / max(medians['floor'], 1):6.2f}" if len(medians) == 2 else ""
        print(f"  {step:10} {cells['floor']:>16} {cells['shale']:>16} {ratio}".rstrip())


def own_mounts():
    """Root: this program again in a mount namespace of its own, so that no mount outlives it, whatever ends it."""
    if os.geteuid() == 0 and os.environ.get("SHALE_BENCH_NS") != str(os.getpid()):
        os.environ["SHALE_BENCH_NS"] = str(os.getpid())
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "--", sys.executable, *sys.argv])
