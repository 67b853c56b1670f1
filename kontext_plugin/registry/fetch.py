"""Read an image of Kontext's from a registry: its layers, its manifest, its history.

Nothing from a registry is trusted: `fetch` returns an image whose manifest is valid, or raises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

from kontext_plugin import manifest
from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import (
    Digest,
    Image,
    ImageConfig,
    config_from_document,
    digest_of,
    image_from_document,
    is_index,
)
from kontext_plugin.image.reference import Reference
from kontext_plugin.layer.reader import Budget, read_documents, take_manifest
from kontext_plugin.manifest import MAX_READ, Manifest, part_name
from kontext_plugin.runtime.schema import (
    IMAGE_CONFIG,
    IMAGE_MANIFEST,
    InvalidDocument,
    check_document,
    load_document,
    parse_json,
)


class InvalidImage(KontextError):
    """An image that is not one of Kontext's, or cannot be trusted; `reason` says why."""

    def __init__(self, name: Reference, reason: str) -> None:
        super().__init__(
            f"{name} is not an image of Kontext's: {reason}",
            hint="Name an image that 'docker kontext push' has made, of a single platform.",
        )
        self.reason = reason


@dataclass(frozen=True)
class KontextImage:
    """An image with the sources that its manifest lists."""

    image: Image
    manifest: Manifest
    config: ImageConfig | None = None  # None: fetched without history, or version 1
    known: frozenset[Digest] = frozenset()  # ancestors that this machine has made or checked
    is_cached: bool = False  # from this machine's cache


def fetch(
    crane: Crane, requests: Executor, name: Reference, *, with_history: bool = False
) -> KontextImage:
    """Return the image `name`, all of it from the registry.

    With history, its configuration and the reverse deltas of its ancestors are read, too: what a
    push needs to build on it. Raises RegistryError and InvalidImage.
    """
    document = crane.manifest(str(name))
    return fetch_by_document(crane, requests, name, document, with_history=with_history)


def fetch_by_document(
    crane: Crane,
    requests: Executor,
    name: Reference,
    document: bytes,
    *,
    with_history: bool = False,
) -> KontextImage:
    """Return the image whose manifest document was read already, otherwise as `fetch`."""
    try:
        image = parse_image(document)
        held = _fetch_manifest(crane, requests, name, image, with_history)
        if held.lineage is None:
            return KontextImage(image, held)
        if image.manifest is None:
            raise ValueError("it has lost the annotation that vouches for its manifest")
        if not with_history:
            return KontextImage(image, held)
        return KontextImage(image, held, fetch_config(crane, name.at(image.digest)))
    except ValueError as error:  # InvalidDocument, InvalidManifest, a damaged layer
        raise InvalidImage(name, str(error)) from error


def fetch_config(crane: Crane, name: str) -> ImageConfig:
    """Return an image's configuration. Raises RegistryError and InvalidDocument."""
    return config_from_document(load_document(crane.config(name), IMAGE_CONFIG))


def fetch_layers(crane: Crane, name: str) -> frozenset[Digest]:
    """Return an image's layers; none where it cannot be read, or is an index."""
    try:
        return frozenset(layer.digest for layer in parse_image(crane.manifest(name)).layers)
    except (RegistryError, InvalidDocument):
        return frozenset()


def parse_image(document: bytes) -> Image:
    """Return the image that a manifest document describes. Raises InvalidDocument."""
    parsed = parse_json(document)
    if is_index(parsed):
        raise InvalidDocument("it is an index of several platforms")
    check_document(parsed, IMAGE_MANIFEST)
    return image_from_document(digest_of(document), parsed)


def _fetch_manifest(
    crane: Crane, requests: Executor, name: Reference, image: Image, with_history: bool
) -> Manifest:
    """Read the manifest off the heads of the layers that have its parts.

    Raises ValueError, also where the image's annotation names another manifest.
    """
    if not image.layers:
        raise ValueError("it has no layers")
    top = len(image.layers) - 1
    budget = Budget(MAX_READ)

    with _documents(crane, name, image, top, budget) as documents:
        content = take_manifest(documents)
        if image.manifest not in (None, digest_of(content)):
            raise ValueError("its manifest is not the one that the image names")
        root = manifest.read_root(content)
        wanted = _parts_by_layer(root, top, with_history)
        parts = _take_parts(documents, wanted.pop(top, set()))

    def read(number: int) -> dict[Digest, bytes]:
        with _documents(crane, name, image, number, budget) as documents:
            return _take_parts(documents, wanted[number])

    for more in requests.map(read, sorted(wanted)):
        parts |= more
    return manifest.decode(root, parts)


@contextlib.contextmanager
def _documents(
    crane: Crane, name: Reference, image: Image, number: int, budget: Budget
) -> Iterator[Iterator[tuple[str, bytes]]]:
    """Open the documents at the head of one layer."""
    layer = image.layers[number]
    with crane.blob(name.at(layer.digest)) as blob:
        yield read_documents(blob, layer, budget)


def _parts_by_layer(root: manifest.Root, top: int, with_history: bool) -> dict[int, set[Digest]]:
    """Return the parts to read of each layer. Raises ValueError for a layer that is not there."""
    wanted: dict[int, set[Digest]] = {}
    for part in (*root.listing, *(root.reverse_deltas if with_history else ())):
        wanted.setdefault(part.layer, set()).add(part.digest)
    if wanted and max(wanted) > top:
        raise ValueError("it lists a part in a layer that it does not have")
    return wanted


def _take_parts(documents: Iterator[tuple[str, bytes]], wanted: set[Digest]) -> dict[Digest, bytes]:
    """Return the parts with these digests; read no further than needed. Raises ValueError."""
    missing = {part_name(digest): digest for digest in wanted}
    taken: dict[Digest, bytes] = {}
    while missing:
        name, content = next(documents, ("", b""))
        if not name:
            raise ValueError("a part of its manifest is missing")
        if digest := missing.pop(name, None):
            taken[digest] = content
    return taken
