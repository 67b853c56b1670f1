"""What the OCI image specification defines: digests, layers, image manifests, configurations.

Plain data. `registry/fetch.py` reads it from a registry, `image/layout.py` from a directory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NewType

Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hex digits (OCI image specification, descriptor.md, "Digests")."""

GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
"""The media type of a gzip layer (OCI image specification, media-types.md)."""

MANIFEST_ANNOTATION = "dev.kontext.manifest"
"""The annotation of every Kontext image: the digest of its /var/lib/kontext/manifest.json.

The image's own digest covers it, so it vouches for a manifest that is read off a layer's head."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_INDEX_TYPES = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}


def parse_digest(text: str) -> Digest:
    """Return the text as a Digest. Raises ValueError for anything but a SHA-256 digest."""
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"not a sha256 digest: {text!r}")
    return Digest(text)


def digest_of(content: bytes) -> Digest:
    """Return the SHA-256 digest of a blob."""
    import hashlib  # 2 ms that no --help needs

    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Layer:
    """A layer's descriptor (OCI image specification, descriptor.md)."""

    digest: Digest
    size: int  # bytes, compressed
    media_type: str = GZIP_LAYER


@dataclass(frozen=True)
class Image:
    """One image of one platform, lowest layer first."""

    digest: Digest
    layers: tuple[Layer, ...]
    manifest: Digest | None  # the value of MANIFEST_ANNOTATION; None: not an image of Kontext's

    @property
    def size(self) -> int:
        """Bytes of all layers, compressed."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True)
class ImageConfig:
    """The platform and the container settings of an image (OCI image specification, config.md).

    Empty settings are left out, so two configurations that mean the same are equal.
    """

    platform: str  # OS/ARCHITECTURE
    entrypoint: tuple[str, ...] = ()
    working_directory: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)  # `config`'s other keys: Env, User, …

    def with_labels(self, labels: Mapping[str, str]) -> ImageConfig:
        """Return the configuration with these labels added."""
        return replace(self, labels={**self.labels, **labels})

    def document(self) -> dict[str, Any]:
        """Return the part of a configuration document that `config_from_document` reads."""
        system, _, architecture = self.platform.partition("/")
        config = {
            **self.other,
            "Entrypoint": list(self.entrypoint),
            "WorkingDir": self.working_directory,
            "Labels": dict(self.labels),
        }
        return {"os": system, "architecture": architecture, "config": config}


def config_from_document(document: Mapping[str, Any]) -> ImageConfig:
    """Return the configuration in a document that has passed its schema."""
    settings = {key: value for key, value in (document.get("config") or {}).items() if value}
    return ImageConfig(
        platform=f"{document['os']}/{document['architecture']}",
        entrypoint=tuple(settings.pop("Entrypoint", ())),
        working_directory=settings.pop("WorkingDir", ""),
        labels=settings.pop("Labels", {}),
        other=settings,
    )


def is_index(document: Mapping[str, Any]) -> bool:
    """Whether a manifest document lists images of several platforms instead of layers."""
    media_type = document.get("mediaType")
    return "manifests" in document or (isinstance(media_type, str) and media_type in _INDEX_TYPES)


def image_from_document(digest: Digest, document: Mapping[str, Any]) -> Image:
    """Return the image that a manifest document describes; the document has passed its schema."""
    annotation = (document.get("annotations") or {}).get(MANIFEST_ANNOTATION)
    return Image(
        digest=digest,
        layers=tuple(
            Layer(
                parse_digest(layer["digest"]), layer["size"], layer.get("mediaType") or GZIP_LAYER
            )
            for layer in document["layers"]
        ),
        manifest=Digest(annotation) if annotation and _DIGEST.fullmatch(annotation) else None,
    )
