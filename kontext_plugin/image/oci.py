"""What a registry says of an image: digests, layers, the annotation that names our manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NewType

Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hex digits (OCI image specification, descriptor.md, "Digests")."""

MANIFEST_ANNOTATION = "dev.kontext.manifest"
"""On every image of ours: the digest of /var/lib/kontext/manifest.json, so that its bytes can be
trusted although only the head of the layer's blob is read."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_INDEX_TYPES = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}


def parse_digest(text: str) -> Digest:
    """Raises ValueError for anything but a SHA-256 digest."""
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"not a sha256 digest: {text!r}")
    return Digest(text)


def digest_of(content: bytes) -> Digest:
    import hashlib  # 2 ms that no --help needs

    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Layer:
    digest: Digest
    size: int  # of the compressed blob, in bytes


@dataclass(frozen=True)
class Image:
    """One image of one platform, lowest layer first."""

    digest: Digest
    layers: tuple[Layer, ...]
    manifest: Digest | None  # what MANIFEST_ANNOTATION says; None: the image is not ours

    @property
    def size(self) -> int:
        """Bytes of its layers, compressed."""
        return sum(layer.size for layer in self.layers)


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration document says that a container sees, without what is left empty.

    OCI image specification, config.md: the platform, and `config`.
    """
    settings = {key: value for key, value in (config.get("config") or {}).items() if value}
    return settings | {"platform": f"{config['os']}/{config['architecture']}"}


def is_index(document: Mapping[str, Any]) -> bool:
    """Whether a manifest document lists images of several platforms instead of layers."""
    kind = document.get("mediaType")
    return "manifests" in document or (isinstance(kind, str) and kind in _INDEX_TYPES)


def image_from_document(digest: Digest, document: Mapping[str, Any]) -> Image:
    """The image that a manifest document describes; the document has passed its schema."""
    annotations = document.get("annotations") or {}
    manifest = annotations.get(MANIFEST_ANNOTATION)
    return Image(
        digest=digest,
        layers=tuple(
            Layer(parse_digest(layer["digest"]), layer["size"]) for layer in document["layers"]
        ),
        manifest=Digest(manifest) if manifest and _DIGEST.fullmatch(manifest) else None,
    )
