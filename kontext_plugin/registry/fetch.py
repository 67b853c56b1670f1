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
    Layer,
    children_of,
    config_from_document,
    digest_of,
    image_from_document,
    is_index,
)
from kontext_plugin.image.reference import Reference
from kontext_plugin.image.spec import LAYER_LIMIT, REVISION
from kontext_plugin.layer.reader import Budget, first_name, read_documents, take_manifest
from kontext_plugin.manifest import MAX_READ, VERSION, Lineage, Manifest, part_name
from kontext_plugin.runtime.schema import (
    IMAGE_CONFIG,
    IMAGE_INDEX,
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
            hint="Name an image that 'docker kontext push' has made.",
        )
        self.reason = reason


@dataclass(frozen=True)
class KontextImage:
    """An image with the sources that its manifest lists; of an index, the image of one platform."""

    digest: Digest  # of what the name shows: the image, or the index that it is in
    image: Image
    manifest: Manifest
    config: ImageConfig | None = None  # None: fetched without history
    platforms: tuple[str, ...] = ()  # of the index; (): it is in none
    is_cached: bool = False  # from this machine's cache

    @property
    def height(self) -> int:
        """The number of layers below those of sources."""
        return _manifest_layer(self.image) - len(self.lineage.layers)

    @property
    def sources(self) -> tuple[Layer, ...]:
        """The layers of sources, lowest first. The top one has the manifest."""
        return self.image.layers[max(self.height, 0) : _manifest_layer(self.image) + 1]

    @property
    def lineage(self) -> Lineage:
        """The manifest's lineage; a version 1 manifest has none of its own."""
        return self.manifest.lineage or Lineage()

    @property
    def is_single_layer(self) -> bool:
        """Whether one layer has the sources and the extractor."""
        return len(self.image.layers) == 1

    @property
    def is_intact(self) -> bool:
        """Whether the layers of sources are those that the manifest names."""
        lower = tuple(layer.digest for layer in self.sources[:-1])
        return self.height >= 0 and lower == self.lineage.layers

    @property
    def sources_key(self) -> Digest:
        """A digest of all that a push takes over of the layers of sources.

        The top layer has the manifest, so equal keys mean equal sources. Needs the configuration.
        """
        diff_ids = self.config.diff_ids[max(self.height, 0) :] if self.config else ()
        facts = [(one.digest, one.size, one.media_type) for one in self.sources]
        return digest_of(repr((facts, diff_ids[: len(facts)])).encode())

    @property
    def revision(self) -> str:
        """The git commit that the image's label names; "" if none, or fetched without history."""
        return self.config.labels.get(REVISION, "") if self.config else ""

    @property
    def all_platforms(self) -> tuple[str, ...]:
        """The platforms that the name has images for; needs the configuration unless an index."""
        return self.platforms or ((self.config.platform,) if self.config else ())


def fetch(
    crane: Crane, requests: Executor, name: Reference, *, with_history: bool = False
) -> KontextImage:
    """Return the image `name`, all of it from the registry. Of an index, any image will do.

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
        digest = digest_of(document)
        platforms: tuple[str, ...] = ()
        if is_index(parsed := parse_json(document)):
            check_document(parsed, IMAGE_INDEX)
            children = children_of(parsed)
            if not children:
                raise ValueError("it is an index without images")
            platforms = tuple(sorted(children))
            document = crane.manifest(name.at(children[platforms[0]]))
        image = parse_image(document)
        held = _fetch_manifest(crane, requests, name, image, with_history)
        config = None
        if held.lineage is not None:
            if image.manifest is None:
                raise ValueError("it has lost the annotation that vouches for its manifest")
            if with_history:
                config = fetch_config(crane, name, image)
        return KontextImage(digest, image, held, config, platforms)
    except ValueError as error:  # InvalidDocument, InvalidManifest, a damaged layer
        raise InvalidImage(name, str(error)) from error


def fetch_config(crane: Crane, name: Reference, image: Image) -> ImageConfig:
    """Return the configuration of the image `name`, or of one of its platforms.

    Raises RegistryError and InvalidImage.
    """
    try:
        return config_from_document(
            load_document(crane.config(name.at(image.digest)), IMAGE_CONFIG)
        )
    except InvalidDocument as error:
        raise InvalidImage(name, f"its configuration is invalid: {error}") from error


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


def _manifest_layer(image: Image) -> int:
    """Return the number of the layer that has the manifest: the top one, below the extractor's."""
    return len(image.layers) - (2 if image.extractor else 1)


def _fetch_manifest(
    crane: Crane, requests: Executor, name: Reference, image: Image, with_history: bool
) -> Manifest:
    """Read the manifest off the heads of the layers that have its parts.

    Raises ValueError, also where the image's annotation names another manifest.
    """
    top = _manifest_layer(image)
    if top < 0:
        raise ValueError("it has no layers of sources")
    budget = Budget(MAX_READ)

    with _documents(crane, name, image, top, budget) as documents:
        content = take_manifest(documents)
        if image.manifest not in (None, digest_of(content)):
            raise ValueError("its manifest is not the one that the image names")
        root = manifest.read_root(content)
        height = top - len(root.document.get("layers", ())) if root.version == VERSION else 0
        wanted = _parts_by_layer(root, height, top, with_history)
        parts = _take_parts(documents, wanted.pop(top, set()), budget)

    def read(number: int) -> dict[Digest, bytes]:
        with _documents(crane, name, image, number, budget) as documents:
            return _take_parts(documents, wanted[number], budget)

    for more in requests.map(read, sorted(wanted)):
        parts |= more
    held = manifest.decode(root, parts)
    if root.version == _COUNTS_BASE:
        return manifest.without_base(held, _base_height(crane, name, image, root))
    return held


_COUNTS_BASE = 2
"""The version of the manifest that numbers the base's layers as well."""


def _base_height(crane: Crane, name: Reference, image: Image, root: manifest.Root) -> int:
    """Return the number of layers below the sources of a version 2 image: up to the extractor's."""
    if not root.document["layers"]:  # --single-layer
        return 0
    if root.document["base"] == root.document["extractor"]:  # the shipped base, of one layer
        return 1
    for number, layer in enumerate(image.layers[:LAYER_LIMIT]):
        # A layer that cannot be read here is one of a user's base.
        with contextlib.suppress(ValueError), crane.blob(name.at(layer.digest)) as blob:
            if first_name(blob, layer) == _EXTRACTOR:
                return number + 1
    raise ValueError("none of its layers has the extractor")


_EXTRACTOR = "kontext-extractor"


@contextlib.contextmanager
def _documents(
    crane: Crane, name: Reference, image: Image, number: int, budget: Budget
) -> Iterator[Iterator[tuple[str, bytes]]]:
    """Open the documents at the head of one layer."""
    layer = image.layers[number]
    with crane.blob(name.at(layer.digest)) as blob:
        yield read_documents(blob, layer, budget)


def _parts_by_layer(
    root: manifest.Root, height: int, top: int, with_history: bool
) -> dict[int, set[Digest]]:
    """Return the parts to read of each layer of the image, whose parts are numbered from `height`.

    Raises ValueError for a layer that is not there.
    """
    wanted: dict[int, set[Digest]] = {}
    for part in (*root.listing, *(root.reverse_deltas if with_history else ())):
        wanted.setdefault(height + part.layer, set()).add(part.digest)
    if wanted and not 0 <= min(wanted) <= max(wanted) <= top:
        raise ValueError("it lists a part in a layer that it does not have")
    return wanted


def _take_parts(
    documents: Iterator[tuple[str, bytes]], wanted: set[Digest], budget: Budget
) -> dict[Digest, bytes]:
    """Return the parts with these digests; read no further than needed. Raises ValueError."""
    missing = {part_name(digest): digest for digest in wanted}
    taken: dict[Digest, bytes] = {}
    while missing:
        name, content = next(documents, ("", b""))
        if not name:
            raise ValueError("a part of its manifest is missing")
        if digest := missing.pop(name, None):
            budget.keep(content)
            taken[digest] = content
    return taken
