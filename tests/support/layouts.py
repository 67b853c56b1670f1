"""OCI layouts of one image on disk, as scripts/build-base makes them for the shipped base."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kontext_plugin.image.oci import Digest, Image, ImageConfig, Layer, digest_of
from kontext_plugin.layer.compression import GZIP

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


def write_layout(directory: Path, archives: Iterable[bytes], config: ImageConfig) -> Image:
    """Write a layout of an image whose layers have these tar archives, lowest first."""
    (directory / "blobs" / "sha256").mkdir(parents=True)

    def store(content: bytes, media_type: str) -> dict[str, Any]:
        digest = digest_of(content)
        (directory / "blobs" / digest.replace(":", "/")).write_bytes(content)
        return {"mediaType": media_type, "size": len(content), "digest": digest}

    archives = list(archives)
    layers = []
    for archive in archives:
        blob = io.BytesIO()
        GZIP.compress(blob, [archive])
        layers.append(store(blob.getvalue(), GZIP.media_type))
    rootfs = {"type": "layers", "diff_ids": [digest_of(archive) for archive in archives]}
    history = [{"created": "2000-01-01T00:00:00Z"} for _ in archives]
    document = {**config.document(), "rootfs": rootfs, "history": history}
    image = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": store(json.dumps(document).encode(), CONFIG_TYPE),
        "layers": layers,
    }
    descriptor = store(json.dumps(image).encode(), MANIFEST_TYPE)
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [descriptor]}
    (directory / "index.json").write_text(json.dumps(index))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return Image(
        Digest(descriptor["digest"]),
        tuple(Layer(layer["digest"], layer["size"], layer["mediaType"]) for layer in layers),
        None,
    )


def check_layout(directory: Path) -> dict[str, bytes]:
    """Return the blobs of a layout by their digests; fail where one has another digest."""
    blobs = {}
    for path in (directory / "blobs" / "sha256").iterdir():
        content = path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == path.name
        blobs[f"sha256:{path.name}"] = content
    assert json.loads((directory / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    return blobs
