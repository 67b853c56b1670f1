"""Assemble an image: its configurations, its manifests and, for several platforms, its index. Pure.

An image consists of the base's layers, the layers of sources, and the extractor's layer. The
extractor lies on top, so no layer below can replace it. All platforms share the layers of sources.
The bytes depend on what goes in alone, so the digest is known before anything is published.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kontext_plugin.image.layout import StagedLayer
from kontext_plugin.image.oci import (
    BASE_DIGEST_ANNOTATION,
    BASE_NAME_ANNOTATION,
    EXTRACTOR_ANNOTATION,
    GZIP_LAYER,
    MANIFEST_ANNOTATION,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    REPLACES_ANNOTATION,
    Digest,
    Image,
    ImageConfig,
    Layer,
    config_from_document,
    digest_of,
    image_from_document,
)
from kontext_plugin.image.spec import BaseImage, ImageSpec

ENTRYPOINT = "/kontext-extractor"
WORKDIR = "/workspace"

MANIFEST_VARIABLE = "KONTEXT_MANIFEST"
"""The environment variable that tells the extractor the digest of manifest.json."""

_NO_TIME = "0001-01-01T00:00:00Z"  # as crane writes it

_KEPT = {
    "author": str,
    "architecture": str,
    "variant": str,
    "os": str,
    "os.version": str,
    "os.features": list,
}
"""The properties of a base's configuration that describe the new image, too, with their types."""

_SETTINGS = {
    "User": str,
    "ExposedPorts": dict,
    "Env": list,
    "Volumes": dict,
    "StopSignal": str,
    "Shell": list,
    "Healthcheck": dict,
    "OnBuild": list,
}
"""The container settings that are kept of a base, with their types."""

_HISTORY = {"created": str, "created_by": str, "author": str, "comment": str, "empty_layer": bool}
"""The properties of an entry of the history."""

_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
"""Docker's name for a gzip layer: the bytes are those of an OCI layer."""


@dataclass(frozen=True)
class Sources:
    """The layers of sources of an image, lowest first, and the manifest in the top one."""

    layers: tuple[Layer, ...]
    diff_ids: tuple[Digest, ...]
    manifest: Digest


@dataclass(frozen=True)
class Assembly:
    """An image, ready to be published."""

    digest: Digest  # that a tag will show
    index: bytes  # index.json of its layout, and the index itself if `is_index`
    is_index: bool
    documents: Mapping[Digest, bytes]  # configurations and manifests
    images: tuple[Image, ...]  # one for each platform
    config: ImageConfig  # of the first of them

    @property
    def blobs(self) -> dict[Digest, int]:
        """The bytes of each layer and configuration."""
        manifests = {image.digest for image in self.images}
        layers = {layer.digest: layer.size for image in self.images for layer in image.layers}
        return layers | {
            digest: len(document)
            for digest, document in self.documents.items()
            if digest not in manifests
        }


def assemble(
    spec: ImageSpec, sources: Sources, labels: Mapping[str, str], replaces: str = ""
) -> Assembly:
    """Return the image that `spec` describes, with these sources and labels.

    `replaces` is the digest of an image that would be the same, but is damaged or about to be lost.
    """
    documents: dict[Digest, bytes] = {}
    entries, images, configs = [], [], []
    for base in spec.bases:
        extractor = () if spec.single_layer else (base.extractor,)
        settings = _config(base, sources, extractor, labels, spec.created)
        configs.append(config_from_document(settings))
        config = _encode(settings)
        manifest = _manifest(base, sources, extractor, config, replaces)
        encoded = _encode(manifest)
        digest = digest_of(encoded)
        documents |= {digest_of(config): config, digest: encoded}
        images.append(image_from_document(digest, manifest))
        entries.append(
            {
                "mediaType": OCI_MANIFEST,
                "digest": digest,
                "size": len(encoded),
                "platform": _platform(base),
            }
        )
    index = _encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    is_index = len(spec.bases) > 1
    return Assembly(
        digest=digest_of(index) if is_index else images[0].digest,
        index=index,
        is_index=is_index,
        documents=documents,
        images=tuple(images),
        config=configs[0],
    )


def _config(
    base: BaseImage,
    sources: Sources,
    extractor: Sequence[StagedLayer],
    labels: Mapping[str, str],
    created: str,
) -> dict[str, Any]:
    """Return a configuration (OCI image specification, config.md) that runs the extractor."""
    settings = _typed(base.document.get("config") or {}, _SETTINGS)
    variables = [
        variable
        for variable in settings.get("Env", ())
        if variable.partition("=")[0] != MANIFEST_VARIABLE
    ]
    settings |= {
        "Entrypoint": [ENTRYPOINT],
        "WorkingDir": WORKDIR,
        "Env": [*variables, f"{MANIFEST_VARIABLE}={sources.manifest}"],
    }
    if labels := {**base.config.labels, **labels}:
        settings["Labels"] = dict(labels)
    new = (*sources.diff_ids, *(layer.diff_id for layer in extractor))
    kept = _typed(base.document, _KEPT)
    time = created or base.config.created or _NO_TIME
    return {
        **kept,
        "created": time,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [*base.config.diff_ids, *new]},
        "history": [*_base_history(base), *({"created": time} for _ in new)],
    }


def _typed(document: Mapping[str, Any], types: Mapping[str, type]) -> dict[str, Any]:
    """Return the properties of a document from outside that have these types, and are not empty."""
    return {
        key: document[key]
        for key, kind in types.items()
        if document.get(key) and type(document[key]) is kind
    }


def _base_history(base: BaseImage) -> list[Any]:
    """Return the base's history, or a plain one if that does not fit its layers."""
    history = base.document.get("history") or []
    if sum(not entry.get("empty_layer") for entry in history) == len(base.layers):
        return [_typed(entry, _HISTORY) for entry in history]
    return [{"created": _NO_TIME} for _ in base.layers]


def _manifest(
    base: BaseImage,
    sources: Sources,
    extractor: Sequence[StagedLayer],
    config: bytes,
    replaces: str,
) -> dict[str, Any]:
    """Return an image manifest (OCI image specification, manifest.md)."""
    annotations = {MANIFEST_ANNOTATION: str(sources.manifest)}
    for staged in extractor:
        annotations[EXTRACTOR_ANNOTATION] = staged.layer.digest
    if base.source:
        annotations[BASE_DIGEST_ANNOTATION] = base.source.rpartition("@")[2]
        annotations[BASE_NAME_ANNOTATION] = base.name
    if replaces:
        annotations[REPLACES_ANNOTATION] = replaces
    layers = (*base.layers, *sources.layers, *(staged.layer for staged in extractor))
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [_descriptor(layer) for layer in layers],
        "annotations": annotations,
    }


def _descriptor(layer: Layer) -> dict[str, Any]:
    media_type = GZIP_LAYER if layer.media_type == _DOCKER_LAYER else layer.media_type
    return {"mediaType": media_type, "digest": layer.digest, "size": layer.size}


def _platform(base: BaseImage) -> dict[str, Any]:
    document = base.document
    named = {key: document[key] for key in ("architecture", "os", "variant") if document.get(key)}
    return dict(sorted(named.items()))


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
