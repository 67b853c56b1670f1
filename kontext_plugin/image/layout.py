"""OCI image layouts on disk (OCI image specification, image-layout.md).

`crane mutate --append` reads each layer three times, one after another, which takes longer than
writing them. A layout states the digests that are known from writing, and `crane push` uploads the
blobs that the registry lacks.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kontext_plugin.image.oci import Digest, Layer, digest_of

_HISTORY = {"created": "0001-01-01T00:00:00Z"}  # as crane writes it


@dataclass(frozen=True)
class StagedLayer:
    """A layer in a local file, ready to be published."""

    path: str
    layer: Layer
    diff_id: Digest  # of the archive, uncompressed (OCI image specification, config.md)


def extend(directory: str, target: str, layers: Sequence[StagedLayer]) -> Digest:
    """Write the one image of a layout, with these layers on top, as a layout in `target`.

    Returns the new image's digest. Moves the files of the layers into the layout. Raises OSError.
    """
    index, image, config = read_documents(directory)
    (descriptor,) = index["manifests"]

    os.makedirs(os.path.join(target, "blobs", "sha256"))
    for lower in image["layers"]:
        shutil.copyfile(blob_path(directory, lower["digest"]), blob_path(target, lower["digest"]))
    for staged in layers:
        os.replace(staged.path, blob_path(target, staged.layer.digest))
    config["rootfs"]["diff_ids"] += [staged.diff_id for staged in layers]
    config["history"] += [_HISTORY for _ in layers]
    image["config"] |= _write_document(target, config)
    image["layers"] += [_descriptor(staged.layer) for staged in layers]
    descriptor |= _write_document(target, image)
    _write(os.path.join(target, "index.json"), _json(index))
    _write(os.path.join(target, "oci-layout"), _json({"imageLayoutVersion": "1.0.0"}))
    return Digest(descriptor["digest"])


def read_documents(directory: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return a layout's index, and the manifest and configuration of its one image.

    Raises OSError.
    """
    index = json.loads(_read(os.path.join(directory, "index.json")))
    (descriptor,) = index["manifests"]
    image = json.loads(_read(blob_path(directory, descriptor["digest"])))
    return index, image, json.loads(_read(blob_path(directory, image["config"]["digest"])))


def blob_path(directory: str, digest: str) -> str:
    """Return the path of a blob in a layout."""
    return os.path.join(directory, "blobs", *digest.split(":"))


def _descriptor(layer: Layer) -> dict[str, Any]:
    return {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}


def _write_document(directory: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Write a document as a blob; return its digest and size, as a descriptor has them."""
    content = _json(document)
    digest = digest_of(content)
    _write(blob_path(directory, digest), content)
    return {"digest": digest, "size": len(content)}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
