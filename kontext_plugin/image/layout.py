"""OCI layouts: puts ready layers upon an image without anyone reading them again.

`crane mutate --append` reads each layer three times and unpacks it once, one after another, which
takes longer than writing them. What is known of them already is written down here, and
`crane push` uploads what the registry lacks. (OCI image specification, image-layout.md.)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kontext_plugin.image.oci import Digest, Layer, digest_of

_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

_HISTORY = {"created": "0001-01-01T00:00:00Z"}  # as crane writes it


@dataclass(frozen=True)
class StagedLayer:
    """A written layer."""

    path: str
    layer: Layer
    diff_id: Digest


def extend(layout: str, folder: str, layers: Sequence[StagedLayer]) -> Digest:
    """Makes a layout in `folder` of the one image of `layout` with these layers upon it.

    Returns the image's digest. The files of the layers are moved into the layout.
    """
    index, image, config = documents(layout)
    (descriptor,) = index["manifests"]

    os.makedirs(os.path.join(folder, "blobs", "sha256"))
    for lower in image["layers"]:
        shutil.copyfile(blob_path(layout, lower["digest"]), blob_path(folder, lower["digest"]))
    for ready in layers:
        os.replace(ready.path, blob_path(folder, ready.layer.digest))
    config["rootfs"]["diff_ids"] += [ready.diff_id for ready in layers]
    config["history"] += [_HISTORY for _ in layers]
    image["config"] |= _described(folder, config)
    image["layers"] += [
        {"mediaType": _LAYER_TYPE, "digest": ready.layer.digest, "size": ready.layer.size}
        for ready in layers
    ]
    descriptor |= _described(folder, image)
    _write(os.path.join(folder, "index.json"), _json(index))
    _write(os.path.join(folder, "oci-layout"), _json({"imageLayoutVersion": "1.0.0"}))
    return Digest(descriptor["digest"])


def documents(layout: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A layout's index, and the manifest and the configuration of its one image. Raises OSError."""
    index = json.loads(_read(os.path.join(layout, "index.json")))
    (descriptor,) = index["manifests"]
    image = json.loads(_read(blob_path(layout, descriptor["digest"])))
    return index, image, json.loads(_read(blob_path(layout, image["config"]["digest"])))


def blob_path(layout: str, digest: str) -> str:
    """Where a layout has a blob."""
    return os.path.join(layout, "blobs", *digest.split(":"))


def _described(folder: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Puts a document into a layout; returns what a descriptor says of it."""
    content = _json(document)
    digest = digest_of(content)
    _write(blob_path(folder, digest), content)
    return {"digest": digest, "size": len(content)}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
