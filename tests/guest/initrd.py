#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""initrd.py OUT INIT MODULES_DIR[,MODULES_DIR...] MODULE[:PARAMETER=VALUE...]...

Writes an initramfs (cpio, newc, not compressed) with /init, the modules named and all that they depend on, and
/lib/modules/order, which says in what order to load them and with which parameters. It reads the dependencies out of
the modules' own .modinfo, so that neither cpio nor kmod nor a depmod run is needed. A module that no folder has is
taken to be built into the kernel.
"""
import os
import pathlib
import re
import stat
import sys

# What kmod would load for a module besides its dependencies: implementations that it asks the crypto layer for by name,
# and transports that the kernel looks up. Found missing as "unknown symbol" or as a mount that fails.
ALSO = {
    "libcrc32c": ["crc32c_generic"],
    "ext4": ["crc32c_generic"],
    "btrfs": ["crc32c_generic", "xxhash_generic", "blake2b_generic"],
    "virtio_pci": ["virtio_pci_legacy_dev", "virtio_pci_modern_dev"],
}


def plain(name):
    return name.replace("-", "_")


def dependencies(module):
    found = re.findall(rb"(?:^|\0)depends=([^\0]*)\0", module.read_bytes())
    return [plain(name) for names in found for name in names.decode().split(",") if name]


def in_order(files, wanted):
    order = []

    def add(name):
        if name in order or name not in files:
            return
        for other in ALSO.get(name, []) + dependencies(files[name]):
            add(other)
        order.append(name)

    for name in wanted:
        add(name)
    return order


class Cpio:
    """The format is in Documentation/driver-api/early-userspace/buffer-format.rst of the Linux sources."""

    def __init__(self):
        self.data, self.entries = bytearray(), 0

    def add(self, name, mode, body=b"", device=(0, 0)):
        self.entries += 1
        encoded = name.encode() + b"\0"
        fields = (self.entries, mode, 0, 0, 1, 0, len(body), 0, 0, *device, len(encoded), 0)
        for part in (b"070701" + b"".join(b"%08X" % field for field in fields) + encoded, body):
            self.data += part
            self.data += b"\0" * (-len(self.data) % 4)


def main(out, init, folders, *wanted):
    files = {plain(path.stem): path for folder in folders.split(",") for path in pathlib.Path(folder).rglob("*.ko")}
    parameters = dict(word.replace("-", "_").split(":", 1) for word in wanted if ":" in word)
    order = in_order(files, [plain(word.split(":")[0]) for word in wanted])
    cpio = Cpio()
    for folder in ("dev", "proc", "lib", "lib/modules"):
        cpio.add(folder, stat.S_IFDIR | 0o755)
    cpio.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    cpio.add("init", stat.S_IFREG | 0o755, pathlib.Path(init).read_bytes())
    for name in order:
        cpio.add(f"lib/modules/{name}.ko", stat.S_IFREG | 0o644, files[name].read_bytes())
    lines = (f"{name}.ko {parameters.get(name, '').replace(':', ' ')}".rstrip() + "\n" for name in order)
    cpio.add("lib/modules/order", stat.S_IFREG | 0o644, "".join(lines).encode())
    cpio.add("TRAILER!!!", 0)
    fresh = pathlib.Path(f"{out}.{os.getpid()}")
    fresh.write_bytes(cpio.data)
    fresh.rename(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
