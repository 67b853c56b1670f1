"""How a command that changes nothing reads an image from the registry.

Reads what a registry holds: the state a push starts from. None of it is trusted unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from kontext_plugin import manifest
from kontext_plugin.crane import Crane
from kontext_plugin.crane_driver.errors import RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image.oci import (
    Digest,
    Image,
    digest_of,
    image_from_document,
    is_index,
    settings_of,
)
from kontext_plugin.image.reference import Reference
from kontext_plugin.layer.reader import Budget, manifest_of, read_documents
from kontext_plugin.manifest import MAX_READ, Manifest, canonical
from kontext_plugin.runtime.schema import (
    IMAGE_CONFIG,
    IMAGE_MANIFEST,
    MANIFEST_PART,
    MANIFEST_UNDO,
    InvalidDocument,
    check_document,
    load_document,
    load_manifest,
    parse_json,
)


@dataclass(frozen=True)
class KontextImage:
    """The image under the tag, with the sources it says it holds."""

    image: Image
    manifest: Manifest
    settings: Mapping[str, Any] | None = None  # None: as this machine published them
    known: frozenset[Digest] = frozenset()  # ancestors that this machine has made or looked at


def fetch(crane: Crane, threads: Executor, name: Reference) -> KontextImage:
    """The image `name` with its sources, all of it from the registry.

    Raises RegistryError, and KontextError where it is not an image of Kontext's.
    """
    document = crane.manifest(str(name))
    try:
        return fetch_document(crane, threads, name, document)
    except ValueError as error:
        raise KontextError(
            f"{name} is not an image of Kontext's: {error}",
            hint="Name one that 'docker kontext push' has made, of a single platform.",
        ) from error


def fetch_document(
    crane: Crane, threads: Executor, name: Reference, document: bytes
) -> KontextImage:
    """Raises RegistryError and ValueError, InvalidDocument and InvalidManifest among them."""
    found = parse_image_manifest(document)
    held = _fetch_manifest(crane, threads, name, found)
    if held.lineage is None:
        return KontextImage(found, held)
    if found.manifest is None:
        raise ValueError("it has lost the annotation that vouches for its manifest")
    config = load_document(crane.config(name.at(found.digest)), IMAGE_CONFIG)
    return KontextImage(found, held, settings_of(config))


def layers_of(crane: Crane, name: str) -> frozenset[Digest]:
    """The layers of an image by its name; none where it cannot be read, or is an index."""
    try:
        return frozenset(
            layer.digest for layer in parse_image_manifest(crane.manifest(name)).layers
        )
    except (RegistryError, InvalidDocument):
        return frozenset()


def parse_image_manifest(document: bytes) -> Image:
    """Raises InvalidDocument."""
    parsed = parse_json(document)
    if is_index(parsed):
        raise InvalidDocument("it is an index of several platforms")
    check_document(parsed, IMAGE_MANIFEST)
    return image_from_document(digest_of(document), parsed)


def _fetch_manifest(crane: Crane, threads: Executor, name: Reference, found: Image) -> Manifest:
    """The image's manifest with its parts; where the image names its digest, it is that one.

    Raises ValueError.
    """
    if not found.layers:
        raise ValueError("it has no layers")
    top = len(found.layers) - 1
    budget = Budget(MAX_READ)
    with crane.blob(name.at(found.layers[top].digest)) as layer:
        documents = read_documents(layer, budget)
        content = manifest_of(documents)
        if found.manifest not in (None, digest_of(content)):
            raise ValueError("its manifest is not the one that the image names")
        document = load_manifest(content)
        wanted: dict[int, set[Digest]] = {}
        listed, undos = manifest.parts_of(document), manifest.reverse_parts_of(document)
        for part in (*listed, *undos):
            wanted.setdefault(part.layer, set()).add(part.digest)
        if wanted and max(wanted) > top:
            raise ValueError("it lists a part in a layer that it does not have")
        parts = _take_parts(documents, wanted.pop(top, set()))

    def read(number: int) -> dict[Digest, bytes]:
        with crane.blob(name.at(found.layers[number].digest)) as layer:
            return _take_parts(read_documents(layer, budget), wanted[number])

    for more in threads.map(read, sorted(wanted)):
        parts |= more
    former = {part.digest: load_document(parts[part.digest], MANIFEST_UNDO) for part in undos}
    return manifest.decode(document, (_piece(parts.pop(part.digest)) for part in listed), former)


def _piece(content: bytes) -> Mapping[str, Any]:
    """A part of the listing. Later images take it over as it is, so it must be as we write it."""
    piece = load_document(content, MANIFEST_PART)
    if canonical(piece) != content:
        raise ValueError("a part of its manifest is not canonical")
    return piece


def _take_parts(documents: Iterator[tuple[str, bytes]], wanted: set[Digest]) -> dict[Digest, bytes]:
    """The parts of these digests; reads no further than it must. Raises ValueError."""
    missing = {manifest.part_name(digest): digest for digest in wanted}
    taken: dict[Digest, bytes] = {}
    while missing:
        name, content = next(documents, ("", b""))
        if not name:
            raise ValueError("a part of its manifest is missing")
        digest = missing.pop(name, None)
        if digest:
            if digest_of(content) != digest:
                raise ValueError("a part of its manifest is damaged")
            taken[digest] = content
    return taken
