"""Reads what a registry holds: the state a push starts from. None of it is trusted unseen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from typing import Any

from kontext_plugin import base, delta, image, listing, manifest, schema
from kontext_plugin.base_choice import Fresh, Previous, Reuse, Wanted, lineage_of
from kontext_plugin.cache import Cache
from kontext_plugin.crane import Crane
from kontext_plugin.crane_errors import Damaged, NotFound, Refused, RegistryError
from kontext_plugin.errors import KontextError
from kontext_plugin.image import Digest, Image
from kontext_plugin.manifest import MAX_READ, Manifest
from kontext_plugin.reference import Reference, repository_of


def previous(crane: Crane, threads: Executor, cache: Cache, tag: Reference) -> Previous | Fresh:
    """The image under `tag` with its sources, or why there is none to build on.

    Raises RegistryError if the registry cannot be asked.
    """
    try:
        document = crane.manifest(str(tag))
    except NotFound:
        return Fresh("there is no image under the tag yet")
    except Refused:
        # Some registries refuse to read what does not exist yet. If they refuse writing as well,
        # the first request of the push tells.
        return Fresh(f"{tag.registry} refuses to show the tag", refused=True)
    known = cache.published(str(tag), image.digest_of(document))
    if known is not None:
        return known
    try:
        return _previous(crane, threads, tag, document)
    except NotFound:
        return Fresh("a part of the image is gone from the registry")
    except Damaged:
        return Fresh("a part of the image is damaged in the registry")
    except ValueError as error:
        return Fresh(f"the image under the tag is not one to build on: {error}")


def read(crane: Crane, threads: Executor, name: Reference) -> Previous:
    """The image `name` with its sources, all of it from the registry.

    Raises RegistryError, and KontextError where it is not an image of Kontext's.
    """
    document = crane.manifest(str(name))
    try:
        return _previous(crane, threads, name, document)
    except ValueError as error:
        raise KontextError(
            f"{name} is not an image of Kontext's: {error}",
            hint="Name one that 'docker kontext push' has made, of a single platform.",
        ) from error


def _previous(crane: Crane, threads: Executor, name: Reference, document: bytes) -> Previous:
    """Raises RegistryError and ValueError, InvalidDocument and InvalidManifest among them."""
    found = _image(document)
    held = _manifest(crane, threads, name, found)
    if held.lineage is None:
        return Previous(found, held)
    if found.manifest is None:
        raise ValueError("it has lost the annotation that vouches for its manifest")
    config = schema.load(crane.config(name.at(found.digest)), schema.IMAGE_CONFIG)
    return Previous(found, held, image.settings_of(config))


def ancestor_problem(
    crane: Crane, threads: Executor, tag: Reference, choice: Reuse, wanted: Wanted
) -> str:
    """Why the ancestor of `choice` cannot be built on, if it cannot.

    Its layers and configuration must be those that the image under the tag has taken over.
    Raises RegistryError if the registry cannot be asked.
    """
    name = tag.at(choice.image)
    try:
        if choice.image in choice.previous.known:
            crane.digest(name)
            return ""
        asked = threads.submit(crane.config, name)
        found = _image(crane.manifest(name))
        settings = image.settings_of(schema.load(asked.result(), schema.IMAGE_CONFIG))
    except NotFound:
        return "the registry does not have it"
    except (Damaged, ValueError):
        return "the registry has something else in its place"
    labels = lineage_of(choice.previous).labels  # the ancestor may have fewer, and other values
    own = {key: value for key, value in settings.get("Labels", {}).items() if key in labels}
    if found.layers != choice.layers or settings != wanted.settings(own):
        return "it is not what a later image says of it"
    return ""


def layers_of(crane: Crane, name: str) -> frozenset[Digest]:
    """The layers of an image by its name; none where it cannot be read, or is an index."""
    try:
        return frozenset(layer.digest for layer in _image(crane.manifest(name)).layers)
    except (RegistryError, schema.InvalidDocument):
        return frozenset()


def custom_base(crane: Crane, name: str, platform: str, max_layers: int) -> base.Base:
    """The image `name` as a base for `platform`. Raises KontextError."""
    source = f"{repository_of(name)}@{crane.digest(name, platform)}"
    try:
        found = _image(crane.manifest(source))
        config = schema.load(crane.config(source), schema.IMAGE_CONFIG)
    except schema.InvalidDocument as error:
        raise KontextError(f"{name} cannot be a base: {error}") from error
    settings = image.settings_of(config)
    if settings["platform"] == "/":
        raise KontextError(
            f"{name} cannot be a base: it does not say its platform",
            hint=f"'crane mutate --set-platform {platform} {name}' lets it say so.",
        )
    if settings["platform"] != platform:
        raise KontextError(
            f"{name} is for {settings['platform']}, not {platform}",
            hint="Name the base's own platform with --platform, or another base.",
        )
    # An image that was built from one of Kontext's has lost the annotation.
    if found.manifest or settings.get("Entrypoint") == [base.ENTRYPOINT]:
        raise KontextError(
            f"{name} cannot be a base: it has sources of its own, which would show beside yours",
            hint="Name the image that it was built on.",
        )
    if len(found.layers) + 2 > max_layers:
        raise KontextError(
            f"{name} has {len(found.layers)} layers; with the extractor and the sources that is "
            f"more than {max_layers}",
            hint=f"Choose a base of at most {max_layers - 2} layers, or another --max-layers.",
        )
    return base.upon(found, settings, source, platform)


def _image(document: bytes) -> Image:
    """Raises InvalidDocument."""
    parsed = schema.parse(document)
    if image.is_index(parsed):
        raise schema.InvalidDocument("it is an index of several platforms")
    schema.check(parsed, schema.IMAGE_MANIFEST)
    return image.from_document(image.digest_of(document), parsed)


def _manifest(crane: Crane, threads: Executor, name: Reference, found: Image) -> Manifest:
    """The image's manifest with its parts; where the image names its digest, it is that one.

    Raises ValueError.
    """
    if not found.layers:
        raise ValueError("it has no layers")
    top = len(found.layers) - 1
    budget = delta.Budget(MAX_READ)
    with crane.blob(name.at(found.layers[top].digest)) as layer:
        documents = delta.documents(layer, budget)
        content = delta.manifest_of(documents)
        if found.manifest not in (None, image.digest_of(content)):
            raise ValueError("its manifest is not the one that the image names")
        document = schema.load_manifest(content)
        wanted: dict[int, set[Digest]] = {}
        listed, undos = manifest.parts_of(document), manifest.undo_parts_of(document)
        for part in (*listed, *undos):
            wanted.setdefault(part.layer, set()).add(part.digest)
        if wanted and max(wanted) > top:
            raise ValueError("it lists a part in a layer that it does not have")
        parts = _taken(documents, wanted.pop(top, set()))

    def read(number: int) -> dict[Digest, bytes]:
        with crane.blob(name.at(found.layers[number].digest)) as layer:
            return _taken(delta.documents(layer, budget), wanted[number])

    for more in threads.map(read, sorted(wanted)):
        parts |= more
    former = {part.digest: schema.load(parts[part.digest], schema.MANIFEST_UNDO) for part in undos}
    return manifest.decode(document, (_piece(parts.pop(part.digest)) for part in listed), former)


def _piece(content: bytes) -> Mapping[str, Any]:
    """A part of the listing. Later images take it over as it is, so it must be as we write it."""
    piece = schema.load(content, schema.MANIFEST_PART)
    if listing.canonical(piece) != content:
        raise ValueError("a part of its manifest is not canonical")
    return piece


def _taken(documents: Iterator[tuple[str, bytes]], wanted: set[Digest]) -> dict[Digest, bytes]:
    """The parts of these digests; reads no further than it must. Raises ValueError."""
    missing = {manifest.part_name(digest): digest for digest in wanted}
    taken: dict[Digest, bytes] = {}
    while missing:
        name, content = next(documents, ("", b""))
        if not name:
            raise ValueError("a part of its manifest is missing")
        digest = missing.pop(name, None)
        if digest:
            if image.digest_of(content) != digest:
                raise ValueError("a part of its manifest is damaged")
            taken[digest] = content
    return taken
