"""What the OCI image specification defines: digests, layers, image manifests, configurations.

Plain data. `registry/fetch.py` reads it from a registry, `image/layout.py` from a directory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NewType

from kontext_plugin.image.tree import is_utf8

Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hex digits (OCI image specification, descriptor.md, "Digests")."""

GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
"""The media types of layers (OCI image specification, media-types.md)."""

MANIFEST_ANNOTATION = "dev.kontext.manifest"
"""The annotation of every Kontext image: the digest of its /var/lib/kontext/manifest.json.

The image's own digest covers it, so it vouches for a manifest that is read off a layer's head."""

EXTRACTOR_ANNOTATION = "dev.kontext.extractor"
"""The annotation of an image whose top layer is the extractor's: the digest of that layer."""

REPLACES_ANNOTATION = "dev.kontext.replaces"
"""The annotation of an image that heals another one: the digest of the image that lost a blob."""

BASE_DIGEST_ANNOTATION = "org.opencontainers.image.base.digest"
BASE_NAME_ANNOTATION = "org.opencontainers.image.base.name"
"""The user's base image (OCI image specification, annotations.md)."""

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]{1,9})?(Z|[+-][0-9:]{5})")

_NO_TIME = "0002"
"""What tools write that do not want to name a time is less than this: 0001-01-01T00:00:00Z."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_INDEX_TYPES = {
    OCI_INDEX,
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
    extractor: Digest | None = None  # the top layer, if it is the extractor's
    base: Digest | None = None  # the user's base image, without its layers' names; None: none
    base_name: str = ""  # as the user typed it
    replaces: str = ""  # the value of REPLACES_ANNOTATION

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
    diff_ids: tuple[Digest, ...] = ()  # of each layer, uncompressed
    created: str = ""  # when (RFC 3339); "": it names no time

    def document(self) -> dict[str, Any]:
        """Return the part of a configuration document that `config_from_document` reads."""
        system, _, architecture = self.platform.partition("/")
        config = {
            "Entrypoint": list(self.entrypoint),
            "WorkingDir": self.working_directory,
            "Labels": dict(self.labels),
        }
        return {
            "os": system,
            "architecture": architecture,
            "config": config,
            "rootfs": {"diff_ids": list(self.diff_ids)},
            "created": self.created,
        }


def config_from_document(document: Mapping[str, Any]) -> ImageConfig:
    """Return the configuration in a document that has passed its schema."""
    settings = document.get("config") or {}
    return ImageConfig(
        platform=f"{document['os']}/{document['architecture']}",
        entrypoint=tuple(settings.get("Entrypoint") or ()),
        working_directory=settings.get("WorkingDir") or "",
        labels={
            key: value
            for key, value in (settings.get("Labels") or {}).items()
            if is_utf8(key + value)
        },
        diff_ids=tuple((document.get("rootfs") or {}).get("diff_ids") or ()),
        created=created if _is_time(created := document.get("created") or "") else "",
    )


def _is_time(text: str) -> bool:
    """Whether a text is a time (RFC 3339), and not the one that stands for none."""
    return text > _NO_TIME and bool(_TIME.fullmatch(text))


def is_index(document: Mapping[str, Any]) -> bool:
    """Whether a manifest document lists images of several platforms instead of layers."""
    media_type = document.get("mediaType")
    return "manifests" in document or (isinstance(media_type, str) and media_type in _INDEX_TYPES)


def children_of(index: Mapping[str, Any]) -> dict[str, Digest]:
    """Return the images in an index by their platforms; the document has passed its schema.

    Entries without a platform that can run, such as attestations, are left out.
    """
    found: dict[str, Digest] = {}
    for entry in index["manifests"]:
        platform = entry.get("platform") or {}
        system, architecture = platform.get("os", ""), platform.get("architecture", "")
        can_run = system and architecture and "unknown" not in (system, architecture)
        if can_run and not is_index(entry):
            found.setdefault(f"{system}/{architecture}", Digest(entry["digest"]))
    return found


def image_from_document(digest: Digest, document: Mapping[str, Any]) -> Image:
    """Return the image that a manifest document describes; the document has passed its schema."""
    annotations = document.get("annotations") or {}
    layers = tuple(
        Layer(parse_digest(layer["digest"]), layer["size"], layer.get("mediaType") or GZIP_LAYER)
        for layer in document["layers"]
    )
    extractor = _annotated(annotations, EXTRACTOR_ANNOTATION)
    return Image(
        digest=digest,
        layers=layers,
        manifest=_annotated(annotations, MANIFEST_ANNOTATION),
        extractor=extractor if layers and extractor == layers[-1].digest else None,
        base=_annotated(annotations, BASE_DIGEST_ANNOTATION),
        base_name=annotations.get(BASE_NAME_ANNOTATION, ""),
        replaces=_annotated(annotations, REPLACES_ANNOTATION) or "",
    )


def _annotated(annotations: Mapping[str, str], key: str) -> Digest | None:
    value = annotations.get(key, "")
    return Digest(value) if _DIGEST.fullmatch(value) else None
