#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One line for every object of a tree, so that two trees compare with diff(1).

usage: tree_manifest.py [--no-owner] [--layers LAYER.tar...] -- DIR
Fields: path, type, mode, uid:gid, size, content (sha256, link target or device), mtime in ns, xattrs, hard-link group
(named by its first path). Overlay's own xattrs and the root directory's mtime are left out. With --layers, so are the
mtimes of directories that none of these archives has an entry for, since nothing says what they should be, and of the
directories that these are in, which umoci changes (docs/formats/layer-tar.md, "Directories without an entry").
"""
import argparse
import hashlib
import os
import stat
import sys
import tarfile


def escape(name):
    return os.fsencode(name).decode("utf-8", "backslashreplace").encode("unicode_escape").decode()


def content(path, info):
    if stat.S_ISREG(info.st_mode):
        digest = hashlib.sha256()
        with open(path, "rb") as data:
            while block := data.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    if stat.S_ISLNK(info.st_mode):
        return "->" + escape(os.readlink(path))
    if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        return f"{os.major(info.st_rdev)},{os.minor(info.st_rdev)}"
    return "-"


def xattrs(path):
    found = []
    try:
        for name in sorted(os.listxattr(path, follow_symlinks=False)):
            if not name.startswith(("trusted.overlay.", "user.overlay.")):
                found.append(f"{name}={os.getxattr(path, name, follow_symlinks=False).hex()}")
    except OSError as error:
        found.append(f"!{error.errno}")
    return ",".join(found) or "-"


def stated_dirs(archives):
    found = set()
    for archive in archives:
        with tarfile.open(archive, errors="surrogateescape", encoding="utf-8") as layer:
            try:
                for entry in layer:
                    if entry.isdir():
                        found.add(os.path.normpath(entry.name).lstrip("/"))
            except tarfile.ReadError:
                pass  # umoci insert ends its archives without padding; all entries have been seen
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--no-owner", action="store_true")
    parser.add_argument("--layers", nargs="*", default=None)
    parser.add_argument("dir")
    options = parser.parse_args()
    stated = None if options.layers is None else stated_dirs(options.layers)
    paths = [""]
    for folder, dirs, files in os.walk(options.dir):
        base = os.path.relpath(folder, options.dir)
        paths += [os.path.normpath(os.path.join(base, name)) for name in dirs + files]
    first, untimed = {}, {""}
    if stated is not None:
        for relative in paths:
            if relative not in stated and stat.S_ISDIR(os.lstat(os.path.join(options.dir, relative)).st_mode):
                untimed.update((relative, os.path.dirname(relative)))
    for relative in sorted(paths):
        path = os.path.join(options.dir, relative) if relative else options.dir
        info = os.lstat(path)
        is_dir = stat.S_ISDIR(info.st_mode)
        link = "-"
        if not is_dir and info.st_nlink > 1:
            link = first.setdefault((info.st_dev, info.st_ino), escape(relative))
        mtime = "-" if is_dir and relative in untimed else str(info.st_mtime_ns)
        print("\t".join([escape(relative) or ".", stat.filemode(info.st_mode)[0], f"{stat.S_IMODE(info.st_mode):04o}",
                         "-" if options.no_owner else f"{info.st_uid}:{info.st_gid}",
                         "-" if is_dir else str(info.st_size), content(path, info), mtime, xattrs(path), link]))


if __name__ == "__main__":
    sys.exit(main())
