#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""vmlinux.py BZIMAGE OUT: takes the ELF kernel out of a bzImage.

QEMU starts an ELF kernel through its PVH entry at once; a bzImage first unpacks itself, which takes an emulated
processor 3 to 4 seconds at every boot. Layout: Documentation/arch/x86/boot.rst of the Linux sources, fields
setup_sects (0x1f1), payload_offset (0x248) and payload_length (0x24c).
"""
import lzma
import subprocess
import sys
import zlib

SECTOR = 512


def payload_of(image):
    setup_sectors = image[0x1F1] or 4
    offset = int.from_bytes(image[0x248:0x24C], "little")
    length = int.from_bytes(image[0x24C:0x250], "little")
    start = (setup_sectors + 1) * SECTOR + offset
    return image[start : start + length]


def unpack(payload):
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):  # the last four bytes are the unpacked size
        return subprocess.run(["zstd", "-dc"], input=payload[:-4], stdout=subprocess.PIPE, check=True).stdout
    sys.exit(f"vmlinux.py: a kernel packed in an unknown way: {payload[:8].hex()}")


def main(image, out):
    with open(image, "rb") as file:
        kernel = unpack(payload_of(file.read()))
    if not kernel.startswith(b"\x7fELF"):
        sys.exit("vmlinux.py: what the kernel unpacks to is no ELF file")
    with open(out, "wb") as file:
        file.write(kernel)


if __name__ == "__main__":
    main(*sys.argv[1:])
