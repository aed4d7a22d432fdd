#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds image archives for the measurements and tests, from nothing but the Python library.

  mkimage.py upper DIR OUT.tar             an overlay upper directory as an OCI layer (whiteouts, opaque markers)
  mkimage.py tree DIR OUT.tar              a whole tree as a layer
  mkimage.py tiny COUNT OUTDIR             COUNT tiny layers
  mkimage.py small FILES LAYERS OUTDIR     FILES small files spread over LAYERS layers
  mkimage.py oci NAME OUT.tar gzip|zstd|none LAYER.tar...     an OCI layout archive
  mkimage.py docker NAME OUT.tar LAYER.tar...                 a docker-save archive
"""
import hashlib
import io
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile

EPOCH = 1_700_000_000
CREATED = "2023-11-14T22:13:20Z"
OVERLAY = ("trusted.overlay.", "user.overlay.")


def xattrs(path):
    found = {}
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return found
    for name in names:
        if not name.startswith(OVERLAY):
            value = os.getxattr(path, name, follow_symlinks=False)
            # PAX values are text to tarfile; surrogateescape carries the bytes through unchanged.
            found["SCHILY.xattr." + name] = value.decode("utf-8", "surrogateescape")
    return found


def is_opaque(path):
    for prefix in OVERLAY:
        try:
            if os.getxattr(path, prefix + "opaque", follow_symlinks=False) == b"y":
                return True
        except OSError:
            pass
    return False


def marker(tar, name):
    tar.addfile(tarfile.TarInfo(name))


class Writer:
    def __init__(self, root, out):
        self.root, self.links = root, {}
        self.tar = tarfile.open(out, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape")

    def add(self, relative):
        path = os.path.join(self.root, relative)
        info_stat = os.lstat(path)
        parent, base = os.path.split(relative)
        if stat.S_ISCHR(info_stat.st_mode) and info_stat.st_rdev == 0:
            marker(self.tar, os.path.join(parent, ".wh." + base))
            return
        if stat.S_ISSOCK(info_stat.st_mode):
            return
        info = tarfile.TarInfo(relative + ("/" if stat.S_ISDIR(info_stat.st_mode) else ""))
        info.mode, info.uid, info.gid = stat.S_IMODE(info_stat.st_mode), info_stat.st_uid, info_stat.st_gid
        info.mtime = int(info_stat.st_mtime)
        info.pax_headers = xattrs(path)
        if stat.S_ISLNK(info_stat.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
        elif stat.S_ISDIR(info_stat.st_mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISFIFO(info_stat.st_mode):
            info.type = tarfile.FIFOTYPE
        elif stat.S_ISCHR(info_stat.st_mode) or stat.S_ISBLK(info_stat.st_mode):
            info.type = tarfile.CHRTYPE if stat.S_ISCHR(info_stat.st_mode) else tarfile.BLKTYPE
            info.devmajor, info.devminor = os.major(info_stat.st_rdev), os.minor(info_stat.st_rdev)
        else:
            key = (info_stat.st_dev, info_stat.st_ino)
            if info_stat.st_nlink > 1 and key in self.links:
                info.type, info.linkname = tarfile.LNKTYPE, self.links[key]
                info.pax_headers = {}
            else:
                self.links[key] = relative
                info.size = info_stat.st_size
                with open(path, "rb") as data:
                    self.tar.addfile(info, data)
                return
        self.tar.addfile(info)
        if info.type == tarfile.DIRTYPE and is_opaque(path):
            marker(self.tar, os.path.join(relative, ".wh..wh..opq"))

    def walk(self, relative=""):
        for name in sorted(os.listdir(os.path.join(self.root, relative))):
            entry = os.path.join(relative, name)
            self.add(entry)
            path = os.path.join(self.root, entry)
            if os.path.isdir(path) and not os.path.islink(path):
                self.walk(entry)


def pack(root, out):
    writer = Writer(root, out + ".partial")
    writer.walk()
    writer.tar.close()
    os.rename(out + ".partial", out)


def plain(tar, name, data=None, mode=0o644):
    info = tarfile.TarInfo(name)
    info.mtime, info.mode = EPOCH, mode
    if data is None:
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(info)
    else:
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def tiny(count, outdir):
    os.makedirs(outdir, exist_ok=True)
    for n in range(count):
        with tarfile.open(f"{outdir}/{n:04}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            plain(tar, "srv/")
            for f in range(4):
                plain(tar, f"srv/layer-{n:04}-{f}", f"{n}.{f}\n".encode() * (1 + f * 50))
            plain(tar, "srv/last", f"{n}\n".encode())


def small(files, layers, outdir):
    os.makedirs(outdir, exist_ok=True)
    rng = random.Random(1)
    per_layer, per_dir = files // layers, 200
    for layer in range(layers):
        with tarfile.open(f"{outdir}/{layer:04}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            plain(tar, "data/")
            for n in range(per_layer):
                if n % per_dir == 0:
                    folder = f"data/{layer:02}-{n // per_dir:04}"
                    plain(tar, folder + "/")
                plain(tar, f"{folder}/file-{n:06}", rng.randbytes(rng.randint(50, 1400)).hex().encode())


def digest_of(path):
    with open(path, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(data.read()).hexdigest()


def config_of(diff_ids):
    return json.dumps({
        "architecture": "amd64", "os": "linux", "created": CREATED,
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + d for d in diff_ids]},
        "history": [{"created": CREATED, "created_by": f"layer {n}"} for n in range(len(diff_ids))],
    }, sort_keys=True, separators=(",", ":")).encode()


def compress(layer, out, how):
    if how == "none":
        shutil.copyfile(layer, out)
        return
    gzip = ["pigz", "-6", "-n", "-c"] if shutil.which("pigz") else ["gzip", "-6", "-n", "-c"]
    with open(layer, "rb") as source, open(out, "wb") as target:
        subprocess.run(gzip if how == "gzip" else ["zstd", "-3", "-q", "-c"], stdin=source, stdout=target, check=True)


def add_file(tar, name, path):
    info = tarfile.TarInfo(name)
    info.mtime, info.size = EPOCH, os.path.getsize(path)
    with open(path, "rb") as data:
        tar.addfile(info, data)


def oci(name, out, how, layers):
    suffix = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[how]
    diff_ids, descriptors, blobs = [], [], {}
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(out))) as tmp:
        for n, layer in enumerate(layers):
            diff_ids.append(digest_of(layer))
            blob = f"{tmp}/{n}"
            compress(layer, blob, how)
            digest = digest_of(blob)
            blobs[digest] = blob
            descriptors.append({"mediaType": "application/vnd.oci.image.layer.v1.tar" + suffix,
                                "digest": "sha256:" + digest, "size": os.path.getsize(blob)})
        config = config_of(diff_ids)
        config_digest = hashlib.sha256(config).hexdigest()
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + config_digest,
                       "size": len(config)},
            "layers": descriptors}, sort_keys=True, separators=(",", ":")).encode()
        manifest_digest = hashlib.sha256(manifest).hexdigest()
        index = json.dumps({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + manifest_digest,
            "size": len(manifest), "platform": {"architecture": "amd64", "os": "linux"},
            "annotations": {"org.opencontainers.image.ref.name": name.split(":")[-1],
                            "io.containerd.image.name": "docker.io/library/" + name}}]},
            sort_keys=True, separators=(",", ":")).encode()
        with tarfile.open(out + ".partial", "w", format=tarfile.PAX_FORMAT) as tar:
            plain(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            plain(tar, "index.json", index)
            plain(tar, "blobs/")
            plain(tar, "blobs/sha256/")
            plain(tar, "blobs/sha256/" + manifest_digest, manifest)
            plain(tar, "blobs/sha256/" + config_digest, config)
            for digest, blob in blobs.items():
                add_file(tar, "blobs/sha256/" + digest, blob)
    os.rename(out + ".partial", out)


def docker(name, out, layers):
    diff_ids = [digest_of(layer) for layer in layers]
    config = config_of(diff_ids)
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name],
                            "Layers": [d + "/layer.tar" for d in diff_ids]}]).encode()
    with tarfile.open(out + ".partial", "w", format=tarfile.PAX_FORMAT) as tar:
        plain(tar, "manifest.json", manifest)
        plain(tar, config_name, config)
        for digest, layer in dict(zip(diff_ids, layers)).items():
            plain(tar, digest + "/")
            add_file(tar, digest + "/layer.tar", layer)
    os.rename(out + ".partial", out)


def main(argv):
    match argv:
        case ["upper" | "tree", root, out]:
            pack(root, out)
        case ["tiny", count, outdir]:
            tiny(int(count), outdir)
        case ["small", files, layers, outdir]:
            small(int(files), int(layers), outdir)
        case ["oci", name, out, "gzip" | "zstd" | "none" as how, _, *_] as args:
            oci(name, out, how, args[4:])
        case ["docker", name, out, _, *_] as args:
            docker(name, out, args[3:])
        case _:
            sys.stderr.write(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
