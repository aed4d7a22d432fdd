#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""WORK/layer.tar becomes an image of one layer: WORK/layout, an OCI image layout."""
import hashlib
import json
import pathlib
import sys

work = pathlib.Path(sys.argv[1])
layout = work / "layout"
blobs = layout / "blobs" / "sha256"
blobs.mkdir(parents=True)


def put(data):
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    return "sha256:" + name, len(data)


digest, size = put((work / "layer.tar").read_bytes())
config = put(json.dumps({"os": "linux", "architecture": "amd64",
                         "rootfs": {"type": "layers", "diff_ids": [digest]}}).encode())
media = "application/vnd.oci.image."
manifest = put(json.dumps({
    "schemaVersion": 2, "mediaType": media + "manifest.v1+json",
    "config": {"mediaType": media + "config.v1+json", "digest": config[0], "size": config[1]},
    "layers": [{"mediaType": media + "layer.v1.tar", "digest": digest, "size": size}]}).encode())
(layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [
    {"mediaType": media + "manifest.v1+json", "digest": manifest[0], "size": manifest[1]}]}))
(layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
