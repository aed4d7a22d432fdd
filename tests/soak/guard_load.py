#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A random load on one store: containers are made, write files (few large ones or many small ones), and are removed.

What is new is stopped by a refusal, as a scheduler would be; then containers go until there is room again. Each file is
read back before its container goes, and at the end.

    guard_load.py DISK SECONDS SEED RESULT SHALE...
"""
import errno
import json
import os
import random
import subprocess
import sys
import time
import zlib

disk, seconds, seed, result = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
shale = sys.argv[5:]
rng = random.Random(f"{seed} {disk.rsplit('/', 1)[-1]}")
BYTES_A_SECOND = 4 << 20
jobs = []  # (name, tree, {path: crc})
figures = {"created": 0, "removed": 0, "refused": 0, "written_bytes": 0, "files": 0, "checked_files": 0, "full": 0,
           "least_free_bytes": 1 << 62, "least_free_inodes": 1 << 62, "disk_bytes": 0, "phases": 0}


def run(*arguments):
    return subprocess.run([*shale, *arguments], capture_output=True, text=True)


def must(*arguments):
    done = run(*arguments)
    if done.returncode != 0:
        sys.exit(f"{arguments}: {done.stderr.strip()}")
    return done.stdout


def used():
    stat = os.statvfs(disk)
    busy = (stat.f_blocks - stat.f_bfree)
    share = busy / max(busy + stat.f_bavail, 1)
    inodes = (stat.f_files - stat.f_ffree) / stat.f_files if stat.f_files else 0
    figures["least_free_bytes"] = min(figures["least_free_bytes"], stat.f_bavail * stat.f_frsize)
    if stat.f_files:
        figures["least_free_inodes"] = min(figures["least_free_inodes"], stat.f_ffree)
    figures["disk_bytes"] = (busy + stat.f_bavail) * stat.f_frsize
    return max(share, inodes)


def create():
    name = f"job{figures['created']}"
    done = run("container", "create", "--name", name, "base:1")
    if done.returncode != 0:
        if "are refused for now" in done.stderr:
            figures["refused"] += 1
        elif "No space left on device" in done.stderr:
            figures["full"] += 1  # between two looks, or of something that statvfs does not tell (metadata of btrfs)
        else:
            sys.exit(f"container create: {done.stderr.strip()}")
        return False
    figures["created"] += 1
    job = (name, must("container", "mount", name).strip().splitlines()[-1], {})
    jobs.append(job)
    fill(job)
    return True


def write(job, number, size):
    path = f"{job[1]}/file{number}"
    data = rng.randbytes(min(size, 65536))
    crc = 0
    try:
        with open(path, "wb") as out:
            for left in range(size, 0, -len(data)):
                part = data[:left]
                out.write(part)
                crc = zlib.crc32(part, crc)
            if size > 65536:  # btrfs counts what is written when it is on its way to the disk
                out.flush()
                os.fsync(out.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        figures["full"] += 1
        if os.path.lexists(path):
            os.unlink(path)
        return
    job[2][path] = crc
    figures["files"] += 1
    figures["written_bytes"] += size


def fill(job):
    began, wrote = time.monotonic(), figures["written_bytes"]
    if small:
        for number in range(rng.randint(40, 160)):
            write(job, number, rng.randint(1, 600))
            if number % 20 == 19:
                time.sleep(0.1)
                used()
    else:
        for number in range(rng.randint(1, 6)):
            write(job, number, rng.randint(100_000, 1_500_000))
            used()
            time.sleep(max(0.0, (figures["written_bytes"] - wrote) / BYTES_A_SECOND - (time.monotonic() - began)))
        for path in list(job[2])[1::3]:  # files of a container go while it lives, too
            check(job, path)
            os.unlink(path)
            del job[2][path]


def check(job, path):
    crc = 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            crc = zlib.crc32(part, crc)
    if crc != job[2][path]:
        sys.exit(f"{path} is not what was written to it")
    figures["checked_files"] += 1


def remove(index):
    job = jobs.pop(index)
    for path in job[2]:
        check(job, path)
    must("container", "rm", "--force", job[0])
    figures["removed"] += 1


small, falling, low, few = False, False, 0.0, 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    if falling:
        if jobs and (used() > low or len(jobs) > few):
            remove(rng.randrange(len(jobs)))
            time.sleep(rng.random() * 0.2)
            continue
        falling, small = False, rng.random() < 0.4
    elif not create() or used() > 0.995:
        if rng.random() < 0.3:
            falling, low, few = True, rng.uniform(0.62, 0.88), len(jobs) * 2 // 3
            figures["phases"] += 1
        time.sleep(0.4)
    elif rng.random() < 0.03:  # it trembles about a mark
        if jobs:
            remove(rng.randrange(len(jobs)))
for _ in range(len(jobs)):
    remove(0)
used()
with open(result, "w", encoding="utf-8") as out:
    json.dump(figures, out)
