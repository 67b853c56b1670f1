"""OCI image layouts on disk (OCI image specification, image-layout.md).

A layout to publish may be sparse: it has the documents and the new layers. `crane push` asks the
registry for each blob first, and opens the files of those that the registry lacks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kontext_plugin.image.oci import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Digest,
    Layer,
    digest_of,
)


@dataclass(frozen=True)
class StagedLayer:
    """A layer in a local file, ready to be published."""

    path: str
    layer: Layer
    diff_id: Digest  # of the archive, uncompressed (OCI image specification, config.md)


@dataclass(frozen=True)
class PlainImage:
    """An image that has layers and says nothing else, as the documents of a layout."""

    index: bytes
    documents: Mapping[Digest, bytes]
    digest: Digest


def plain_image(layers: Sequence[tuple[Layer, Digest]]) -> PlainImage:
    """Return an image of these layers, each with its diff ID, lowest first."""

    def encode(document: Mapping[str, object]) -> bytes:
        return json.dumps(document).encode()

    def descriptor(media_type: str, document: bytes) -> dict[str, object]:
        return {"mediaType": media_type, "digest": digest_of(document), "size": len(document)}

    rootfs = {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]}
    config = encode({"architecture": "amd64", "os": "linux", "rootfs": rootfs})
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, config),
            "layers": [
                {"mediaType": one.media_type, "digest": one.digest, "size": one.size}
                for one, _ in layers
            ],
        }
    )
    index = encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [descriptor(OCI_MANIFEST, manifest)],
        }
    )
    documents = {digest_of(document): document for document in (config, manifest)}
    return PlainImage(index, documents, digest_of(manifest))


def write_layout(
    directory: str,
    index: bytes,
    documents: Mapping[Digest, bytes],
    layers: Iterable[StagedLayer],
) -> None:
    """Write a layout into a new directory. Links the files of the layers, or copies them.

    Raises OSError.
    """
    os.makedirs(os.path.join(directory, "blobs", "sha256"))
    for digest, document in documents.items():
        _write(blob_path(directory, digest), document)
    for staged in layers:
        target = blob_path(directory, staged.layer.digest)
        with contextlib.suppress(FileExistsError):
            try:
                os.link(staged.path, target)
            except FileExistsError:
                raise
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(staged.path, target)
    _write(os.path.join(directory, "index.json"), index)
    _write(os.path.join(directory, "oci-layout"), b'{"imageLayoutVersion":"1.0.0"}')


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


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
